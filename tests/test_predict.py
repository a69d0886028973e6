"""Prediction for any recording: the probabilities of the evaluation for its clips, and over time for a long one."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr
import tiny
import torch
from sound_files import make_clips, noise

from esc_lib import evaluate, load_clips, load_run, train
from esc_lib.data.clips import trim_silence
from esc_lib.evaluation.predict import _cut_out, predict
from esc_lib.models import build_model
from esc_lib.training.augment import even_starts
from esc_lib.training.inference import audible_crops, crop_probabilities


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


@pytest.fixture
def in_bfloat16(here):
    """The network's run, as if it had been trained in bfloat16."""
    run = load_run(here[0].path)
    run.config = replace(run.config, precision="bfloat16")
    return run


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


@pytest.mark.parametrize("circuits", [{}, {"avx512_bf16": True}])
def test_bfloat16_is_used_where_the_device_has_circuits_for_it(here, in_bfloat16, predict_sound, monkeypatch, circuits):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: circuits)
    sound = tone(3, 2000) + 0.1 * noise(2000, 1)[0]
    windows = [predict_sound(sound, run=run).windows for run in (here[0], in_bfloat16)]
    tests = [evaluate(run, device="cpu").predictions.filter(like="p_") for run in (here[0], in_bfloat16)]
    for exact, found in (windows, tests):
        assert exact.equals(found) == (not circuits)
        assert found.to_numpy() == pytest.approx(exact.to_numpy(), abs=0.05)


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
    selective = changed(run, min_peak=0.1)
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


# Long recordings -------------------------------------------------------------------------------------------------


