"""Listening to any recording: the same answer as the evaluation's for a clip of it, and in time for a long one."""

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


def test_a_clip_gets_the_probabilities_of_its_evaluation(here):
    run, folder = here
    clips = load_clips("synthetic", tiny.RATE, folds=(3,))
    predictions = evaluate(run.path, device="cpu").predictions
    for i in range(0, len(clips), 3):  # some with silence around them, which is trimmed
        file = folder / "clip.wav"
        soundfile.write(file, clips.waveform(i).numpy(), tiny.RATE, subtype="PCM_16")
        top = predict(run, file, top=10, device="cpu").top.set_index("class")["probability"]
        expected = predictions.filter(like="p_").iloc[i].astype(float)
        assert top[[name.removeprefix("p_") for name in expected.index]].tolist() == pytest.approx(
            list(expected), abs=1e-6
        )


def test_the_most_probable_classes_come_first(here):
    run, folder = here
    soundfile.write(folder / "tone.wav", tone(7, 300), tiny.RATE)
    classes = load_clips("synthetic", tiny.RATE, folds=(3,)).classes
    found = predict(run.path, folder / "tone.wav", top=3, device="cpu")
    assert found.top["class"][0] == classes[7]
    assert len(found.top) == 3 and found.top["probability"].is_monotonic_decreasing
    assert found.seconds == pytest.approx(0.3)
    assert found.windows.sum(axis="columns").to_numpy() == pytest.approx(1, abs=1e-5)


def test_windows_tell_when(here):
    """Ten seconds, a hundred times a window: what sounds changes twice."""
    run, folder = here
    soundfile.write(folder / "long.wav", np.concatenate([tone(1, 4000), tone(8, 2000), tone(4, 4000)]), tiny.RATE)
    windows = predict(run, folder / "long.wav", device="cpu").windows
    seconds, heard = windows.index.to_numpy(), windows.to_numpy().argmax(axis=1)
    assert seconds[0] == pytest.approx(0, abs=0.01) and seconds[-1] == pytest.approx(10, abs=0.25)
    assert np.diff(seconds).max() <= tiny.LENGTH / tiny.RATE / 2 + 1e-9
    for target, start, end in [(1, 0.1, 3.9), (8, 4.1, 5.9), (4, 6.1, 9.7)]:
        assert (heard[(seconds > start) & (seconds < end)] == target).mean() > 0.95


def test_the_time_axis_counts_trimmed_silence(here):
    run, folder = here
    soundfile.write(folder / "late.wav", np.concatenate([np.zeros(2000), tone(8, 1000), np.zeros(500)]), tiny.RATE)
    seconds = predict(run, folder / "late.wav", device="cpu").windows.index
    assert seconds.min() == pytest.approx(2, abs=0.01) and seconds.max() == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(("name", "rate", "channels"), [("a.flac", 1000, 2), ("b.wav", 8000, 1), ("c.ogg", 16000, 2)])
def test_other_formats_rates_and_channels(here, name, rate, channels):
    run, folder = here
    sound = np.repeat(tone(6, rate, rate)[:, None], channels, axis=1)
    soundfile.write(folder / name, sound, rate)
    found = predict(run, folder / name, device="cpu")
    assert found.top["class"][0] == load_clips("synthetic", tiny.RATE, folds=(3,)).classes[6]
    assert found.seconds == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("samples", [1, 30, 5000])
def test_silence_and_the_shortest_recordings_get_an_answer(here, samples):
    run, folder = here
    soundfile.write(folder / "silence.wav", np.zeros(samples), tiny.RATE)
    top = predict(run, folder / "silence.wav", top=10, device="cpu").top
    assert top["probability"].sum() == pytest.approx(1, abs=1e-5)


def test_quiet_windows_do_not_vote_where_the_run_says_so(here):
    run, folder = here
    choosy = load_run(run.path)
    object.__setattr__(choosy.config, "min_peak", 0.1)
    soundfile.write(folder / "mixed.wav", np.concatenate([tone(2, 300), 0.01 * tone(9, 3000)]), tiny.RATE)
    loud, every = (predict(of, folder / "mixed.wav", top=10, device="cpu") for of in (choosy, run))
    best = load_clips("synthetic", tiny.RATE, folds=(3,)).classes[2]
    heard = every.windows.index < 0.3 + tiny.LENGTH / tiny.RATE / 2
    for found, windows in ((loud, every.windows[heard]), (every, every.windows)):
        of_best = found.top.set_index("class")["probability"][best]
        assert of_best == pytest.approx(windows[best].mean(), abs=1e-5)
    assert loud.top["class"][0] == best


def test_what_cannot_be_heard_is_refused(here):
    run, folder = here
    with pytest.raises(FileNotFoundError, match="nowhere.wav is not there"):
        predict(run, folder / "nowhere.wav")
    (folder / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match="text.wav cannot be decoded"):
        predict(run, folder / "text.wav")
    with pytest.raises(ValueError, match="no checkpoint 'first'"):
        soundfile.write(folder / "tone.wav", tone(1, 300), tiny.RATE)
        predict(run, folder / "tone.wav", checkpoint="first")
    assert torch.is_grad_enabled()
