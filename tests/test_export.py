"""Exported networks: the same probabilities as `predict`'s, from the file alone, by another runtime."""

import json
import logging
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import tiny
import torch
from torch import nn

import esc_lib
from esc_lib.data.synthetic import SAMPLE_RATE, clock_tick, rooster
from esc_lib.evaluation.export import OPSET
from esc_lib.models import ARCHITECTURES, build_model

CLASSES = ["dog", "rain", "sea_waves", "crying_baby", "clock_tick", "sneezing", "helicopter", "chainsaw", "rooster",
           "crackling_fire"]  # fmt: skip


def lively_run(config, folder, temperature=None, samples=None):
    """A run whose network has random weights and the statistics of some sound, so that its answers differ.

    Without a temperature it gets one at which it is neither certain nor at a loss; without samples it gets noise.
    """
    torch.manual_seed(0)
    model = build_model(config.architecture, 10)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
    x = torch.randn(9 * config.crop_samples) if samples is None else torch.from_numpy(samples / 32768).float()
    x = x.unfold(0, config.crop_samples, config.crop_samples // 4).unsqueeze(1)
    with torch.no_grad():
        model.train()(x)
        logits = model.eval()(x)
    run = tiny.new_run(config, folder)
    run.save_checkpoint(model, config.epochs, None)
    run.save_temperature("result", temperature or float(logits.std()) / 2, fitted_on="nothing", clips=1)
    return run


def windows_of(samples, about):
    """Cuts 16-bit samples as the metadata of a file say: an independent version of what `predict` does."""
    if about["trim_silence"] == "true":
        (heard,) = np.nonzero(samples)
        samples = samples[heard[0] : heard[-1] + 1]
    window = int(about["window"])
    margin = window // 2 if about["pad"] == "true" else 0
    padded = np.pad(samples / 32768, (margin, margin + window)).astype(np.float32)
    room = max(0, len(samples) + 2 * margin - window)
    n = max(int(about["crops"]), 1 + int(np.ceil(room / (window // 2))))
    return np.stack([padded[room // (n - 1) * k :][:window] for k in range(n)])


def run_file(file, windows):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"waveform": windows})[0]


def metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Writes half a clock and half a rooster between zeros, at about some rate."""

    def write(rate):
        half = 5 * SAMPLE_RATE // 2
        random = np.random.default_rng(3)
        heard = np.concatenate([clock_tick(random)[:half], rooster(random)[:half]])[:: SAMPLE_RATE // rate]
        samples = np.pad(np.int16(20000 * heard / np.abs(heard).max()), (500, 700))
        file = tmp_path_factory.mktemp("sound") / "sound.wav"
        soundfile.write(file, samples, rate)
        return file, samples

    return write


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_answers_as_predict_does(name, tmp_path, sound):
    config = esc_lib.recipe(name, "synthetic", epochs=1, crops=3, precision="float32")
    recording, samples = sound(config.sample_rate)
    run = lively_run(config, tmp_path / "runs", samples=samples)
    file = esc_lib.export(run, tmp_path / "model.onnx")
    expected = esc_lib.predict(run, recording, device="cpu").windows.to_numpy()
    windows = windows_of(samples, metadata(file))
    assert expected.shape == (len(windows), 10) and np.ptp(expected, axis=0).max() > 0.02, "all windows get one answer"
    found = np.concatenate([run_file(file, part) for part in (windows[:1], windows[1:])])  # a batch of 1 and of more
    assert np.abs(found - expected).max() < 1e-4
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.onnx"]


def test_the_file_tells_what_is_needed_to_use_it(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    run = lively_run(tiny.config(dataset="esc10", min_peak=0.01, trim_silence=False), tmp_path, 1.7)
    file = esc_lib.export(run.path, tmp_path / "tiny.onnx")
    assert file == tmp_path / "tiny.onnx"
    about = metadata(file)
    assert json.loads(about.pop("classes")) == CLASSES
    assert about == {
        "network": "tiny", "sample_rate": "1000", "window": "100", "crops": "3", "trim_silence": "false", "pad": "true",
        "min_peak": "0.01", "temperature": "1.7", "credits": "trained on ESC-10 (CC BY 3.0)",
        "esc-course": version("esc-course"),
    }  # fmt: skip
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    (given,), (returned,) = model.graph.input, model.graph.output
    sizes = [[size.dim_param or size.dim_value for size in x.type.tensor_type.shape.dim] for x in (given, returned)]
    assert (given.name, returned.name, sizes) == ("waveform", "probabilities", [["batch", 100], ["batch", 10]])


def test_the_temperature_is_inside(tmp_path, monkeypatch):
    """At twice the temperature, the logarithm of a ratio of probabilities is half as large."""
    tiny.register(monkeypatch)
    run = lively_run(tiny.config(), tmp_path, 1.0)
    x = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32)
    warm = run_file(esc_lib.export(run, tmp_path / "1.onnx"), x)
    run.save_temperature("result", 2.0, fitted_on="nothing", clips=1)
    warmer = run_file(esc_lib.export(run, tmp_path / "2.onnx"), x)
    ratios = [np.log(p[:, 1:] / p[:, :1]) for p in (warm, warmer)]
    assert np.abs(ratios[0]).max() > 0.1
    np.testing.assert_allclose(ratios[1], ratios[0] / 2, atol=1e-5)
    np.testing.assert_allclose(warm.sum(axis=1), 1, atol=1e-6)


def test_the_checkpoint_that_was_asked_for_is_exported(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    run = lively_run(tiny.config(keep_n=2), tmp_path, 1.0)
    model = run.model()
    with torch.no_grad():
        model.fc.bias[7] += 50
    run.save_checkpoint(model, 1, None)
    x = np.zeros((1, 100), np.float32)
    assert run_file(esc_lib.export(run, tmp_path / "a.onnx", checkpoint="epoch-0001"), x)[0, 7] > 0.99
    assert run_file(esc_lib.export(run, tmp_path / "a.onnx"), x)[0, 7] < 0.9
    with pytest.raises(ValueError, match="no checkpoint 'epoch-0009'"):
        esc_lib.export(run, tmp_path / "b.onnx", checkpoint="epoch-0009")
    assert not (tmp_path / "b.onnx").exists()


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    run = lively_run(tiny.config(), tmp_path, 1.0)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"export needs onnxscript: pip install --editable '\.\[export\]'"):
        esc_lib.export(run, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_it_says_nothing_that_is_not_its_own(tmp_path, monkeypatch, capfd, recwarn, caplog):
    tiny.register(monkeypatch)
    esc_lib.export(lively_run(tiny.config(), tmp_path, 1.0), tmp_path / "a.onnx")
    captured = capfd.readouterr()
    assert not (captured.out or captured.err or len(recwarn))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
