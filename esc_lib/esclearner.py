"""What esc-learner left behind: its settings, its weights and its way of testing, in the words of this library.

esc-learner is the older project that this one continues. Its run directories look like ours and differ in what is
written in them. Source: github.com/arrrrrmin/esc-learner, 2022, as its last version does it.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from esc_lib.augment import cut, even_starts, trim_silence
from esc_lib.clips import Clips
from esc_lib.config import TrainConfig
from esc_lib.models import ESC_LEARNER
from esc_lib.models.wavemxnet import WaveMxNet
from esc_lib.precision import computing_in

SILENT = 0.2  # crops of EnvNets that never rise above it (full scale is 1) are not heard
NO_WAVEMSNET = (
    "esc-learner's WaveMsNet is another network than the paper's, which this course has: it pads nothing and has "
    "7,501,138 weights instead of 22,181,202; train a wavemsnet instead"
)
_SHARED = {
    "dataset", "data", "eval_folds", "save", "keep_n", "epochs", "eval_every", "lr", "batch_size", "weight_decay",
    "n_classes", "n_folds", "fs", "max_length", "train_folds",
}  # fmt: skip
_OF_ENVNETS = {"model", "lr_gamma", "schedule", "momentum", "freeze_epoch", "crops", "bc"}


def is_of_esc_learner(settings: dict) -> bool:
    """Whether a `config.json` is esc-learner's: it alone has a "max_length"."""
    return "max_length" in settings


def config_of_esc_learner(settings: dict) -> TrainConfig:
    """esc-learner's settings as ours: what it did, which is not always what its settings say.

    The learning rate stayed as it was, because its schedule was never applied. Clips are trimmed and padded as they
    were in its training: both, or with between-class learning neither. (Zeros before a sound, which it meant to trim
    and did not, are trimmed here.) Its folders ("data", "save") mean nothing elsewhere and are left out.

    Args:
        settings: its `config.json`.

    Raises:
        ValueError: a setting is unknown or missing, by name; or of a network that cannot be read.
    """
    architecture = _architecture(settings)
    settings = dict(settings)
    if "eval_fold" in settings:  # until 28 September 2022
        settings["eval_folds"] = [settings.pop("eval_fold")]
    if architecture not in ESC_LEARNER:
        settings.setdefault("bc", False)  # younger than the first runs
    _refuse_other_keys(settings, _SHARED | ({"m"} if architecture in ESC_LEARNER else _OF_ENVNETS))
    return TrainConfig(
        architecture=architecture,
        dataset=settings["dataset"],
        sample_rate=settings["fs"],
        crop_samples=settings["max_length"],
        train_folds=settings["train_folds"],
        eval_folds=settings["eval_folds"],
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate=settings["lr"],
        schedule=(),
        weight_decay=settings["weight_decay"],
        eval_every=settings["eval_every"],
        keep_n=settings["keep_n"],
        **(_of_m_nets() if architecture in ESC_LEARNER else _of_envnets(settings)),
    )


def _architecture(settings: dict) -> str:
    if "m" in settings:
        name = f"m{settings['m']}_esclearner"
        if name not in ESC_LEARNER:
            raise ValueError(f"m is {settings['m']!r}: esc-learner has the M-nets 3, 5, 11 and 18")
        return name
    model = settings.get("model", "wavemsnet")  # only that of its WaveMsNet names no network
    if model == "wavemsnet":
        raise ValueError(NO_WAVEMSNET)
    if model not in ("envnet", "envnetv2"):
        raise ValueError(f"model is {model!r}: of esc-learner, envnet, envnetv2 and M-nets can be read")
    return model


def _refuse_other_keys(settings: dict, expected: set[str]) -> None:
    for what, keys in (("lack", expected - set(settings)), ("hold the unknown", set(settings) - expected)):
        if keys:
            raise ValueError(f"esc-learner's settings {what} {', '.join(sorted(keys))}")


def _of_m_nets() -> dict:
    """Whole clips in the middle of one crop; the learning rate is Adam's."""
    return dict(optimizer="adam", crops=1)


def _of_envnets(settings: dict) -> dict:
    frozen_after = settings["freeze_epoch"]  # -1: never
    return dict(
        momentum=settings["momentum"],
        nesterov=False,
        between_class=settings["bc"],
        freeze_epoch=frozen_after + 1 if frozen_after > 0 else 0,
        crops=settings["crops"],
        trim_silence=not settings["bc"],
        pad=not settings["bc"],
    )


