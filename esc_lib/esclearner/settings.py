"""esc-learner's settings in this course's terms: what it did, which is not always what they say."""

from typing import Any

from esc_lib.esclearner.models import M_NETS
from esc_lib.training.config import TrainConfig

# As `model` names them; WaveMsNet's settings have no `model`.
_WITHOUT_M = {"envnet": "envnet", "envnetv2": "envnetv2", "wavemsnet": "wavemsnet_esclearner"}
_SHARED = {
    "dataset", "data", "eval_folds", "save", "keep_n", "epochs", "eval_every", "lr", "batch_size", "weight_decay",
    "n_classes", "n_folds", "fs", "max_length", "train_folds",
}  # fmt: skip
_OF_SGD = {"lr_gamma", "schedule", "momentum", "freeze_epoch", "crops", "bc"}  # M-nets are trained with Adam


def convert_settings(settings: dict[str, Any]) -> TrainConfig:
    """The settings in a run's `config.json` as a `TrainConfig`.

    The learning rate is constant, because esc-learner never applied its schedule. Clips are trimmed and padded as in
    its training: both, or with between-class learning neither. (It meant to trim leading zeros too and did not; here
    they are trimmed.) Its folders ("data", "save") mean nothing elsewhere and are left out.

    Raises:
        ValueError: a setting is unknown, missing or impossible, by name; or there is no such network.
    """
    architecture = _architecture(settings)
    settings = _updated(settings)
    if architecture in M_NETS:
        _check_keys(settings, _SHARED | {"m"})
        others: dict[str, Any] = dict(optimizer="adam", crops=1)  # a clip is a single crop, centred in it
    else:
        settings.setdefault("bc", False)  # the first runs are older than it
        _check_keys(settings, _SHARED | _OF_SGD | ({"model"} & settings.keys()))
        others = _of_sgd(settings, architecture)
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
        **others,
    )


def _architecture(settings: dict[str, Any]) -> str:
    if "m" in settings:
        name = f"m{settings['m']}_esclearner"
        if name not in M_NETS:
            raise ValueError(f"m is {settings['m']!r}: esc-learner has the M-nets 3, 5, 11 and 18")
        return name
    model = settings.get("model", "wavemsnet")
    if model not in _WITHOUT_M:
        raise ValueError(f"model is {model!r}: of esc-learner's networks, {', '.join(_WITHOUT_M)} and M-nets are read")
    return _WITHOUT_M[model]


def _updated(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy with `eval_folds` as a list.

    Until 28 September 2022 it was `eval_fold`, a number; of WaveMsNet `eval_folds` is a number too.
    """
    settings = dict(settings)
    if "eval_folds" not in settings and "eval_fold" in settings:
        settings["eval_folds"] = settings.pop("eval_fold")
    if isinstance(settings.get("eval_folds"), int):
        settings["eval_folds"] = [settings["eval_folds"]]
    return settings


def _check_keys(settings: dict[str, Any], expected: set[str]) -> None:
    for problem, keys in (("lack", expected - settings.keys()), ("hold the unknown", settings.keys() - expected)):
        if keys:
            raise ValueError(f"esc-learner's settings {problem} {', '.join(sorted(keys))}")


def _of_sgd(settings: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Of the EnvNets and WaveMsNet, whose clips, crops and optimiser are the same."""
    last_trained = settings["freeze_epoch"]  # the front-end's last epoch; -1 if it is never frozen
    if not isinstance(last_trained, int):
        raise ValueError(f"freeze_epoch is {last_trained!r}: expected a whole number")
    freezes = last_trained > 0 and architecture != "wavemsnet_esclearner"  # whose training broke off there
    return dict(
        momentum=settings["momentum"],
        nesterov=False,
        between_class=settings["bc"],
        freeze_epoch=last_trained + 1 if freezes else 0,
        crops=settings["crops"],
        trim_silence=not settings["bc"],
        pad=not settings["bc"],
    )
