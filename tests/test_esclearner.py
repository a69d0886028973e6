"""esc-learner's runs, written here in its format: the same logits, its way of testing and ours, its files untouched."""

import functools
import json
import math
import re
import threading
import zipfile
from collections import OrderedDict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from tiny import config, files_below, register, write_set
from torch import nn

import esc_lib.esclearner.fetch
import esc_lib.models
from esc_lib import evaluate, fetch_run, load_run, predict, recipe
from esc_lib.data.datasets import ESC10_CLASSES, ESC50_CLASSES
from esc_lib.data.download import DownloadError
from esc_lib.models import ARCHITECTURES, ESC_LEARNER, build_model
from esc_lib.training.runs import open_run

# The settings that its README shows, of the published M11.
README_M11 = {
    "dataset": "urbansound8k",
    "data": "./data/urban8k-8000/",
    "eval_folds": [10],
    "save": "output/wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe",
    "keep_n": 2,
    "epochs": 100,
    "eval_every": 5,
    "lr": 0.0001,
    "batch_size": 64,
    "weight_decay": 0.0001,
    "m": 11,
    "n_classes": 10,
    "n_folds": 10,
    "fs": 8000,
    "max_length": 32079,
    "train_folds": [1, 2, 3, 4, 5, 6, 7, 8, 9],
}
ENVNET = {
    "dataset": "esc50",
    "model": "envnet",
    "data": "./data/esc50-16000/",
    "eval_folds": [4],
    "save": "output/envnet/3ea7995342f14062ab9816014010b287",
    "keep_n": 2,
    "epochs": 150,
    "eval_every": 10,
    "lr": 0.01,
    "lr_gamma": 0.1,
    "schedule": [80, 100, 120],
    "batch_size": 64,
    "weight_decay": 0.0005,
    "momentum": 0.9,
    "freeze_epoch": -1,
    "crops": 10,
    "bc": False,
    "n_classes": 50,
    "n_folds": 5,
    "fs": 16000,
    "max_length": 24014,
    "train_folds": [1, 2, 3, 5],
}
ENVNETV2 = {**ENVNET, "model": "envnetv2", "fs": 44100, "max_length": 66650}
WAVEMSNET = {key: value for key, value in ENVNET.items() if key != "model"} | {"fs": 44100, "max_length": 66250}
HISTORY = {"loss": {"1": 2.5, "2": 1.5}, "acc": {"1": 0.1, "2": 0.5}, "eval_loss": {"2": 2.0}, "eval_acc": {"2": 0.25}}
BEST, SECOND = "8k2px1vh6f", "en8952kyuj"
CHECKPOINTS = {
    BEST: {"name": BEST, "epoch": 85, "eval_acc": 0.6716},
    SECOND: {"name": SECOND, "epoch": 95, "eval_acc": 0.6609},
}


def write_run(folder, settings, state=None, history=HISTORY):
    """A run directory as esc-learner leaves it, with what its own evaluation wrote; both checkpoints hold `state`."""
    (folder / "eval").mkdir(parents=True)
    for name, content in (("config", settings), ("history", history), ("checkpoints", CHECKPOINTS)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=4))
    (folder / "eval/result.json").write_text('{"acc": 0.6762}')
    (folder / "eval/confusion_matrix.csv").write_text(",dog\ndog,1\n")
    for name in CHECKPOINTS if state is not None else ():
        (folder / name).mkdir()
        torch.save(state, folder / name / f"{name}.model")
    return folder


# --- its networks, restated ---