def refuse_first_format(path: Path) -> None:
    """Raises ValueError for a run from before 15 September 2022, which does not say what its checkpoints are."""
    if not (path / "checkpoints.json").is_file() and any(path.glob("*/*-history.json")):
        raise ValueError(
            f"{path} is a run of esc-learner's first version, without a checkpoints.json: of its checkpoints no epoch "
            "and no accuracy is known, so it cannot be read; train again"
        )


def load_weights(model: nn.Module, state: dict) -> None:
    """Puts what esc-learner saved into our network, which then says what its own said.

    Args:
        model: EnvNet, EnvNet-v2 or one of `ESC_LEARNER`.
        state: its state dict.

    Raises:
        ValueError: a tensor is missing or unknown, by name.
        RuntimeError: a tensor's shape is another, by our name.
    """
    ours = model.state_dict()
    names = {
        theirs + key.removeprefix(layer): key
        for layer, theirs in _layers(model).items()
        for key in ours
        if key.startswith(f"{layer}.")
    }
    for what, keys in (("lacks", names.keys() - state.keys()), ("holds the unknown", state.keys() - names.keys())):
        if keys:
            raise ValueError(f"it {what} {', '.join(sorted(map(str, keys)))}")
    # Its M-nets' filters are of one dimension, ours of two, one of them 1.
    model.load_state_dict({key: _as_picture(state[theirs]) for theirs, key in names.items()})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5  # PyTorch's; our EnvNets have Chainer's


def _as_picture(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2) if weight.ndim == 3 else weight


def _layers(model: nn.Module) -> dict[str, str]:
    """What esc-learner calls each of our network's layers: `{our name: its name}`."""
    if isinstance(model, WaveMxNet):
        return _layers_of_m_nets(model)
    names = [name for name, layer in model.named_children() if not isinstance(layer, nn.Dropout)]
    layers = {}
    for name in names:
        part = "feature_conv" if name in model.FRONT_END else "classifier"
        inner = ".module" if name.startswith("conv") else "" if name == names[-1] else ".module.0"
        layers[name] = f"{part}.{name}{inner}"
    return layers


def _layers_of_m_nets(model: WaveMxNet) -> dict[str, str]:
    """There all layers are numbered in one row, poolings among them."""
    layers, number = {"conv1": "module.0.module"}, 1
    for i, stage in enumerate(model.stages):
        number += 1  # the pooling before the stage
        for j in range(len(stage)):
            layers[f"stages.{i}.{j}"] = f"module.{number}.module"
            number += 1
    return {**layers, "fc": f"module.{number + 2}"}  # after the average and the flattening


@torch.no_grad()
def tested_as_there(model: nn.Module, clips: Clips, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Every clip's class probabilities in esc-learner's way, and which clips count there.

    Of EnvNets, crops whose largest sample is below `SILENT` are left out, however far they swing to the other side; a
    clip that has no other does not count. Logits are averaged, not probabilities. Of M-nets, the clip is one crop and
    always counts; if it is nothing but zeros, which stopped esc-learner, it does so here too.

    Two differences stay. Its accuracy of M-nets is a mean over batches, the last of which is smaller; here it is the
    share of the clips. Its first EnvNet runs, those without "bc", heard trimmed and padded clips at test in their time.

    Args:
        model: network, in eval mode.
        clips: on the network's device, not trimmed.
        config: of the run.

    Shape:
        `(clips, n_classes)` float32 (zeros for those that do not count), `(clips,)` bool, both on the CPU
    """
    probabilities = torch.zeros(len(clips), len(clips.classes))
    counts = torch.zeros(len(clips), dtype=torch.bool)
    clips, start = _its_crops(clips, config)
    with computing_in(config.precision, clips.samples.device):
        for i, of_clip in enumerate(start):
            x = cut(clips, torch.full_like(of_clip, i), of_clip, config.crop_samples)
            if config.architecture not in ESC_LEARNER:
                x = x[x.amax(dim=(1, 2)) >= SILENT]
            if len(x):
                probabilities[i], counts[i] = model(x).float().mean(dim=0).softmax(dim=0).cpu(), True
    return probabilities, counts


def _its_crops(clips: Clips, config: TrainConfig) -> tuple[Clips, Tensor]:
    """The clips as they are heard there, and where each one's crops begin: `(clips, crops)`."""
    if config.architecture not in ESC_LEARNER:
        return clips, even_starts(clips.frames, config.crop_samples, config.crops, pad=False)
    trimmed = trim_silence(clips)
    clips = replace(clips, frames=trimmed.offsets + trimmed.frames - clips.offsets)  # leading zeros stay
    return clips, -((config.crop_samples - clips.frames) // 2)[:, None]  # the clip in the middle, or its middle
