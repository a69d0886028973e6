"""Opening esc-learner's run directories: its settings and weights in the terms of this library.

They look like this course's and differ in their contents. Source: github.com/arrrrrmin/esc-learner, 2022, as its last
version behaves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from esc_lib.esclearner.models import NETWORKS
from esc_lib.files import read_json
from esc_lib.models.wavemxnet import WaveMxNet
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import Run, read_history

NO_WAVEMSNET = (
    "esc-learner's WaveMsNet is another network than the paper's, which this course has: it pads nothing and has "
    "7,501,138 weights instead of 22,181,202; train a wavemsnet instead"
)
_SHARED = {
    "dataset", "data", "eval_folds", "save", "keep_n", "epochs", "eval_every", "lr", "batch_size", "weight_decay",
    "n_classes", "n_folds", "fs", "max_length", "train_folds",
}  # fmt: skip
_OF_ENVNETS = {"model", "lr_gamma", "schedule", "momentum", "freeze_epoch", "crops", "bc"}


@dataclass
class EscLearnerRun(Run):
    """A run of esc-learner: read and tested, never written to."""

    keeps_only_best: ClassVar[bool] = True

    def load_weights(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Puts a checkpoint's tensors into a fresh network, under its own names."""
        load_weights(model, state)


def read_run(path: Path, settings: dict[str, Any]) -> EscLearnerRun | None:
    """Opens a run directory of esc-learner; None if it is none. Only its settings have a "max_length".

    Args:
        path: the run directory.
        settings: its `config.json`.

    Raises:
        ValueError: a setting is unknown or missing, by name; or it is a run that cannot be read.
    """
    if "max_length" not in settings:
        return None
    try:
        config = convert_config(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'}: {error}") from error
    refuse_first_format(path)
    return EscLearnerRun(path, config, read_history(path), read_json(path / "checkpoints.json", dict))


def convert_config(settings: dict[str, Any]) -> TrainConfig:
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
    if architecture not in NETWORKS:
        settings.setdefault("bc", False)  # younger than the first runs
    _refuse_other_keys(settings, _SHARED | ({"m"} if architecture in NETWORKS else _OF_ENVNETS))
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
        **(_of_m_nets() if architecture in NETWORKS else _of_envnets(settings)),
    )


def _architecture(settings: dict[str, Any]) -> str:
    if "m" in settings:
        name = f"m{settings['m']}_esclearner"
        if name not in NETWORKS:
            raise ValueError(f"m is {settings['m']!r}: esc-learner has the M-nets 3, 5, 11 and 18")
        return name
    model = settings.get("model", "wavemsnet")  # only that of its WaveMsNet names no network
    if model == "wavemsnet":
        raise ValueError(NO_WAVEMSNET)
    if model not in ("envnet", "envnetv2"):
        raise ValueError(f"model is {model!r}: of esc-learner, envnet, envnetv2 and M-nets can be read")
    return model


def _refuse_other_keys(settings: dict[str, Any], expected: set[str]) -> None:
    for what, keys in (("lack", expected - set(settings)), ("hold the unknown", set(settings) - expected)):
        if keys:
            raise ValueError(f"esc-learner's settings {what} {', '.join(sorted(keys))}")


def _of_m_nets() -> dict[str, Any]:
    """Whole clips in the middle of one crop; the learning rate is Adam's."""
    return dict(optimizer="adam", crops=1)


def _of_envnets(settings: dict[str, Any]) -> dict[str, Any]:
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


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts what esc-learner saved into our network, which then says what its own said.

    Args:
        model: EnvNet, EnvNet-v2 or one of `NETWORKS`.
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
