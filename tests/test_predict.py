"""Prediction for any recording: the probabilities of the evaluation for its clips, and over time for a long one."""

import numpy as np
import pytest
import soundfile
import tiny
import torch

from esc_lib import evaluate, load_clips, load_run, train
from esc_lib.evaluation.predict import predict


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A network trained on tones, its run directory and its data."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("predict")
        tiny.register(patch)
        patch.setenv("ESC_DATA", str(tiny.write_set(folder / "data", tiny.tones())))
        patch.setenv("ESC_RUNS", str(folder / "runs"))
        run = train(tiny.config(epochs=12, batch_size=4, crops=10, eval_every=12), device="cpu")
        yield run, folder


def tone(target, samples, rate=tiny.RATE):
    return 0.5 * np.sin(2 * np.pi * (40 + 42 * target) * np.arange(samples) / rate)


@pytest.fixture
def predict_sound(here):
    """Writes a sound as `file` and predicts it."""
    run, folder = here

    def write_and_predict(sound, file="sound.wav", rate=tiny.RATE, run=run, **settings):
        soundfile.write(folder / file, sound, rate)
        return predict(run, folder / file, device="cpu", **settings)

    return write_and_predict


def classes():
    return load_clips("synthetic", tiny.RATE, folds=(3,)).classes


def test_a_clip_gets_the_probabilities_of_its_evaluation(here, predict_sound):
    clips = load_clips("synthetic", tiny.RATE, folds=(3,))
    predictions = evaluate(here[0].path, device="cpu").predictions.filter(like="p_")
    for i in range(0, len(clips), 3):  # some with silence around them, which is trimmed
        top = predict_sound(clips.waveform(i).numpy(), top=10).top.set_index("class")["probability"]
        expected = predictions.iloc[i].astype(float)
        names = [name.removeprefix("p_") for name in expected.index]
        assert top[names].tolist() == pytest.approx(list(expected), abs=1e-6)


def test_the_most_probable_classes_come_first(here, predict_sound):
    found = predict_sound(tone(7, 300), run=here[0].path, top=3)
    assert found.top["class"][0] == classes()[7]
    assert len(found.top) == 3 and found.top["probability"].is_monotonic_decreasing
    assert found.seconds == pytest.approx(0.3)
    assert found.windows.sum(axis="columns").to_numpy() == pytest.approx(1, abs=1e-5)


def test_windows_give_the_classes_over_time(predict_sound):
    """Ten seconds, a hundred times a window, with two changes of class."""
    windows = predict_sound(np.concatenate([tone(1, 4000), tone(8, 2000), tone(4, 4000)])).windows
    seconds, predicted = windows.index.to_numpy(), windows.to_numpy().argmax(axis=1)
    assert seconds[0] == pytest.approx(0, abs=0.01) and seconds[-1] == pytest.approx(10, abs=0.25)
    assert np.diff(seconds).max() <= tiny.LENGTH / tiny.RATE / 2 + 1e-9
    for target, start, end in [(1, 0.1, 3.9), (8, 4.1, 5.9), (4, 6.1, 9.7)]:
        assert (predicted[(seconds > start) & (seconds < end)] == target).mean() > 0.95


def test_the_time_axis_includes_trimmed_silence(predict_sound):
    seconds = predict_sound(np.concatenate([np.zeros(2000), tone(8, 1000), np.zeros(500)])).windows.index
    assert seconds.min() == pytest.approx(2, abs=0.01) and seconds.max() == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(("name", "rate", "channels"), [("a.flac", 1000, 2), ("b.wav", 8000, 1), ("c.ogg", 16000, 2)])
def test_other_formats_rates_and_channels(predict_sound, name, rate, channels):
    found = predict_sound(np.repeat(tone(6, rate, rate)[:, None], channels, axis=1), name, rate)
    assert found.top["class"][0] == classes()[6]
    assert found.seconds == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("samples", [1, 30, 5000])
def test_silence_and_the_shortest_recordings_get_probabilities(predict_sound, samples):
    top = predict_sound(np.zeros(samples), top=10).top
    assert top["probability"].sum() == pytest.approx(1, abs=1e-5)


def test_quiet_windows_are_left_out_if_the_run_says_so(here, predict_sound):
    run = here[0]
    selective = load_run(run.path)
    object.__setattr__(selective.config, "min_peak", 0.1)
    sound = np.concatenate([tone(2, 300), 0.01 * tone(9, 3000)])
    loud, every = (predict_sound(sound, run=of, top=10) for of in (selective, run))
    best = classes()[2]
    audible = every.windows.index < 0.3 + tiny.LENGTH / tiny.RATE / 2
    for found, windows in ((loud, every.windows[audible]), (every, every.windows)):
        of_best = found.top.set_index("class")["probability"][best]
        assert of_best == pytest.approx(windows[best].mean(), abs=1e-5)
    assert loud.top["class"][0] == best


def test_missing_files_other_files_and_unknown_checkpoints_are_refused(here, predict_sound):
    run, folder = here
    with pytest.raises(FileNotFoundError, match="nowhere.wav is not there"):
        predict(run, folder / "nowhere.wav")
    (folder / "text.wav").write_text("no sound", encoding="utf-8")
    with pytest.raises(ValueError, match="text.wav cannot be decoded"):
        predict(run, folder / "text.wav")
    with pytest.raises(ValueError, match="no checkpoint 'first'"):
        predict_sound(tone(1, 300), checkpoint="first")
    assert torch.is_grad_enabled()
