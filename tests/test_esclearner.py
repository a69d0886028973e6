"""esc-learner's runs, written here in its format: the same logits, both protocols, and its own files untouched."""

import ast
import json
import math
import re
import shutil
import zipfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import soundfile
import torch
from tiny import config, files_below, register, write_set
from torch import nn

import esc_lib.esclearner.fetch
from esc_lib import evaluate, fetch_run, load_run, predict, recipe
from esc_lib.data.datasets import ESC10_CLASSES
from esc_lib.data.download import BY_HAND, DownloadError, download
from esc_lib.models import ARCHITECTURES, READ_ONLY, build_model
from esc_lib.models.cpu import accelerate
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import open_run

# The settings that its README shows, of the published M11.
README_M11 = {
    "dataset": "urbansound8k", "data": "./data/urban8k-8000/", "eval_folds": [10],
    "save": "output/wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe", "keep_n": 2, "epochs": 100, "eval_every": 5,
    "lr": 0.0001, "batch_size": 64, "weight_decay": 0.0001, "m": 11, "n_classes": 10, "n_folds": 10, "fs": 8000,
    "max_length": 32079, "train_folds": [1, 2, 3, 4, 5, 6, 7, 8, 9],
}  # fmt: skip
ENVNET = {
    "dataset": "esc50", "model": "envnet", "data": "./data/esc50-16000/", "eval_folds": [4],
    "save": "output/envnet/3ea7995342f14062ab9816014010b287", "keep_n": 2, "epochs": 150, "eval_every": 10, "lr": 0.01,
    "lr_gamma": 0.1, "schedule": [80, 100, 120], "batch_size": 64, "weight_decay": 0.0005, "momentum": 0.9,
    "freeze_epoch": -1, "crops": 10, "bc": False, "n_classes": 50, "n_folds": 5, "fs": 16000, "max_length": 24014,
    "train_folds": [1, 2, 3, 5],
}  # fmt: skip


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


M3 = {**README_M11, "m": 3}
ENVNETV2 = {**ENVNET, "model": "envnetv2", "fs": 44100, "max_length": 66650}
WAVEMSNET = {**without(ENVNET, "model"), "epochs": 160, "eval_every": 5, "lr": 0.1, "fs": 44100, "max_length": 66250}
OLDER_WAVEMSNET = {**without(WAVEMSNET, "eval_folds"), "eval_fold": 4}
HISTORY = {"loss": {"1": 2.5, "2": 1.5}, "acc": {"1": 0.1, "2": 0.5}, "eval_loss": {"2": 2.0}, "eval_acc": {"2": 0.25}}
BEST, SECOND = "8k2px1vh6f", "en8952kyuj"
ACCURACIES = {BEST: (85, 0.6716), SECOND: (95, 0.6609)}
CHECKPOINTS = {name: {"name": name, "epoch": epoch, "eval_acc": acc} for name, (epoch, acc) in ACCURACIES.items()}


def write_run(folder, settings, state=None, history=HISTORY):
    """A run directory as esc-learner leaves it, with its own evaluation; both checkpoints hold `state`."""
    (folder / "eval").mkdir(parents=True)
    for name, content in (("config", settings), ("history", history), ("checkpoints", CHECKPOINTS)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=4), encoding="utf-8")
    (folder / "eval/result.json").write_text('{"acc": 0.6762}', encoding="utf-8")
    (folder / "eval/confusion_matrix.csv").write_text(",dog\ndog,1\n", encoding="utf-8")
    for name in CHECKPOINTS if state is not None else ():
        (folder / name).mkdir()
        torch.save(state, folder / name / f"{name}.model")
    return folder


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


# --- its networks, restated ---


def named(**layers):
    return nn.Sequential(OrderedDict(layers))


def block(*layers):
    return named(module=nn.Sequential(*layers))


def conv2d(n_in, n_out, kernel, stride=(1, 1), bias=False):
    return block(nn.Conv2d(n_in, n_out, kernel, stride, bias=bias), nn.BatchNorm2d(n_out), nn.ReLU())


def dense(n_in, n_out):
    return block(nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout())


def in_two_parts(features, bands, classifier):
    as_image = nn.Sequential(nn.Flatten(1, 2), nn.Unflatten(1, (1, bands)))  # (B, bands, 1, T) -> (B, 1, bands, T)
    features = named(**features, as_image=as_image)
    return named(row=nn.Unflatten(1, (1, 1)), feature_conv=features, classifier=named(**classifier))