class Block(nn.Module):
    """A layer with what stands behind it."""

    def __init__(self, *layers):
        super().__init__()
        self.module = nn.Sequential(*layers)

    def forward(self, x):
        return self.module(x)


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def conv2d(n_in, n_out, kernel, stride=(1, 1)):
    return Block(nn.Conv2d(n_in, n_out, kernel, stride, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


def dense(n_in, n_out):
    return Block(nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout())


def in_two_parts(features, classifier):
    return nn.Sequential(
        OrderedDict(
            picture=nn.Unflatten(1, (1, 1)),  # (B, 1, T) -> (B, 1, 1, T)
            feature_conv=nn.Sequential(OrderedDict(features)),
            classifier=nn.Sequential(OrderedDict(classifier)),
        )
    )


def its_envnet():
    features = dict(conv1=conv2d(1, 40, (1, 8)), conv2=conv2d(40, 40, (1, 8)), p=nn.MaxPool2d((1, 160)), swap=Swap())
    classifier = dict(
        conv3=conv2d(1, 50, (8, 13)), p3=nn.MaxPool2d(3), conv4=conv2d(50, 50, (1, 5)), p4=nn.MaxPool2d((1, 3)),
        flat=nn.Flatten(), fc5=dense(7700, 4096), fc6=dense(4096, 4096), fc7=nn.Linear(4096, 50),
    )  # fmt: skip
    return in_two_parts(features, classifier)


def its_envnetv2():
    features = dict(conv1=conv2d(1, 32, (1, 64), (1, 2)), conv2=conv2d(32, 64, (1, 16), (1, 2)))
    features |= dict(p=nn.MaxPool2d((1, 64)), swap=Swap())
    classifier = dict(conv3=conv2d(1, 32, (8, 8)), conv4=conv2d(32, 32, (8, 8)), p4=nn.MaxPool2d((5, 3)))
    width = 32
    for i, (n_out, kernel) in enumerate(((64, 4), (128, 2), (256, 2))):
        classifier[f"conv{2 * i + 5}"] = conv2d(width, n_out, (1, kernel))
        classifier[f"conv{2 * i + 6}"] = conv2d(n_out, n_out, (1, kernel))
        classifier[f"p{2 * i + 6}"] = nn.MaxPool2d((1, 2))
        width = n_out
    classifier |= dict(flat=nn.Flatten(), fc11=dense(20480, 4096), fc12=dense(4096, 4096), fc13=nn.Linear(4096, 50))
    return in_two_parts(features, classifier)


# Channels of each convolution; P is a pooling by 4, C one that keeps the last, shorter window.
ROWS = {
    3: "256 P 256 P",
    5: "128 P 128 P 256 P 512 C",
    11: "64 P 64 64 P 128 128 P 256 256 256 C 512 512",
    18: "64 P 64 64 64 64 P 128 128 128 128 P 256 256 256 256 C 512 512 512 512",
}


def its_m_net(m):
    layers, width = [], 1
    for word in ROWS[m].split():
        if word in "PC":
            layers.append(nn.MaxPool1d(4, ceil_mode=word == "C"))
            continue
        first, n_out = not layers, int(word)
        conv = nn.Conv1d(width, n_out, 80 if first else 3, 4 if first else 1, 0 if first else 1)
        layers.append(Block(conv, nn.BatchNorm1d(n_out), nn.ReLU()))
        width = n_out
    return Block(*layers, nn.AvgPool1d(500 if m == 3 else 32), nn.Flatten(), nn.Linear(width, 10))


def random_norms(net):
    """Batch norms that have seen something; some channels vary so little that the norm's own eps shows."""
    for norm in net.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.05, 1)
            norm.running_var[::5] = 2e-5
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.weight.data[::5] *= 0.01
            norm.weight.data[1::4] *= -1
            nn.init.normal_(norm.bias, std=0.1)
    return net.eval()


@functools.cache
def m3():
    torch.manual_seed(0)
    return random_norms(its_m_net(3))


NETWORKS = {
    "envnet": (its_envnet, ENVNET, 30),
    "envnetv2": (its_envnetv2, ENVNETV2, 66),
    "m3": (lambda: its_m_net(3), {**README_M11, "m": 3}, 16),
    "m5": (lambda: its_m_net(5), {**README_M11, "m": 5}, 30),
    "m11": (lambda: its_m_net(11), README_M11, 72),
    "m18": (lambda: its_m_net(18), {**README_M11, "m": 18}, 121),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_its_weights_say_the_same_in_our_networks(tmp_path, name):
    make, settings, n_keys = NETWORKS[name]
    torch.manual_seed(0)
    net = random_norms(make())
    state = net.state_dict()
    assert len(state) == n_keys
    run = load_run(write_run(tmp_path / "run", settings, state))
    x = torch.rand(2, 1, settings["max_length"]) - 0.3  # not of mean 0, nor of deviation 1
    x[1] *= 0.1
    expected = net(x)
    del net, state
    model = run.model("best")
    for name in CHECKPOINTS:
        (run.path / name / f"{name}.model").unlink()  # hundreds of megabytes
    assert not model.training
    assert expected.std(dim=1).min() > 0.01, "else all is the same"
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    with torch.enable_grad():  # on the way that GPUs take too
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_its_m_nets_are_no_architectures_of_the_course():
    assert set(ESC_LEARNER) == {"m3_esclearner", "m5_esclearner", "m11_esclearner", "m18_esclearner"}
    assert not set(ESC_LEARNER) & set(ARCHITECTURES)
    with pytest.raises(ValueError, match=r"M3EscLearner takes .* 32079"):
        build_model("m3_esclearner", 10)(torch.zeros(1, 1, 32000))
    with pytest.raises(ValueError, match="m3_esclearner has no recipe.*envnet"):
        recipe("m3_esclearner", "urbansound8k")


# --- settings ---


def settings_of(folder, settings):
    return load_run(write_run(folder, settings)).config


def test_the_settings_of_its_readme(tmp_path):
    found = settings_of(tmp_path / "run", README_M11)
    assert (found.architecture, found.dataset) == ("m11_esclearner", "urbansound8k")
    assert (found.sample_rate, found.crop_samples, found.crops) == (8000, 32079, 1)
    assert (found.train_folds, found.eval_folds) == (tuple(range(1, 10)), (10,))
    assert (found.epochs, found.eval_every, found.batch_size, found.keep_n) == (100, 5, 64, 2)
    assert (found.optimizer, found.learning_rate, found.weight_decay) == ("adam", 1e-4, 1e-4)
    assert found.trim_silence and found.pad and not found.between_class and found.min_peak == 0


def test_settings_of_an_envnet(tmp_path):
    found = settings_of(tmp_path / "run", {**ENVNET, "momentum": 0.8})
    assert (found.architecture, found.dataset) == ("envnet", "esc50")
    assert (found.sample_rate, found.crop_samples, found.crops) == (16000, 24014, 10)
    assert (found.train_folds, found.eval_folds) == ((1, 2, 3, 5), (4,))
    assert (found.optimizer, found.momentum, found.nesterov) == ("sgd", 0.8, False)
    assert (found.learning_rate, found.weight_decay) == (0.01, 5e-4)
    assert [found.learning_rate_at(epoch) for epoch in (1, 81, 150)] == [0.01] * 3  # its schedule was never applied
    assert found.trim_silence and found.pad and not found.between_class and found.min_peak == 0
    assert found.freeze_epoch == 0


def test_between_class_neither_trimmed_nor_padded_and_freezing_came_after_its_epoch(tmp_path):
    found = settings_of(tmp_path / "run", {**ENVNETV2, "bc": True, "freeze_epoch": 50})
    assert (found.architecture, found.sample_rate, found.crop_samples) == ("envnetv2", 44100, 66650)
    assert found.between_class and not found.trim_silence and not found.pad
    assert found.freeze_epoch == 51


def test_older_settings_have_one_fold_and_no_bc(tmp_path):
    older = {key: value for key, value in ENVNET.items() if key not in ("eval_folds", "bc")} | {"eval_fold": 4}
    assert settings_of(tmp_path / "older", older) == settings_of(tmp_path / "newer", ENVNET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WAVEMSNET, "WaveMsNet is another network.*7,501,138"),
        ({**ENVNET, "model": "wavemsnet"}, "WaveMsNet is another network"),
        ({**ENVNET, "model": "abdolinet"}, "'abdolinet'.*envnet, envnetv2 and M-nets"),
        ({**README_M11, "m": 34}, "m is 34.*3, 5, 11 and 18"),
        ({**README_M11, "nesterov": True}, "unknown nesterov"),
        ({**README_M11, "bc": True}, "unknown bc"),
        ({key: value for key, value in README_M11.items() if key != "lr"}, "lack lr"),
        ({key: value for key, value in README_M11.items() if key != "eval_folds"}, "lack eval_folds"),
        ({**README_M11, "lr": "1e-4"}, "learning_rate is '1e-4'"),
        ({**ENVNET, "freeze_epoch": "never"}, "'str'"),
        ({**ENVNET, "fs": 44100, "max_length": 66650}, "crop_samples is 66650"),
        ({**ENVNET, "eval_folds": [3]}, r"\[3\] stand in train_folds and in eval_folds"),
    ],
)
def test_settings_that_cannot_be_read_are_named(tmp_path, settings, message):
    folder = write_run(tmp_path / "run", settings)
    with pytest.raises(ValueError, match=f"{re.escape(str(folder / 'config.json'))}.*{message}"):
        load_run(folder)