def whole_array_prediction(run, path):
    """As `predict`, with the whole recording and all windows in memory at once."""
    config = run.config
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    resampled = soxr.resample(sound.mean(axis=1), rate, config.sample_rate)
    samples = np.clip(np.rint(resampled * 32768), -32768, 32767).astype(np.int16)
    recording = replace(make_clips([samples]), sample_rate=config.sample_rate)
    recording = trim_silence(recording) if config.trim_silence else recording
    half, frames = config.crop_samples // 2, int(recording.frames[0])
    room = max(0, frames + 2 * half * config.pad - config.crop_samples)
    n = max(config.crops, 1 + -(-room // half))
    start = even_starts(recording.frames, config.crop_samples, n, pad=config.pad)
    index = torch.zeros(n, dtype=torch.int64)
    windows = crop_probabilities(run.model(), recording, index, start[0], config.crop_samples).numpy()
    audible = audible_crops(recording, start, config.crop_samples, config.min_peak)[0].numpy()
    centres = (int(recording.offsets[0]) + start[0].numpy() + config.crop_samples / 2) / config.sample_rate
    return windows[audible].mean(axis=0), windows, centres, len(samples) / config.sample_rate


def changed(run, **settings):
    other = load_run(run.path)
    for name, value in settings.items():
        object.__setattr__(other.config, name, value)
    return other


SOUNDS = {  # samples, rate, channels
    "a sample": (1, 1000, 1),
    "short": (60, 1000, 2),
    "longer than a window": (130, 1000, 1),
    "long, resampled": (60_000, 8000, 2),
    "many blocks": (9_000, 1500, 1),
    "silent": (2_000, 1000, 1),
}


@pytest.mark.parametrize("min_peak", [0.0, 0.2])
@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("what", SOUNDS)
def test_blocks_give_the_same_as_the_whole_recording(here, monkeypatch, what, pad, trim, min_peak):
    frames, rate, channels = SOUNDS[what]
    time = np.arange(frames) / rate
    sound = np.sin(2 * np.pi * (50 + 20 * time) * time) * np.abs(np.sin(1 + 2 * time)) ** 8  # loud and quiet in turns
    quiet = np.ones(frames, bool)
    quiet[frames // 5 : max(frames // 5 + 1, frames - frames // 3)] = False
    sound[quiet if what != "silent" else slice(None)] = 0
    run, folder = changed(here[0], pad=pad, trim_silence=trim, min_peak=min_peak), here[1]
    soundfile.write(folder / "blocks.wav", np.stack([sound, 0.5 * sound], axis=1)[:, :channels], rate)
    monkeypatch.setattr("esc_lib.data.audio._BLOCK", 700)
    top, windows, centres, seconds = whole_array_prediction(run, folder / "blocks.wav")
    found = predict(run, folder / "blocks.wav", top=10, device="cpu")
    assert found.windows.shape == windows.shape and found.seconds == pytest.approx(seconds)
    assert found.windows.index.to_numpy() == pytest.approx(centres, abs=5.1e-4)  # rounded to milliseconds
    assert found.windows.to_numpy() == pytest.approx(windows, abs=1e-6)
    assert found.top.set_index("class")["probability"][list(found.windows.columns)].to_numpy() == pytest.approx(
        top, abs=1e-6
    )


def test_memory_does_not_grow_with_the_recording(here, monkeypatch):
    """Arrays in Python's memory, and windows in the network; the shorter recording has several blocks too."""
    run, folder = here
    at_once, peaks = [], {}
    forward = tiny.TinyNet.forward
    monkeypatch.setattr(tiny.TinyNet, "forward", lambda net, x: at_once.append(len(x)) or forward(net, x))
    for seconds in (10, 100):
        sound = np.resize(noise(96_000), (seconds * 48_000, 2))
        soundfile.write(folder / "long.wav", sound, 48_000)
        del sound
        tracemalloc.start()
        try:
            found = predict(run, folder / "long.wav", device="cpu")
            peaks[seconds] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found.seconds == 100 and len(found.windows) > 2000 and max(at_once) <= 10
    assert peaks[100] < peaks[10] + (1 << 20)  # what its 2000 windows need; as float32 it has 38 MB
    (folder / "long.wav").unlink()


def test_of_a_recording_no_more_is_held_than_windows_need():
    signal = noise(60_000)
    spans = [(begin, begin + 1500) for begin in (0, 0, 10, *range(700, 58_000, 700))]
    pieces = list(_cut_out(np.split(signal, 60), spans))
    for piece, (begin, end) in zip(pieces, spans, strict=True):
        assert np.array_equal(piece, signal[begin:end]) and len(piece.base) < 1500 + 1000


@pytest.mark.parametrize(("seconds", "shown"), [(60, False), (61, True)])
def test_recordings_over_a_minute_have_a_progress_bar(predict_sound, capfd, seconds, shown):
    predict_sound(tone(3, seconds * tiny.RATE))
    bars = capfd.readouterr().err
    assert all((what in bars) == shown for what in ("checking", "predicting", "100%"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(({"top": top}, "top is .* expected a whole number") for top in (0, -1, 2.0, True, "5", None, 10**7)),
        *(({"audio_file": path}, "audio_file is .*") for path in ("", 5, None, "a\0b")),
        ({"audio_file": "."}, "is no regular file"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(here, wrong, message):
    arguments = {"run": here[0], "audio_file": here[1] / "sound.wav", **wrong}
    with pytest.raises(ValueError, match=message):
        predict(**arguments, device="cpu")


def test_a_recording_that_is_cut_has_no_prediction(predict_sound, here):
    predict_sound(tone(3, 300), "cut.flac")
    data = (here[1] / "cut.flac").read_bytes()
    (here[1] / "cut.flac").write_bytes(data[:-5])
    with pytest.raises(ValueError, match=r"cut\.flac cannot be decoded"):
        predict(here[0], here[1] / "cut.flac", device="cpu")


def test_the_checkpoint_that_was_asked_for_predicts(tmp_path, monkeypatch):
    tiny.register(monkeypatch, tiny.network(lambda self, x: self.bias.expand(len(x), -1)))
    run = tiny.new_run(tiny.config(keep_n=2), tmp_path)
    for epoch in (1, 2):
        model = build_model("tiny", 10)
        with torch.no_grad():
            model.bias[epoch] = 9
        run.save_checkpoint(model, epoch, 0.5)
    soundfile.write(tmp_path / "sound.wav", np.full(300, 0.1), tiny.RATE)
    for name, target in (("epoch-0001", 1), ("last", 2), ("result", 2)):
        found = predict(run, tmp_path / "sound.wav", checkpoint=name, device="cpu").top
        assert found["class"][0] == run.config.class_names[target]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_computes_no_numbers_predicts_nothing(tmp_path, monkeypatch, value):
    tiny.register(monkeypatch, tiny.network(lambda self, x: self.bias.expand(len(x), -1) * value))
    run = tiny.new_run(tiny.config(epochs=1), tmp_path)
    run.save_checkpoint(build_model("tiny", 10), 1, 0.5)
    soundfile.write(tmp_path / "sound.wav", np.full(300, 0.1), tiny.RATE)
    with pytest.raises(ValueError, match="not finite"):
        predict(run, tmp_path / "sound.wav", device="cpu")