def its_envnet():
    features = dict(conv1=conv2d(1, 40, (1, 8)), conv2=conv2d(40, 40, (1, 8)), p=nn.MaxPool2d((1, 160)))
    classifier = dict(
        conv3=conv2d(1, 50, (8, 13)), p3=nn.MaxPool2d(3), conv4=conv2d(50, 50, (1, 5)), p4=nn.MaxPool2d((1, 3)),
        flat=nn.Flatten(), fc5=dense(7700, 4096), fc6=dense(4096, 4096), fc7=nn.Linear(4096, 50),
    )  # fmt: skip
    return in_two_parts(features, 40, classifier)


def its_envnetv2():
    first, second = conv2d(1, 32, (1, 64), (1, 2)), conv2d(32, 64, (1, 16), (1, 2))
    classifier = dict(conv3=conv2d(1, 32, (8, 8)), conv4=conv2d(32, 32, (8, 8)), p4=nn.MaxPool2d((5, 3)))
    width = 32
    for i, (n_out, kernel) in enumerate(((64, 4), (128, 2), (256, 2))):
        classifier[f"conv{2 * i + 5}"] = conv2d(width, n_out, (1, kernel))
        classifier[f"conv{2 * i + 6}"] = conv2d(n_out, n_out, (1, kernel))
        classifier[f"p{2 * i + 6}"] = nn.MaxPool2d((1, 2))
        width = n_out
    classifier |= dict(flat=nn.Flatten(), fc11=dense(20480, 4096), fc12=dense(4096, 4096), fc13=nn.Linear(4096, 50))
    return in_two_parts(dict(conv1=first, conv2=second, p=nn.MaxPool2d((1, 64))), 64, classifier)