# --- the other files ---


def test_history_and_checkpoints(tmp_path):
    folder = write_run(tmp_path / "run", README_M11, history={**HISTORY, "loss": {"1": math.nan, "2": 1.5}})
    assert "NaN" in (folder / "history.json").read_text()
    run = load_run(folder)
    assert math.isnan(run.history["loss"][1]) and run.history["loss"][2] == 1.5
    assert run.history["acc"] == {1: 0.1, 2: 0.5} and run.history["eval_acc"] == {2: 0.25}
    assert run.history["lr"] == {}
    assert (run.checkpoint("best")["epoch"], run.checkpoint("last")["epoch"]) == (85, 95)
    assert run.checkpoint(SECOND)["eval_acc"] == 0.6609
    assert not run.finished
    run.save_curves()


def test_a_run_of_its_first_version_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", ENVNET, {})
    (folder / "checkpoints.json").unlink()
    (folder / "history.json").unlink()
    (folder / BEST / f"{BEST}-history.json").write_text(json.dumps(HISTORY))
    with pytest.raises(ValueError, match=f"{re.escape(str(folder))} is a run of esc-learner's first version.*train"):
        load_run(folder)


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_weights_with_code_are_refused_and_do_not_run(tmp_path):
    folder = write_run(tmp_path / "run", {**README_M11, "m": 3}, {**m3().state_dict(), "x": Trap(tmp_path / "sprung")})
    with pytest.raises(ValueError, match=f"{BEST}.model is not a checkpoint of m3_esclearner.*would call"):
        load_run(folder).model("best")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("module.2.module.1.running_var"), r"lacks module\.2\.module\.1\.running_var"),
        (lambda state: state.update({"module.7.bias": torch.zeros(1)}), r"holds the unknown module\.7\.bias"),
        (lambda state: state.update({"module.6.bias": torch.zeros(50)}), r"fc\.bias"),
        (lambda state: state.clear(), r"lacks module\.0\.module\.0\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    state = dict(m3().state_dict())
    change(state)
    folder = write_run(tmp_path / "run", {**README_M11, "m": 3}, state)
    with pytest.raises(ValueError, match=f"(?s){BEST}.model is not a checkpoint of m3_esclearner.*{message}"):
        load_run(folder).model("best")


def test_nothing_is_trained_into_it(tmp_path, monkeypatch):
    register(monkeypatch)
    folder = write_run(tmp_path / "run", README_M11, {})
    before = {name: (folder / name).read_bytes() for name in files_below(folder)}
    for settings in (config(), load_run(folder).config):
        with pytest.raises(ValueError, match=f"{re.escape(str(folder))} holds a run of esc-learner.*another run_dir"):
            open_run(folder, settings)
    assert {name: (folder / name).read_bytes() for name in files_below(folder)} == before


# --- two ways of testing ---


def heard_by(monkeypatch, logits, architecture):
    """Puts a network in the place of another: it takes 100 samples at 1000 Hz and says `logits(crops)`.

    Returns a list of all crops that it heard.
    """
    heard = []

    class Net(nn.Module):
        SAMPLE_RATE, INPUT_SAMPLES, LENGTHS, FRONT_END = 1000, 100, (100,), ()

        def __init__(self, n_classes):
            super().__init__()
            self.fc7 = nn.Linear(1, n_classes)

        def forward(self, x):
            heard.extend(x[:, 0].numpy())
            return torch.nn.functional.pad(logits(x[:, 0]), (0, self.fc7.out_features - 2))

    monkeypatch.setitem(ESC_LEARNER if architecture in ESC_LEARNER else ARCHITECTURES, architecture, Net)
    return heard


def run_on(tmp_path, settings, sounds):
    """A run of such a network, and a set of sounds [(target, samples)], all of the fold that is tested."""
    (fold,) = settings["eval_folds"]
    write_set(tmp_path, [(fold, target, samples) for target, samples in sounds], settings["dataset"])
    if settings["dataset"] == "esc50":
        file = tmp_path / "esc50-1000/dataset.json"
        classes = [*ESC10_CLASSES, *(name for name in ESC50_CLASSES if name not in ESC10_CLASSES)]
        file.write_text(json.dumps({**json.loads(file.read_text()), "classes": classes}))
    n = settings["n_classes"]
    state = {"classifier.fc7.weight": torch.zeros(n, 1), "classifier.fc7.bias": torch.zeros(n)}
    small = {**settings, "fs": 1000, "max_length": 100, "save": str(tmp_path / "trap"), "data": str(tmp_path / "trap")}
    return write_run(tmp_path / "run", small, state)


def of_two(second):
    """Logits 10 for class 0, and for class 1 ten more than that where `second` says so; others are zero."""
    return torch.stack([torch.full(second.shape, 10.0), 10.0 + 10 * second.float()], dim=1)


def clip(*levels, frames=100):
    """Stretches of constant level, full scale at 1."""
    return np.concatenate([np.full(frames, round(level * 32768), np.int32) for level in levels])


def test_only_crops_that_rise_to_a_fifth_are_heard_there(tmp_path, monkeypatch):
    heard = heard_by(monkeypatch, lambda x: of_two(x.amin(dim=1) < -0.5), "envnet")
    sounds = [
        (0, clip(0.9, 0.9)),
        (1, clip(-0.9, -0.9)),  # loud, though it never rises above zero
        (0, clip(0.15, 0.15)),
        (0, clip(0, 0)),
        (1, clip(0.201, -0.9)),  # the one crop that is heard there is its quiet half
        (0, clip(0.199, 0)),
    ]
    folder = run_on(tmp_path, {**ENVNET, "crops": 2}, sounds)
    there = evaluate(folder, "best", tmp_path, "cpu", way="esc-learner")
    assert there.predictions["file"].tolist() == ["audio/000.wav", "audio/004.wav"]
    assert (there.result["clips"], there.result["left_out"], there.result["correct"]) == (2, 4, 1)
    assert there.accuracy == 1 / 2
    assert len(heard) == 3 and min(crop.max() for crop in heard) > 0.2
    ours = evaluate(folder, "best", tmp_path, "cpu")
    assert (ours.result["clips"], ours.result["correct"], ours.accuracy) == (6, 6, 1)
    assert "left_out" not in ours.result and "way" not in ours.result


def test_there_crops_are_of_the_clip_as_it_is(tmp_path, monkeypatch):
    heard = heard_by(monkeypatch, lambda x: of_two(x.amax(dim=1) > 0), "envnet")
    wave = np.zeros(500, np.int32)
    wave[77:333] = np.random.default_rng(0).integers(20000, 30000, 256)
    folder = run_on(tmp_path, ENVNET, [(0, wave)])
    evaluate(folder, "best", tmp_path, "cpu", way="esc-learner")
    stride = (500 - 100) // 9
    crops = [wave[n * stride : n * stride + 100] / 32768 for n in range(10)]
    np.testing.assert_array_equal(heard, [crop for crop in crops if crop.max() >= 0.2])
    assert len(heard) < 10
    heard.clear()
    evaluate(folder, "best", tmp_path, "cpu")
    padded = np.pad(wave[77:333] / 32768, 50)
    np.testing.assert_array_equal(heard, [padded[n * 28 : n * 28 + 100] for n in range(10)])


def test_there_logits_are_averaged(tmp_path, monkeypatch):
    """Two crops are for class 0, one is very much for class 1: it wins where logits are averaged."""
    table = torch.tensor([[103.0, 100.0], [100.0, 120.0]])
    heard_by(monkeypatch, lambda x: table[(x.mean(dim=1) > 0.7).long()], "envnet")
    for number, bc in enumerate((True, False)):  # with bc, ours has the same crops
        place = tmp_path / str(number)
        folder = run_on(place, {**ENVNET, "crops": 3, "bc": bc}, [(1, clip(0.5, 0.5, 0.9))])
        there = evaluate(folder, "best", place, "cpu", way="esc-learner")
        assert there.accuracy == 1
        row = there.predictions.filter(regex="^p_").iloc[0].to_numpy(float)
        mean = np.array([2 * 103 + 100, 2 * 100 + 120, *[0] * 48]) / 3
        np.testing.assert_allclose(row, np.exp(mean) / np.exp(mean).sum(), rtol=1e-4, atol=1e-12)
        if bc:
            ours = evaluate(folder, "best", place, "cpu")
            assert ours.accuracy == 0
            assert ours.predictions.loc[0, "p_dog"] == pytest.approx(2 / 3 / (1 + math.exp(-3)), rel=1e-4)


def plainly_in_the_middle(wave, length=100):
    """Its preparation for M-nets, restated: to the last sound, then as many zeros before as behind, or as few."""
    sounding = wave[: np.flatnonzero(wave)[-1] + 1] if wave.any() else wave
    before = math.floor((length - len(sounding)) / 2)
    behind = math.ceil((length - len(sounding)) / 2)
    if before >= 0:
        return np.pad(sounding, (before, behind)) / 32768
    return sounding[-before : len(sounding) + behind] / 32768


def test_m_nets_hear_the_whole_clip_in_the_middle_and_count_all(tmp_path, monkeypatch):
    heard = heard_by(monkeypatch, lambda x: of_two(x.amin(dim=1) < 0), "m11_esclearner")
    random = np.random.default_rng(0)
    sounds = [(1, -random.integers(1, 3000, n)) for n in (40, 41, 99, 100, 101, 102, 151)]  # quiet, and below zero
    late = np.pad(random.integers(1, 3000, 20), (30, 17))  # begins with zeros, which stay, and ends with some
    sounds += [(0, late), (0, np.zeros(60, int))]
    folder = run_on(tmp_path, README_M11, sounds)
    there = evaluate(folder, "best", tmp_path, "cpu", way="esc-learner")
    assert (there.result["clips"], there.result["left_out"], there.accuracy) == (9, 0, 1)
    assert len(heard) == 9
    for crop, (_, wave) in zip(heard, sounds, strict=True):
        np.testing.assert_array_equal(crop, plainly_in_the_middle(wave))
    ours = evaluate(folder, "best", tmp_path, "cpu")
    assert (ours.result["clips"], ours.accuracy) == (9, 1)
    np.testing.assert_array_equal(np.flatnonzero(heard[-2])[[0, -1]], [40, 59])  # zeros on both sides are trimmed


@pytest.fixture
def tested(tmp_path, monkeypatch):
    """A run whose network takes all for class 1, and its two evaluations."""
    heard_by(monkeypatch, lambda x: of_two(x.amax(dim=1) < 9), "envnet")
    folder = run_on(tmp_path, ENVNET, [(0, clip(0.9)), (0, clip(0.9)), (1, clip(0.9)), (2, clip(0))])
    before = {name: (folder / name).read_bytes() for name in files_below(folder)}
    there = evaluate(folder, "best", tmp_path, "cpu", way="esc-learner")
    return SimpleNamespace(folder=folder, before=before, there=there, ours=evaluate(folder, "best", tmp_path, "cpu"))


def test_rows_are_the_true_classes(tested):
    dog, rain, waves = ESC10_CLASSES[:3]
    assert (tested.there.confusion.loc[dog, rain], tested.there.confusion.loc[rain, dog]) == (2, 0)
    assert (tested.ours.confusion.loc[waves, rain], tested.there.confusion.loc[waves, rain]) == (1, 0)
    assert tested.there.confusion.shape == (50, 50)


def test_results_stand_beside_its_own_and_nowhere_else(tested, tmp_path):
    last = evaluate(tested.folder, data_dir=tmp_path, device="cpu")
    paths = [found.path for found in (tested.there, tested.ours, last)]
    assert [path.name for path in paths] == ["eval-esc-learner-best", "eval-best", "eval-last"]
    assert {path.parent for path in paths} == {tested.folder}
    assert {name: (tested.folder / name).read_bytes() for name in tested.before} == tested.before
    new = files_below(tested.folder) - set(tested.before)
    assert {name.split("/")[0] for name in new} == {path.name for path in paths}
    assert not (tmp_path / "trap").exists(), "its own paths are never used"


def test_the_result_says_what_it_is_worth(tested, tmp_path):
    written = json.loads((tested.folder / "eval-esc-learner-best/result.json").read_text())
    assert written == tested.there.result
    assert "1 quiet clip(s) left out and not counted" in written["way"] and "logits" in written["way"]
    assert (written["left_out"], written["clips"], written["correct"]) == (1, 3, 1)
    assert (written["checkpoint"], written["epoch"]) == (BEST, 85)
    last = evaluate(tested.folder, "last", tmp_path, "cpu")
    assert (last.result["checkpoint"], last.result["epoch"]) == (SECOND, 95)
    for found in (tested.ours, tested.there, last):
        assert "too high to report" in found.result["selection"]
        assert "nothing was chosen" not in found.result["selection"]


def test_ways_are_refused_by_name(tested, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="way is 'theirs'.*ours.*esc-learner"):
        evaluate(tested.folder, "best", tmp_path, "cpu", way="theirs")
    register(monkeypatch)
    (tmp_path / "own").mkdir()
    own = open_run(tmp_path / "own", config())
    with pytest.raises(ValueError, match="own is not a run of esc-learner"):
        evaluate(own.path, way="esc-learner")
    with pytest.raises(ValueError, match="has learned from"):
        evaluate(tested.folder, "best", tmp_path, "cpu", folds=[3], way="esc-learner")


def test_if_all_is_quiet_there_is_no_accuracy(tmp_path, monkeypatch):
    heard_by(monkeypatch, lambda x: of_two(x.amax(dim=1) < 9), "envnet")
    folder = run_on(tmp_path, ENVNET, [(0, clip(-0.9)), (1, clip(0))])
    with pytest.raises(ValueError, match=r"no clip of fold\(s\) \[4\] ever rises to 0.2"):
        evaluate(folder, "best", tmp_path, "cpu", way="esc-learner")
    assert not (folder / "eval-esc-learner-best").exists()


def test_it_listens_to_recordings(tmp_path):
    run = load_run(write_run(tmp_path / "run", {**README_M11, "m": 3}, m3().state_dict()))
    wave = np.sin(np.arange(32080) / 5) / 2
    soundfile.write(tmp_path / "tone.wav", wave, 8000)
    found = predict(run, tmp_path / "tone.wav", which="best", device="cpu")
    assert found.top["probability"].between(0, 1).all() and len(found.top) == 5


# --- the published archives ---


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A place of archives: `folder`, where they lie, and `seen`, what was asked for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    seen, folder = [], tmp_path / "server"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def do_GET(self):
            seen.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(esc_lib.fetch, "SERVER", f"http://127.0.0.1:{http.server_port}")
        yield SimpleNamespace(folder=folder, seen=seen)
        http.shutdown()
        thread.join()


M3_ARCHIVE = "wavemxnet/54d6681d66b5417ea1dcd5a7332d75d6.zip"


def publish(server, tmp_path, inside="54d6681d66b5417ea1dcd5a7332d75d6/", copies=1):
    run = write_run(tmp_path / "source", {**README_M11, "m": 3}, m3().state_dict())
    archive = server.folder / M3_ARCHIVE
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for copy in range(copies):
            for name in sorted(files_below(run)):
                file.write(run / name, f"{'copy/' * copy}{inside}{name}")
    return archive


@pytest.mark.parametrize("inside", ["54d6681d66b5417ea1dcd5a7332d75d6/", "", "output/wavemxnet/54d6/"])
def test_a_published_run_is_fetched_once(server, tmp_path, inside):
    publish(server, tmp_path, inside)
    run = fetch_run("m3", tmp_path / "runs")
    assert run.path == tmp_path / "runs/esc-learner-m3"
    assert run.config.architecture == "m3_esclearner"
    assert files_below(run.path) == files_below(tmp_path / "source")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"esc-learner-m3"}
    x = torch.rand(1, 1, 32079)
    with torch.no_grad():
        torch.testing.assert_close(run.model("best")(x), m3()(x), rtol=1e-5, atol=1e-5)
    (run.path / "mine").write_text("kept")
    assert fetch_run("m3", tmp_path / "runs") == run
    assert server.seen == [f"/{M3_ARCHIVE}"]
    assert (run.path / "mine").is_file()


