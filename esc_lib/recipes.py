"""How the papers trained their networks: the settings of a run, and who published which.

Source: Y. Tokozume, Y. Ushiku, T. Harada, "Learning from Between-class Examples for Deep Sound Recognition",
ICLR 2018, and the authors' code.
"""

import difflib
from dataclasses import MISSING, asdict, dataclass, fields, replace

from esc_lib.datasets import get_dataset, prepared_folder
from esc_lib.models import get_architecture


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of a run; saved as its `config.json`.

    Attributes:
        architecture: the network's name, as `build_model` takes it.
        dataset: the set's name, as `prepare` takes it.
        sample_rate: of the prepared set, in Hz.
        crop_samples: length of the network's input, in samples.
        train_folds, eval_folds: official folds to learn from and to test on; they may not overlap.
        epochs: times that every training clip is shown.
        batch_size: clips a step; the last, smaller batch of an epoch is used too.
        learning_rate: at the start.
        schedule: fractions of `epochs`, in rising order; after each the learning rate is multiplied by `lr_gamma`.
        lr_gamma: see `schedule`.
        momentum: Nesterov's.
        weight_decay: L2 penalty on every parameter.
        trim_silence: whether leading and trailing zeros of each clip are cut off.
        crops: at equal distance per clip at test, whose probabilities are averaged.
        seed: of weights, order, crops and dropout.
        eval_every: epochs between two tests on `eval_folds`, each with a checkpoint; the last epoch always has both.
        keep_n: how many of the checkpoints that did best on `eval_folds` are kept; the last is kept in any case.

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
    momentum: float = 0.9
    weight_decay: float = 5e-4
    trim_silence: bool = True
    crops: int = 10
    seed: int = 0
    eval_every: int = 10
    keep_n: int = 1

    def __post_init__(self):
        for name in ("train_folds", "eval_folds", "schedule"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} is {value!r}: expected a list")
            object.__setattr__(self, name, tuple(value))  # JSON and papermill have only lists
        _check(self)

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, the first of which is 1.

        >>> [recipe("envnet", "esc10", epochs=8).learning_rate_at(e) for e in (1, 4, 5, 7)]
        [0.01, 0.01, 0.001, 0.0001]
        """
        # Rounded, because 0.29 * 100 is a little less than 29 in floating point.
        steps = sum(epoch > round(fraction * self.epochs, 6) for fraction in self.schedule)
        return float(f"{self.learning_rate * self.lr_gamma**steps:.12g}")  # 0.001, not 0.0010000000000000002

    def to_dict(self) -> dict:
        """As it is written to `config.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "TrainConfig":
        """The opposite of `to_dict`.

        Raises:
            ValueError: a key that is unknown or missing, by name.
        """
        refuse_unknown_keys(values)
        missing = [f.name for f in fields(cls) if f.name not in values and f.default is MISSING]
        if missing:
            raise ValueError(f"the configuration lacks {', '.join(missing)}")
        return cls(**values)


# Epochs of standard learning, by data set: the authors' code. The other settings are the same for all three.
# Nobody published a recipe for the built-in sounds: that is ours, made to learn something in two minutes on two cores.
_ENVNET_EPOCHS = {"esc50": 600, "esc10": 600, "urbansound8k": 400, "synthetic": 10}
_ENVNET_QUICK = dict(batch_size=8, schedule=(0.7, 0.9), eval_every=5)


def recipe(architecture: str, dataset: str, **changes) -> TrainConfig:
    """The published settings for a network on a data set, tested on the last official fold, with your changes.

    Args:
        architecture: "envnet".
        dataset: "synthetic", "esc10", "esc50" or "urbansound8k".
        **changes: any of `TrainConfig`'s attributes. If `eval_folds` is given and `train_folds` is not, the
            training folds are all others.

    Raises:
        ValueError: an unknown network, set or setting, by name, or a value that no run can have.

    >>> recipe("envnet", "esc50", eval_folds=[2]).train_folds
    (1, 3, 4, 5)
    """
    network, spec = get_architecture(architecture), get_dataset(dataset)
    refuse_unknown_keys(changes)
    eval_folds = changes.get("eval_folds", spec.folds[-1:])
    held_out = eval_folds if isinstance(eval_folds, (list, tuple)) else ()  # TrainConfig refuses anything else
    config = TrainConfig(
        architecture=architecture,
        dataset=dataset,
        sample_rate=network.SAMPLE_RATE,
        crop_samples=network.INPUT_SAMPLES,
        train_folds=tuple(fold for fold in spec.folds if fold not in held_out),
        eval_folds=eval_folds,
        epochs=_ENVNET_EPOCHS[dataset],
        batch_size=64,
        learning_rate=0.01,
        schedule=(0.5, 0.75),
        trim_silence=dataset != "urbansound8k",  # the authors trim ESC alone
    )
    quick = _ENVNET_QUICK if dataset == "synthetic" else {}
    return replace(config, **{**quick, **changes})


def refuse_unknown_keys(values: dict) -> None:
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
    _check_folds(config)
    for name in ("crop_samples", "epochs", "batch_size", "crops", "eval_every", "keep_n"):
        _check_number(config, name, int, 1, 10**9)
    _check_number(config, "seed", int, 0, 2**63 - 1)
    for name, high in (("learning_rate", 100), ("momentum", 1), ("weight_decay", 1), ("lr_gamma", 1)):
        _check_number(config, name, (int, float), 0, high)
    if config.crop_samples != network.INPUT_SAMPLES:
        raise ValueError(
            f"crop_samples is {config.crop_samples}: {config.architecture} takes {network.INPUT_SAMPLES} samples"
        )
    if not isinstance(config.trim_silence, bool):
        raise ValueError(f"trim_silence is {config.trim_silence!r}: expected true or false")
    numbers = [f for f in config.schedule if isinstance(f, float) and 0 < f < 1]
    if list(config.schedule) != sorted(numbers):
        raise ValueError(
            f"schedule is {list(config.schedule)}: expected fractions of the epochs in rising order, say [0.5, 0.75]"
        )


def _check_folds(config: TrainConfig) -> None:
    folds = get_dataset(config.dataset).folds
    for name in ("train_folds", "eval_folds"):
        chosen = getattr(config, name)
        wrong = [fold for fold in chosen if type(fold) is not int or fold not in folds or chosen.count(fold) > 1]
        if wrong or not chosen:
            raise ValueError(
                f"{name} is {list(chosen)}: expected at least one of {config.dataset}'s folds {list(folds)}, each once"
            )
    both = sorted(set(config.train_folds) & set(config.eval_folds))
    if both:
        raise ValueError(f"fold(s) {both} stand in train_folds and in eval_folds: no test on what was learned from")


def _check_number(config: TrainConfig, name: str, kind: type | tuple, low: int, high: int) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        hint = " (in YAML write 1.0e-3, not 1e-3)" if isinstance(value, str) else ""
        raise ValueError(f"{name} is {value!r}: expected {what} from {low} to {high}{hint}")