class ItsWaveMsNet(nn.Module):
    """Before its commit 92f460b `block` was called `feature`, and the convolutions had no bias."""

    def __init__(self, back_end="block", bias=True):
        super().__init__()
        for i, (kernel, stride) in enumerate(((11, 1), (51, 5), (101, 10)), 1):
            conv1, conv2 = conv2d(1, 32, (1, kernel), (1, stride), bias), conv2d(32, 32, (1, 11), bias=bias)
            pool = nn.MaxPool1d(150 // stride, padding=6)
            self.add_module(f"branch{i}", named(conv1=conv1, conv2=conv2, flat=nn.Flatten(1, 2), pool=pool))
        layers, width = {}, 1
        for i, (n_out, pool) in enumerate(((64, (3, 11)), (128, 2), (256, 2), (256, 2)), 1):
            layers |= {f"conv{i}": conv2d(width, n_out, (3, 3), bias=bias), f"pool{i}": nn.MaxPool2d(pool)}
            width = n_out
        self.add_module(back_end, named(**layers, flat=nn.Flatten()))
        self.fc1, self.fc2 = dense(1536, 4096), nn.Linear(4096, 50)

    def forward(self, x):
        *branches, back_end, fc1, fc2 = self.children()
        maps = torch.cat([branch(x.unsqueeze(2)) for branch in branches], dim=1)
        return fc2(fc1(back_end(maps.unsqueeze(1))))


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
        layers.append(block(conv, nn.BatchNorm1d(n_out), nn.ReLU()))
        width = n_out
    return block(*layers, nn.AvgPool1d(500 if m == 3 else 32), nn.Flatten(), nn.Linear(width, 10))


def random_norms(net):
    """Batch norms that have been trained; some channels vary so little that the norm's eps matters."""
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


@cache
def m3():
    torch.manual_seed(0)
    return random_norms(its_m_net(3))


# How it is built, its settings, and the number of tensors in its state dict.
NETWORKS = {
    "envnet": (its_envnet, ENVNET, 30),
    "envnetv2": (its_envnetv2, ENVNETV2, 66),
    "wavemsnet": (ItsWaveMsNet, WAVEMSNET, 74),
    "older wavemsnet": (partial(ItsWaveMsNet, "feature", bias=False), OLDER_WAVEMSNET, 64),
    **{f"m{m}": (partial(its_m_net, m), {**README_M11, "m": m}, n) for m, n in ((3, 16), (5, 30), (11, 72), (18, 121))},
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_its_weights_give_the_same_logits(tmp_path, name):
    make, settings, n_keys = NETWORKS[name]
    torch.manual_seed(0)
    net = random_norms(make())
    state = net.state_dict()
    assert len(state) == n_keys
    run = load_run(write_run(tmp_path / "run", settings, state))
    x = torch.rand(2, 1, settings["max_length"]) - 0.3  # neither mean 0 nor standard deviation 1
    x[1] *= 0.1
    expected = net(x)
    assert expected.std(dim=1).min() > 0.01, "else all are equal"
    del net, state
    model = run.model("best")
    for checkpoint in CHECKPOINTS:
        (run.path / checkpoint / f"{checkpoint}.model").unlink()  # hundreds of megabytes
    assert not model.training
    bound = dict(rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(model(x), expected, **bound)
    accelerate(model)
    torch.testing.assert_close(model(x), expected, **bound)
    with torch.enable_grad():
        torch.testing.assert_close(model(x), expected, **bound)


def test_its_networks_are_not_architectures_of_the_course():
    own = {"m3_esclearner", "m5_esclearner", "m11_esclearner", "m18_esclearner", "wavemsnet_esclearner"}
    assert set(READ_ONLY) == own and not own & set(ARCHITECTURES)
    assert sum(p.numel() for p in build_model("wavemsnet_esclearner", 50).parameters()) == 7_501_138
    for name, lengths in (("m3_esclearner", (32079, 32000)), ("wavemsnet_esclearner", (66250, 66150))):
        with pytest.raises(ValueError, match=f"EscLearner takes .* {lengths[0]}"):
            build_model(name, 10)(torch.zeros(1, 1, lengths[1]))
        with pytest.raises(ValueError, match=f"{name} has no recipe.*envnet"):
            recipe(name, "urbansound8k")


def test_the_rest_of_the_library_does_not_refer_to_it():
    """Outside the wing its name stands in docstrings and comments alone, and in the import that registers the wing."""
    library = Path(esc_lib.__file__).parent
    files = [path for path in library.rglob("*.py") if "esclearner" not in path.relative_to(library).parts]
    assert len(files) > 30
    referring = set()
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0] = ast.Pass()
        if re.search("esc.?learner", ast.unparse(tree), re.IGNORECASE):
            referring.add(path.relative_to(library).as_posix())
    assert referring == {"__init__.py"}


# --- settings ---

AS_M11 = TrainConfig(
    architecture="m11_esclearner", dataset="urbansound8k", sample_rate=8000, crop_samples=32079, crops=1,
    train_folds=tuple(range(1, 10)), eval_folds=(10,), epochs=100, eval_every=5, batch_size=64, keep_n=2,
    optimizer="adam", learning_rate=1e-4, weight_decay=1e-4, schedule=(), warmup=0, trim_silence=True, pad=True,
    between_class=False, min_peak=0, freeze_epoch=0,
)  # fmt: skip
AS_ENVNET = TrainConfig(
    architecture="envnet", dataset="esc50", sample_rate=16000, crop_samples=24014, crops=10, train_folds=(1, 2, 3, 5),
    eval_folds=(4,), epochs=150, eval_every=10, batch_size=64, keep_n=2, optimizer="sgd", momentum=0.9, nesterov=False,
    learning_rate=0.01, weight_decay=5e-4, schedule=(), warmup=0, trim_silence=True, pad=True, between_class=False,
    min_peak=0, freeze_epoch=0,
)  # fmt: skip
AS_V2 = replace(AS_ENVNET, architecture="envnetv2", sample_rate=44100, crop_samples=66650)
AS_WAVEMSNET = replace(
    AS_ENVNET, architecture="wavemsnet_esclearner", sample_rate=44100, crop_samples=66250, epochs=160, eval_every=5,
    learning_rate=0.1,
)  # fmt: skip
BETWEEN_CLASS = dict(between_class=True, trim_silence=False, pad=False)  # of clips as they are


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (README_M11, AS_M11),
        (ENVNET, AS_ENVNET),
        ({**ENVNET, "momentum": 0.8}, replace(AS_ENVNET, momentum=0.8)),
        (without(ENVNET, "eval_folds", "bc") | {"eval_fold": 4}, AS_ENVNET),
        ({**ENVNETV2, "bc": True}, replace(AS_V2, **BETWEEN_CLASS)),
        ({**ENVNET, "freeze_epoch": 50}, replace(AS_ENVNET, freeze_epoch=51)),  # after that epoch
        (WAVEMSNET, AS_WAVEMSNET),
        ({**WAVEMSNET, "eval_folds": 4}, AS_WAVEMSNET),
        (OLDER_WAVEMSNET, AS_WAVEMSNET),
        ({**WAVEMSNET, "freeze_epoch": 50}, AS_WAVEMSNET),  # it failed there
        ({**WAVEMSNET, "bc": True}, replace(AS_WAVEMSNET, **BETWEEN_CLASS)),
    ],
)
def test_settings_are_converted(tmp_path, settings, expected):
    found = load_run(write_run(tmp_path / "run", settings)).config
    assert found == expected
    # Its schedule was never applied.
    assert {found.learning_rate_at(epoch) for epoch in (1, 81, found.epochs)} == {settings["lr"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**ENVNET, "model": "abdolinet"}, "'abdolinet'.*envnet, envnetv2, wavemsnet and M-nets"),
        ({**README_M11, "m": 34}, "m is 34.*3, 5, 11 and 18"),
        ({**README_M11, "nesterov": True}, "unknown nesterov"),
        ({**README_M11, "bc": True}, "unknown bc"),
        ({**WAVEMSNET, "eval_fold": 4}, "unknown eval_fold"),
        (without(README_M11, "lr"), "lack lr"),
        (without(README_M11, "eval_folds"), "lack eval_folds"),
        ({**README_M11, "lr": "1e-4"}, "learning_rate is '1e-4'"),
        ({**ENVNET, "freeze_epoch": "never"}, "freeze_epoch is 'never'"),
        ({**ENVNET, "fs": 44100, "max_length": 66650}, "crop_samples is 66650"),
        ({**WAVEMSNET, "max_length": 66150}, "crop_samples is 66150: wavemsnet_esclearner takes 66250"),
        ({**ENVNET, "eval_folds": [3]}, r"\[3\] are in train_folds and in eval_folds"),
    ],
)
def test_settings_that_cannot_be_converted_are_named(tmp_path, settings, message):
    folder = write_run(tmp_path / "run", settings)
    with pytest.raises(ValueError, match=f"{re.escape(str(folder / 'config.json'))}.*{message}"):
        load_run(folder)


