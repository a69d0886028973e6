"""The settings of a run: everything that determines its numbers, checked when they are put together."""

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import combinations
from typing import Any

from esc_lib.arguments import check
from esc_lib.data.datasets import DATASETS, check_classes, check_folds, get_dataset, is_own, prepared_folder
from esc_lib.models import get_architecture
from esc_lib.models.blocks import lengths_text
from esc_lib.training.compute import PRECISIONS

FOLD_SETTINGS = ("train_folds", "eval_folds", "validation_folds")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the numbers of a run; saved as its `config.json`.

    Attributes:
        architecture: the network's name, as `build_model` takes it.
        dataset: the set's name, as `prepare` takes it.
        sample_rate: of the prepared set, in Hz.
        crop_samples: length of the network's input, in samples.
        train_folds: folds to train on.
        eval_folds: folds to test on; they may not overlap with `train_folds`. Without one nothing is tested: a network
            to be used, not to be reported on.
        validation_folds: folds that are neither trained nor tested on, and choose the epoch that is the run's result;
            without them it is the last epoch.
        epochs: how often every training clip is shown.
        batch_size: clips a step; the last, smaller batch of an epoch is used too.
        learning_rate: at the start, or at its peak (`one_cycle`).
        schedule: fractions of `epochs`, in rising order; after each the learning rate is multiplied by `lr_gamma`.
        lr_gamma: see `schedule`.
        warmup: number of first epochs that have a tenth of `learning_rate`.
        one_cycle: fraction of all steps in which the learning rate rises linearly to `learning_rate`; it then falls to
            zero along half a cosine (after L. N. Smith, N. Topin, "Super-Convergence", 2018, who let it fall linearly).
            0 for `schedule` and `warmup`.
        optimizer: "sgd" or "adam".
        momentum: of "sgd" alone.
        nesterov: whether the momentum is Nesterov's; of "sgd" alone.
        weight_decay: L2 penalty on every parameter.
        between_class: whether clips of two classes are mixed and the network predicts the ratio (BC learning).
        strong_augmentation: whether clips are stretched in time by 1.25^u, and the input's gain changes by up to 6 dB.
        equalizer: standard deviation, in dB, of the sliders of a random graphic equaliser that each training input goes
            through: another one for each, with a slider for each octave. 0 for none.
        freeze_epoch: from this epoch on only the classifier is trained, and the front-end is frozen; 1 is the first
            epoch, 0 never.
        unfreeze_epoch: from this epoch on, later than `freeze_epoch`, all of it is trained again; 0 never.
        start_from: run directory of the same network, whose parameters this one starts from: all but those of the last
            layers, whose size is the number of classes, if the classes are others. A "wavemsnet_logmel" may start from
            a "wavemsnet" too. "" for none.
        trim_silence: whether leading and trailing zeros of each clip are trimmed.
        pad: whether each clip is zero-padded by half a crop on both sides before crops are cut.
        min_peak: crops whose peak is lower (full scale is 1) are redrawn in training, at most ten times, and do not
            count at test, unless all crops of the clip are.
        crops: number of crops per clip at test, at equal distances, whose probabilities are averaged.
        precision: number format to compute in: "float32", "bfloat16", on GPUs also "tf32"; or "auto", which `train`
            replaces by the fastest that the device has circuits for. Tests and `predict` on a device without circuits
            for it compute in float32.
        compile: whether PyTorch compiles the network before it trains.
        seed: of parameters, order, crops and dropout.
        eval_every: epochs between two tests while it trains, each with a checkpoint; the last epoch always has both.
        keep_n: how many of the checkpoints that did best in these tests are kept; the last is kept in any case.
        classes: of a set of your own; empty for a published set.
        source_sha256: of a set of your own, the hash of the recordings and folds that `prepare` found: the run is of
            these alone. Empty for a published set.

    Raises:
        ValueError: a value that no run can have, by name.
    """

    architecture: str
    dataset: str
    sample_rate: int
    crop_samples: int
    train_folds: tuple[int, ...]
    eval_folds: tuple[int, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: tuple[float, ...]
    lr_gamma: float = 0.1
    warmup: int = 0
    one_cycle: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    between_class: bool = False
    strong_augmentation: bool = False
    freeze_epoch: int = 0
    start_from: str = ""
    trim_silence: bool = True
    pad: bool = True
    min_peak: float = 0.0
    crops: int = 10
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    eval_every: int = 10
    keep_n: int = 1
    validation_folds: tuple[int, ...] = ()
    unfreeze_epoch: int = 0
    classes: tuple[str, ...] = ()
    source_sha256: str = ""
    equalizer: float = 0.0

    def __post_init__(self) -> None:
        for name in (*FOLD_SETTINGS, "schedule", "classes"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} is {value!r}: expected a list")
            object.__setattr__(self, name, tuple(value))  # JSON and papermill have only lists
        _check(self)

    @property
    def monitored_folds(self) -> tuple[int, ...]:
        """The folds that the network is tested on while it trains."""
        return self.validation_folds or self.eval_folds

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's logits."""
        return self.classes or get_dataset(self.dataset).classes

    def is_frozen_at(self, epoch: int) -> bool:
        """Whether the front-end is frozen in an epoch, the first of which is 1."""
        return 0 < self.freeze_epoch <= epoch and not 0 < self.unfreeze_epoch <= epoch

    def learning_rate_at(self, epoch: int, done: float = 0.5) -> float:
        """Learning rate of an epoch, the first of which is 1; with `one_cycle`, where a fraction of it is `done`.

        >>> from esc_lib.training.recipes import recipe
        >>> [recipe("envnet", "esc10", epochs=8).learning_rate_at(e) for e in (1, 4, 5, 7)]
        [0.01, 0.01, 0.001, 0.0001]
        >>> once = recipe("envnet", "esc10", epochs=8, schedule=[], one_cycle=0.25)
        >>> [round(once.learning_rate_at(e, 0), 5) for e in (1, 2, 3, 6, 9)]
        [0.0, 0.005, 0.01, 0.005, 0.0]
        """
        if self.one_cycle:
            progress = (epoch - 1 + done) / self.epochs
            fall = (progress - self.one_cycle) / (1 - self.one_cycle)
            return self.learning_rate * min(progress / self.one_cycle, (1 + math.cos(math.pi * max(0, fall))) / 2)
        # Rounded, because 0.29 * 100 is a little less than 29 in floating point.
        steps = sum(epoch > round(fraction * self.epochs, 6) for fraction in self.schedule)
        factor: float = 0.1 if epoch <= self.warmup else self.lr_gamma**steps
        return float(f"{self.learning_rate * factor:.12g}")  # 0.001, not 0.0010000000000000002

    def to_dict(self) -> dict[str, Any]:
        """As it is written to `config.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The opposite of `to_dict`; it takes settings that were written before there were all of today's.

        Raises:
            ValueError: a key that is unknown or missing, by name.
        """
        refuse_unknown_keys(values)
        missing = [f.name for f in fields(cls) if f.name not in values and f.default is MISSING]
        if missing:
            raise ValueError(f"the configuration lacks {', '.join(missing)}")
        if values.get("compile") in ("on", "off"):  # until it was true or false
            values = {**values, "compile": values["compile"] == "on"}
        return cls(**values)