def test_all_published_archives_are_known_by_their_addresses(server, tmp_path):
    paths = {
        "envnet": "envnet/3ea7995342f14062ab9816014010b287",
        "m3": "wavemxnet/54d6681d66b5417ea1dcd5a7332d75d6",
        "m5": "wavemxnet/dd6569688fb847d6a5edb4548fcb4930",
        "m11": "wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe",
        "m18": "wavemxnet/be0a6daefcc04787a959c3c1b7c1b0cf",
    }
    for name in paths:
        with pytest.raises(DownloadError):
            fetch_run(name, tmp_path / "runs")
    assert server.seen == [f"/{path}.zip" for path in paths.values()]


def test_a_run_that_is_gone_is_called_gone(server, tmp_path):
    with pytest.raises(DownloadError, match="404.*if it is gone, nothing replaces it; train") as caught:
        fetch_run("m3", tmp_path / "runs")
    assert "source=" not in str(caught.value)
    assert not (tmp_path / "runs/esc-learner-m3").exists()


def test_what_was_never_published_is_not_asked_for(server, tmp_path):
    with pytest.raises(ValueError, match="WaveMsNet is another network"):
        fetch_run("wavemsnet", tmp_path / "runs")
    with pytest.raises(ValueError, match="no run 'envnetv2'.*envnet, m3, m5, m11, m18"):
        fetch_run("envnetv2", tmp_path / "runs")
    assert server.seen == [] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["a byte", "the end", "two runs"])
def test_a_damaged_archive_leaves_nothing(server, tmp_path, damage):
    archive = publish(server, tmp_path, copies=2 if damage == "two runs" else 1)
    content = bytearray(archive.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 255
    archive.write_bytes(content[:-100] if damage == "the end" else content)
    with pytest.raises(ValueError, match=r"esc-learner-m3\.zip.*[Dd]elete"):
        fetch_run("m3", tmp_path / "runs")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"esc-learner-m3.zip"}