# --- the other files ---


def test_history_and_checkpoints(tmp_path):
    folder = write_run(tmp_path / "run", README_M11, history={**HISTORY, "loss": {"1": math.nan, "2": 1.5}})
    assert "NaN" in (folder / "history.json").read_text(encoding="utf-8")
    run = load_run(folder)
    assert math.isnan(run.history["loss"][1]) and run.history["loss"][2] == 1.5
    assert run.history["acc"] == {1: 0.1, 2: 0.5} and run.history["eval_acc"] == {2: 0.25}
    assert run.history["lr"] == {}
    assert (run.checkpoint("best")["epoch"], run.checkpoint("last")["epoch"]) == (85, 95)
    assert run.checkpoint(SECOND)["eval_acc"] == 0.6609
    assert not run.finished
    run.save_curves()


def test_a_run_of_its_first_format_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", ENVNET, {})
    (folder / "checkpoints.json").unlink()
    (folder / "history.json").unlink()
    (folder / BEST / f"{BEST}-history.json").write_text(json.dumps(HISTORY), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{re.escape(str(folder))} is a run of esc-learner's first format.*train"):
        load_run(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("m3", lambda state: state.update(x=Path()), "it would call pathlib"),
        ("m3", lambda state: state.pop("module.2.module.1.bias"), r"lacks module\.2\.module\.1\.bias$"),
        ("m3", lambda state: state.update({"module.7.bias": torch.zeros(1)}), r"holds the unknown module\.7\.bias$"),
        ("m3", lambda state: state.update({"module.6.bias": torch.zeros(50)}), r"fc\.bias"),
        ("m3", lambda state: state.clear(), r"lacks module\.0\.module\.0\.bias"),
        # With some of its biases it is not an older one, which had none.
        ("wavemsnet", lambda state: state.pop("block.conv2.module.0.bias"), r"lacks block\.conv2\.module\.0\.bias$"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, name, change, message):
    make, settings, _ = NETWORKS[name]
    state = dict(make().state_dict())
    change(state)
    run = load_run(write_run(tmp_path / "run", settings, state))
    with pytest.raises(ValueError, match=f"(?s){BEST}.model is not a checkpoint of {name}_esclearner.*{message}"):
        run.model("best")


def test_it_is_never_trained_on(tmp_path, monkeypatch):
    register(monkeypatch)
    folder = write_run(tmp_path / "run", README_M11, {})
    before = contents(folder)
    for settings in (config(), load_run(folder).config):
        with pytest.raises(ValueError, match=f"{re.escape(str(folder))} holds a run of another project.*run_dir"):
            open_run(folder, settings)
    assert contents(folder) == before


# --- two protocols ---


def stand_in(monkeypatch, logits, architecture):
    """Replaces a network by one that takes 100 samples at 1000 Hz and computes `logits(crops)`.

    Returns a list of all crops that it is given.
    """
    given = []

    class Net(nn.Module):
        SAMPLE_RATE, INPUT_SAMPLES, LENGTHS, FRONT_END = 1000, 100, (100,), ()

        def __init__(self, n_classes):
            super().__init__()
            self.others = n_classes - 2

        def forward(self, x):
            given.extend(x[:, 0].numpy())
            return nn.functional.pad(logits(x[:, 0]), (0, self.others))

    monkeypatch.setitem(READ_ONLY if architecture in READ_ONLY else ARCHITECTURES, architecture, Net)
    return given


def run_on(tmp_path, settings, sounds):
    """A run of such a stand-in, and a set of sounds [(target, samples)], all of the fold that is tested."""
    dataset, (fold,) = settings["dataset"].replace("esc50", "esc10"), settings["eval_folds"]
    write_set(tmp_path, [(fold, target, samples) for target, samples in sounds], dataset)
    trap = str(tmp_path / "trap")
    small = {"dataset": dataset, "fs": 1000, "max_length": 100, "save": trap, "data": trap}
    return write_run(tmp_path / "run", {**settings, **small}, {})


def result_of(folder, protocol="course", checkpoint="best", **changes):
    """An evaluation with the data beside the run."""
    return evaluate(folder, checkpoint, protocol=protocol, data_dir=folder.parent, device="cpu", **changes)


def of_two(second):
    """Logits 10 for class 0, and for class 1 ten more than that where `second` is true; others are zero."""
    return torch.stack([torch.full(second.shape, 10.0), 10.0 + 10 * second.float()], dim=1)


def clip(*levels, frames=100):
    """Stretches of constant level, full scale at 1."""
    return np.concatenate([np.full(frames, round(level * 32768), np.int32) for level in levels])


WITH_CROPS = pytest.mark.parametrize(
    ("architecture", "settings"), [("envnet", ENVNET), ("wavemsnet_esclearner", WAVEMSNET)], ids=["envnet", "wavemsnet"]
)


@WITH_CROPS
def test_its_protocol_leaves_out_crops_that_do_not_reach_a_fifth(tmp_path, monkeypatch, architecture, settings):
    given = stand_in(monkeypatch, lambda x: of_two(x.amin(dim=1) < -0.5), architecture)
    sounds = [
        (0, clip(0.9, 0.9)),
        (1, clip(-0.9, -0.9)),  # loud, though it never rises above zero
        (0, clip(0.15, 0.15)),
        (0, clip(0, 0)),
        (1, clip(0.201, -0.9)),  # the one crop that counts there is its quiet half
        (0, clip(0.199, 0)),
    ]
    folder = run_on(tmp_path, {**settings, "crops": 2}, sounds)
    there = result_of(folder, "esc-learner")
    assert there.predictions["file"].tolist() == ["audio/000.wav", "audio/004.wav"]
    assert (there.result["clips"], there.result["left_out"], there.result["correct"]) == (2, 4, 1)
    assert there.accuracy == 1 / 2
    assert len(given) == 3 and min(crop.max() for crop in given) > 0.2
    here = result_of(folder)
    assert (here.result["clips"], here.result["correct"], here.accuracy) == (6, 6, 1)
    assert not {"left_out", "protocol"} & here.result.keys()


@WITH_CROPS
def test_its_protocol_cuts_crops_from_the_clip_as_it_is(tmp_path, monkeypatch, architecture, settings):
    given = stand_in(monkeypatch, lambda x: of_two(x.amax(dim=1) > 0), architecture)
    wave = np.zeros(500, np.int32)
    wave[77:333] = np.random.default_rng(0).integers(20000, 30000, 256)
    folder = run_on(tmp_path, settings, [(0, wave)])
    result_of(folder, "esc-learner")
    stride = (500 - 100) // 9
    crops = [wave[n * stride : n * stride + 100] / 32768 for n in range(10)]
    np.testing.assert_array_equal(given, [crop for crop in crops if crop.max() >= 0.2])
    assert len(given) < 10
    given.clear()
    result_of(folder)
    padded = np.pad(wave[77:333] / 32768, 50)
    np.testing.assert_array_equal(given, [padded[n * 28 : n * 28 + 100] for n in range(10)])


def test_its_protocol_averages_logits(tmp_path, monkeypatch):
    """Two crops are for class 0, one is very much for class 1: it wins where logits are averaged."""
    table = torch.tensor([[103.0, 100.0], [100.0, 120.0]])
    stand_in(monkeypatch, lambda x: table[(x.mean(dim=1) > 0.7).long()], "envnet")
    for bc in (True, False):
        folder = run_on(tmp_path / f"{bc}", {**ENVNET, "crops": 3, "bc": bc}, [(1, clip(0.5, 0.5, 0.9))])
        there = result_of(folder, "esc-learner")
        assert there.accuracy == 1
        row = there.predictions.filter(regex="^p_").iloc[0].to_numpy(float)
        mean = np.array([2 * 103 + 100, 2 * 100 + 120, *[0] * 8]) / 3
        np.testing.assert_allclose(row, np.exp(mean) / np.exp(mean).sum(), rtol=1e-4, atol=1e-12)
        if bc:  # then the course's protocol has the same crops
            here = result_of(folder)
            assert here.accuracy == 0
            assert here.predictions.loc[0, "p_dog"] == pytest.approx(2 / 3 / (1 + math.exp(-3)), rel=1e-4)


@torch.no_grad()
def test_its_wavemsnet_in_both_protocols(tmp_path):
    """The network itself, accelerated, on noise: one clip is quiet at its end."""
    torch.manual_seed(0)
    net = random_norms(ItsWaveMsNet())
    net.fc2 = nn.Linear(4096, 10)
    waves = np.random.default_rng(0).integers(-20000, 20000, (2, 120_000))
    waves[1, 50_000:] //= 100
    file = write_set(tmp_path, [(4, 0, waves[0]), (4, 1, waves[1])], "esc10") / "esc10-1000/dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "sample_rate": 44100}), encoding="utf-8")
    file.parent.rename(tmp_path / "esc10-44100")
    settings = {**WAVEMSNET, "dataset": "esc10", "eval_folds": 4, "crops": 2}
    folder = write_run(tmp_path / "run", settings, net.state_dict())

    def logits_of(wave):  # (2, 10)
        crops = np.stack([wave[:66250], wave[-66250:]]) / 32768
        return net(torch.tensor(crops, dtype=torch.float32).unsqueeze(1))

    there, here = (result_of(folder, name).predictions.filter(regex="^p_") for name in ("esc-learner", "course"))
    first, second = (logits_of(wave) for wave in waves)
    expected = torch.stack([first.mean(dim=0), second[0]]).softmax(dim=1)
    np.testing.assert_allclose(there, expected, rtol=1e-3, atol=1e-6)
    expected = torch.stack([logits_of(np.pad(wave, 66250 // 2)).softmax(dim=1).mean(dim=0) for wave in waves])
    np.testing.assert_allclose(here, expected, rtol=1e-3, atol=1e-6)


def plainly_centred(wave, length=100):
    """Its preparation for M-nets, restated: to the last sound, then as many zeros before as after, or as few."""
    sounding = np.trim_zeros(wave, "b") if wave.any() else wave
    excess = len(sounding) - length
    if excess <= 0:
        return np.pad(sounding, (-excess // 2, -excess - -excess // 2)) / 32768
    return sounding[-(-excess // 2) :][:length] / 32768


def test_m_nets_are_given_the_whole_clip_centred_and_all_count(tmp_path, monkeypatch):
    given = stand_in(monkeypatch, lambda x: of_two(x.amin(dim=1) < 0), "m11_esclearner")
    random = np.random.default_rng(0)
    sounds = [(1, -random.integers(1, 3000, n)) for n in (40, 41, 99, 100, 101, 102, 151)]  # quiet, and below zero
    late = np.pad(random.integers(1, 3000, 20), (30, 17))  # begins with zeros, which stay, and ends with some
    sounds += [(0, late), (0, np.zeros(60, int))]
    folder = run_on(tmp_path, README_M11, sounds)
    there = result_of(folder, "esc-learner")
    assert (there.result["clips"], there.result["left_out"], there.accuracy) == (9, 0, 1)
    assert len(given) == 9
    for crop, (_, wave) in zip(given, sounds, strict=True):
        np.testing.assert_array_equal(crop, plainly_centred(wave))
    here = result_of(folder)
    assert (here.result["clips"], here.accuracy) == (9, 1)
    np.testing.assert_array_equal(np.flatnonzero(given[-2])[[0, -1]], [40, 59])  # zeros on both sides are trimmed


def test_its_own_figure_for_m_nets_is_a_mean_over_batches(tmp_path, monkeypatch):
    """Of five clips in batches of two, the last is a batch of its own: 1, 1/2 and 0 of them are right."""
    stand_in(monkeypatch, lambda x: of_two(x.amax(dim=1) > 0.5), "m11_esclearner")
    sounds = [(1, clip(0.9)), (0, clip(0.1)), (0, clip(0.1)), (0, clip(0.9)), (1, clip(0.1))]
    folder = run_on(tmp_path, {**README_M11, "batch_size": 2}, sounds)
    there = result_of(folder, "esc-learner")
    assert there.accuracy == 3 / 5
    assert there.result["acc_over_batches"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert "acc_over_batches" not in result_of(folder).result


def test_results_stand_beside_its_own_and_state_their_bias(tmp_path, monkeypatch):
    stand_in(monkeypatch, lambda x: of_two(x.amax(dim=1) < 9), "envnet")  # predicts class 1 for everything
    folder = run_on(tmp_path, ENVNET, [(0, clip(0.9)), (0, clip(0.9)), (1, clip(0.9)), (2, clip(0))])
    before = contents(folder)
    there, here, last = result_of(folder, "esc-learner"), result_of(folder), result_of(folder, checkpoint="result")
    folders = {"eval-esc-learner-best": there, "eval-best": here, "eval-last": last}
    assert all(found.path == folder / name for name, found in folders.items())
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == set(folders)
    assert not (tmp_path / "trap").exists(), "its own paths are never used"
    dog, rain, waves = ESC10_CLASSES[:3]  # rows are the true classes
    assert (there.confusion.loc[dog, rain], there.confusion.loc[rain, dog]) == (2, 0)
    assert (here.confusion.loc[waves, rain], there.confusion.loc[waves, rain]) == (1, 0)
    assert there.confusion.shape == (10, 10)
    written = json.loads((there.path / "result.json").read_text("utf-8"))
    assert written == there.result
    assert "1 quiet clip(s) left out and not counted" in written["protocol"] and "logits" in written["protocol"]
    assert (written["left_out"], written["clips"], written["correct"]) == (1, 3, 1)
    assert (written["checkpoint"], written["epoch"]) == (BEST, 85)
    assert (last.result["checkpoint"], last.result["epoch"]) == (SECOND, 95)
    for found in (here, there, last):
        assert "too high to report" in found.result["selection"]
        assert "nothing was chosen" not in found.result["selection"]


def test_evaluations_that_a_protocol_does_not_allow_are_refused(tmp_path, monkeypatch):
    stand_in(monkeypatch, lambda x: of_two(x.amax(dim=1) < 9), "envnet")
    folder = run_on(tmp_path, ENVNET, [(0, clip(-0.9)), (1, clip(0))])
    with pytest.raises(ValueError, match="protocol is 'theirs'.*course.*esc-learner"):
        result_of(folder, "theirs")
    with pytest.raises(ValueError, match=r"was trained on fold\(s\) \[3\]"):
        result_of(folder, "esc-learner", folds=[3])
    with pytest.raises(ValueError, match=r"no crop of .*run's test clips reaches 0\.2.*course"):
        result_of(folder, "esc-learner")
    assert not (folder / "eval-esc-learner-best").exists()
    register(monkeypatch)
    (tmp_path / "own").mkdir()
    own = open_run(tmp_path / "own", config())
    own.save_checkpoint(build_model("tiny", 10), 2, 0.5)
    with pytest.raises(ValueError, match="own is not a run of esc-learner.*course"):
        result_of(own.path, "esc-learner")


def test_it_predicts_recordings(tmp_path):
    folder = write_run(tmp_path / "run", M3, m3().state_dict())
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(32080) / 5) / 2, 8000)
    found = predict(folder, tmp_path / "tone.wav", checkpoint="best", device="cpu")
    assert found.top["probability"].between(0, 1).all() and len(found.top) == 5


# --- the published archives ---

HOST = "https://esc-learner-assets.s3.eu-central-1.amazonaws.com"
PUBLISHED = {
    "envnet": f"{HOST}/envnet/3ea7995342f14062ab9816014010b287.zip",
    "wavemsnet": f"{HOST}/wavemsnet/9a3f9b0ecba94a61b67572dec1a1aafd.zip",
    "m3": f"{HOST}/wavemxnet/54d6681d66b5417ea1dcd5a7332d75d6.zip",
    "m5": f"{HOST}/wavemxnet/dd6569688fb847d6a5edb4548fcb4930.zip",
    "m11": f"{HOST}/wavemxnet/e59195cf3d3a41c896ccd8f990cf1afe.zip",
    "m18": f"{HOST}/wavemxnet/be0a6daefcc04787a959c3c1b7c1b0cf.zip",
}
README_WAVEMSNET = PUBLISHED["wavemsnet"].replace(".s3.", ".")


@pytest.fixture
def network(monkeypatch):
    """Stands for all servers: `published`, the archive at each address, and `requested`, the addresses in order."""
    published, requested = {}, []

    def fake(url, path, *, max_bytes):
        requested.append(url)
        if url not in published:
            raise DownloadError(f"{url} answered 404 Not Found: check the address. {BY_HAND}")
        path.parent.mkdir(exist_ok=True)
        shutil.copy(published[url], path)

    monkeypatch.setattr(esc_lib.esclearner.fetch, "download", create_autospec(download, side_effect=fake))
    return SimpleNamespace(published=published, requested=requested)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def archive_of(tmp_path, settings=M3, inside="some/folder/", copies=1):
    """An archive of a run, whose folder is `source`."""
    run = write_run(tmp_path / "source", settings, m3().state_dict() if settings == M3 else None)
    with zipfile.ZipFile(tmp_path / "run.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for copy in range(copies):
            for name in sorted(files_below(run)):
                file.write(run / name, f"{'copy/' * copy}{inside}{name}")
    return tmp_path / "run.zip"


@pytest.mark.parametrize("inside", ["54d6681d66b5417ea1dcd5a7332d75d6/", "", "output/wavemxnet/54d6/"])
def test_a_published_run_is_downloaded_once(network, tmp_path, inside, capsys):
    network.published[PUBLISHED["m3"]] = archive_of(tmp_path, inside=inside)
    leftover = tmp_path / "runs/.unpacking-esc-learner-m3-abcd0123.part/content"
    leftover.mkdir(parents=True)  # of a process that was killed
    run = fetch_run("m3", save_dir=tmp_path / "runs")
    assert run.path == tmp_path / "runs/esc-learner-m3" and run.config.architecture == "m3_esclearner"
    assert contents(run.path) == contents(tmp_path / "source")
    assert names_in(tmp_path / "runs") == {".esc-learner-m3.lock", "esc-learner-m3"}
    assert "m3: no hash of this archive is known" in capsys.readouterr().err
    x = torch.rand(1, 1, 32079)
    with torch.no_grad():
        torch.testing.assert_close(run.model("best")(x), m3()(x), rtol=1e-5, atol=1e-5)
    (run.path / "mine").write_text("kept", encoding="utf-8")
    assert fetch_run("m3", save_dir=tmp_path / "runs") == run
    assert network.requested == [PUBLISHED["m3"]] and capsys.readouterr().err == ""
    assert (run.path / "mine").is_file()


def test_two_processes_that_fetch_the_same_run(network, tmp_path):
    """The second waits for the first, and then finds the run there."""
    network.published[PUBLISHED["m3"]] = archive_of(tmp_path)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: fetch_run("m3", save_dir=tmp_path / "runs"), range(2))
    assert first == second and network.requested == [PUBLISHED["m3"]]


@pytest.mark.parametrize("address", [PUBLISHED["wavemsnet"], README_WAVEMSNET], ids=["with .s3.", "as in its README"])
def test_wavemsnet_is_requested_at_both_addresses(network, tmp_path, address):
    network.published[address] = archive_of(tmp_path, OLDER_WAVEMSNET)
    run = fetch_run("wavemsnet", save_dir=tmp_path / "runs")
    assert run.path == tmp_path / "runs/esc-learner-wavemsnet" and run.config.architecture == "wavemsnet_esclearner"
    assert names_in(tmp_path / "runs") == {".esc-learner-wavemsnet.lock", "esc-learner-wavemsnet"}
    tried = [PUBLISHED["wavemsnet"], README_WAVEMSNET]
    assert network.requested == tried[: tried.index(address) + 1]


def test_missing_archives_are_reported_and_unknown_runs_not_requested(network, tmp_path):
    for name in PUBLISHED:
        with pytest.raises(DownloadError, match="404.*if it is gone, nothing replaces it; train") as caught:
            fetch_run(name, save_dir=tmp_path / "runs")
        assert "source=" not in str(caught.value)
    for name in ("envnetv2", "", None, 3, ["m3"], {}):
        with pytest.raises(ValueError, match=r"no run .*: choose one of envnet, wavemsnet, m3, m5, m11, m18") as error:
            fetch_run(name, save_dir=tmp_path / "runs")
        assert repr(name) in str(error.value)
    assert names_in(tmp_path / "runs") == {f".esc-learner-{name}.lock" for name in PUBLISHED}
    envnet, wavemsnet, *others = PUBLISHED.values()
    assert network.requested == [envnet, wavemsnet, README_WAVEMSNET, *others]


@pytest.mark.parametrize("damage", ["a byte", "the end", "two runs", "too large"])
def test_a_damaged_archive_leaves_nothing(network, tmp_path, monkeypatch, damage):
    archive = network.published[PUBLISHED["m3"]] = archive_of(tmp_path, copies=2 if damage == "two runs" else 1)
    content = bytearray(archive.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 255
    if damage == "too large":
        monkeypatch.setattr(esc_lib.esclearner.fetch, "MAX_BYTES", 100_000)
    archive.write_bytes(content[:-100] if damage == "the end" else content)
    with pytest.raises(ValueError, match=r"esc-learner-m3\.zip.*([Dd]elete|over max_bytes)"):
        fetch_run("m3", save_dir=tmp_path / "runs")
    assert names_in(tmp_path / "runs") == {".esc-learner-m3.lock", "esc-learner-m3.zip"}