def refuse_unknown_keys(values: Mapping[str, object]) -> None:
    """Raises ValueError for a setting that `TrainConfig` does not have, with the nearest that it has."""
    known = [f.name for f in fields(TrainConfig)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"unknown setting {key!r}: {hint}")


def _check(config: TrainConfig) -> None:
    """Raises ValueError naming the first value that no run can have."""
    network = get_architecture(config.architecture)
    prepared_folder(config.dataset, config.sample_rate)
    _check_own_set(config)
    _check_folds(config)
    for name in ("crop_samples", "epochs", "batch_size", "crops", "eval_every", "keep_n"):
        check(name, getattr(config, name), int, 1, 10**9)
    for name, most in (("seed", 2**63 - 1), ("warmup", 10**9), ("freeze_epoch", 10**9), ("unfreeze_epoch", 10**9)):
        check(name, getattr(config, name), int, 0, most)
    if config.unfreeze_epoch and not 0 < config.freeze_epoch < config.unfreeze_epoch:
        raise ValueError(
            f"unfreeze_epoch is {config.unfreeze_epoch} and freeze_epoch {config.freeze_epoch}: the front-end is "
            "frozen first, say with freeze_epoch 1, and trained again later"
        )
    for name in ("momentum", "weight_decay", "lr_gamma", "min_peak"):
        check(name, getattr(config, name), float, 0, 1)
    for name, high in (("learning_rate", 100), ("one_cycle", 0.99), ("equalizer", 60)):
        check(name, getattr(config, name), float, 0, high)
    for name in ("nesterov", "between_class", "strong_augmentation", "trim_silence", "pad", "compile"):
        check(name, getattr(config, name), bool)
    if config.crop_samples not in network.LENGTHS:
        raise ValueError(
            f"crop_samples is {config.crop_samples}: {config.architecture} takes {lengths_text(network.LENGTHS)}"
        )
    for name, choices in (("optimizer", ("sgd", "adam")), ("precision", ("auto", *PRECISIONS))):
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} is {getattr(config, name)!r}: expected one of {', '.join(choices)}")
    if not isinstance(config.start_from, str):
        raise ValueError(f"start_from is {config.start_from!r}: expected a run's folder, or nothing")
    if config.one_cycle and (config.schedule or config.warmup):
        raise ValueError("one_cycle is a schedule of its own: set schedule to [] and warmup to 0, or one_cycle to 0")
    numbers = [f for f in config.schedule if isinstance(f, float) and 0 < f < 1]
    if list(config.schedule) != sorted(numbers):
        raise ValueError(
            f"schedule is {list(config.schedule)}: expected fractions of the epochs in rising order, say [0.5, 0.75]"
        )


def _check_own_set(config: TrainConfig) -> None:
    check("source_sha256", config.source_sha256, str)
    if not is_own(config.dataset):
        if config.classes or config.source_sha256:
            raise ValueError(f"classes and source_sha256 are for sets of your own: leave them out for {config.dataset}")
        return
    if not config.classes and not config.source_sha256:
        raise ValueError(
            f"dataset is {config.dataset!r}, which is none of {', '.join(DATASETS)}; if it is a set of your own, let "
            "recipe make the settings, which takes its classes and the hash of its recordings from the prepared set"
        )
    check_classes("classes", config.classes)
    if not re.fullmatch("[0-9a-f]{64}", config.source_sha256):
        raise ValueError(f"source_sha256 is {config.source_sha256!r}: expected the 64 digits of a SHA-256")


def _check_folds(config: TrainConfig) -> None:
    for name in FOLD_SETTINGS:
        check_folds(name, getattr(config, name), config.dataset, may_be_empty=name != "train_folds")
    for one, other in combinations(FOLD_SETTINGS, 2):
        both = sorted(set(getattr(config, one)) & set(getattr(config, other)))
        if both:
            raise ValueError(f"fold(s) {both} are in {one} and in {other}: each fold has one purpose")
