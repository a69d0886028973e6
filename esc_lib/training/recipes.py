"""How to train each network: as its paper does, or fast; which settings are published, with sources, and which ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from esc_lib.arguments import check
from esc_lib.data.clips import read_metadata
from esc_lib.data.datasets import get_dataset, is_own, prepared_folder
from esc_lib.models import get_architecture
from esc_lib.training.config import TrainConfig, refuse_unknown_keys


def recipe(
    architecture: str, dataset: str, *, kind: str = "paper", data_dir: str | Path | None = None, **changes: Any
) -> TrainConfig:
    """Settings for a network on a data set, tested on the last fold, with your changes.

    The paper's: standard training by default; only ACDNet, whose authors always trained with both `between_class` and
    `strong_augmentation`, has both. With `between_class=True` training takes twice the epochs, as in its paper.

    The fast ones are ours, for a good result in minutes on a processor: the network's own crops, strong augmentation,
    batches of 64, and a learning rate that rises and falls once in 100 epochs; between-class learning, except for
    EnvNet, which did better without it on a validation fold; and for M-nets, `logmel_cnn` and `logmel_m5` an equaliser,
    with which M11, M18 and `logmel_cnn` did better on validation folds. Those of EnvNet, EnvNet-v2, M11, M18, ACDNet
    and `logmel_cnn` were tried on validation folds of ESC-10 (`data/results/tuning.csv`, with trials of M5 too, which
    changed nothing). The others are taken from them: M-nets from M18 and M11, both WaveMsNets' from ACDNet with half
    its learning rate; and so it is on the other sets. WaveMsNet with the log-mel spectrogram keeps its phase 2's weight
    decay and is trained in one go; mixing and the equaliser were tried with it on one fold, and it kept mixing alone.

    `logmel_cnn` and `logmel_m5` are there for comparison, and so are their recipes, which are ours: every setting is
    EnvNet's or M5's, so that the front-end is the only difference; but for the fast recipe of `logmel_cnn`, which has
    200 epochs, between-class learning and the equaliser. From the last two EnvNet gained nothing, each alone, in 100.

    Args:
        architecture: one of `esc_lib.models.ARCHITECTURES`.
        dataset: "synthetic", "esc10", "esc50", "urbansound8k", or a set of your own that is prepared at the rate of the
            network: it gets ESC-10's settings.
        kind: "paper" or "fast".
        data_dir: where a set of your own is prepared, if not in `ESC_DATA` or the repository's `data/`.
        **changes: any of `TrainConfig`'s attributes. Without `train_folds`, the training folds are all but
            `eval_folds` and `validation_folds`; with `eval_folds=()` it trains on all folds and tests on none.

    Raises:
        ValueError: an unknown network, set or setting, by name, or a value that no run can have.

    >>> recipe("envnet", "esc50", eval_folds=[2]).train_folds
    (1, 3, 4, 5)
    >>> recipe("envnetv2", "esc50", between_class=True, strong_augmentation=True).epochs
    2000
    """
    network = get_architecture(architecture)
    if architecture not in RECIPES:
        raise ValueError(f"{architecture} has no recipe: choose one of {', '.join(RECIPES)}")
    check("kind", kind, str)
    if kind not in ("paper", "fast"):
        raise ValueError(f"kind is {kind!r}: expected paper or fast")
    refuse_unknown_keys(changes)
    sample_rate = changes.get("sample_rate", network.SAMPLE_RATE)
    own: dict[str, Any] = {}
    if is_own(dataset):
        metadata = read_metadata(prepared_folder(dataset, sample_rate, data_dir))
        all_folds = tuple(sorted(map(int, metadata["folds"])))
        own = {"classes": metadata["classes"], "source_sha256": metadata["origin"]["sha256"]}
    else:
        all_folds = get_dataset(dataset).folds
    eval_folds = changes.get("eval_folds", all_folds[-1:])
    held_out: list[int] = []
    for folds in (eval_folds, changes.get("validation_folds", ())):
        held_out += folds if isinstance(folds, list | tuple) else ()  # TrainConfig refuses anything else
    settings = RECIPES[architecture]("esc10" if dataset == "synthetic" or own else dataset)
    if kind == "fast":
        settings |= FAST | FAST_OWN[architecture]
    if changes.get("between_class") is True and not settings.get("between_class"):
        settings["epochs"] *= 2
    overrides = SYNTHETIC_OVERRIDES[architecture] if dataset == "synthetic" and kind == "paper" else {}
    return TrainConfig(
        **{
            "architecture": architecture,
            "dataset": dataset,
            "sample_rate": sample_rate,
            "crop_samples": network.INPUT_SAMPLES,
            "train_folds": tuple(fold for fold in all_folds if fold not in held_out),
            "eval_folds": eval_folds,
            **own,
            **settings,
            **overrides,
            **changes,
        }
    )


# Each network's settings on "esc50", "esc10" or "urbansound8k". What is not named is TrainConfig's default.


def _envnet(dataset: str) -> dict[str, Any]:
    """The authors' code for Tokozume, Ushiku, Harada, ICLR 2018; it trims the clips of ESC alone.

    Their Chainer keeps the learning rate in the velocity (v = mu v - lr g; p += mu^2 v - (1 + mu) lr g), and PyTorch
    outside of it: after a step of the schedule its updates fade over some 20 steps, PyTorch's drop at once.
    """
    return dict(
        epochs={"esc50": 600, "esc10": 600, "urbansound8k": 400}[dataset],
        batch_size=64,
        learning_rate=0.01,
        schedule=(0.5, 0.75),
        trim_silence=dataset != "urbansound8k",
    )


def _envnetv2(dataset: str) -> dict[str, Any]:
    """The same code. On ESC-10 it has a tenth of the learning rate, and no warm-up."""
    if dataset == "esc10":
        return _envnet(dataset)
    return dict(
        epochs={"esc50": 1000, "urbansound8k": 600}[dataset],
        batch_size=64,
        learning_rate=0.1,
        schedule=(0.3, 0.6, 0.9),
        warmup=10,
        trim_silence=dataset != "urbansound8k",
    )


def _wavemsnet(dataset: str) -> dict[str, Any]:
    """The authors' code for Zhu et al., IJCNN 2018, on ESC; on UrbanSound8K it is ours, the same.

    Three things are ours. The authors train on three folds, leave a fourth out, and keep the epoch that does best on
    the test fold; here it is all folds but the test fold, and the last epoch. They sum the crops' logits; here
    probabilities are averaged. Their 18 windows are 0.200 s apart; 18 spread evenly over five seconds, 0.206 s.
    """
    return dict(
        epochs=160,
        batch_size=32,
        learning_rate=0.01,
        schedule=(0.375, 0.75, 0.875),  # after 60, 120 and 140 of the 160 epochs
        nesterov=False,
        trim_silence=False,
        pad=False,
        min_peak=0.005,
        crops=18,
    )


def _wavemsnet_logmel(dataset: str) -> dict[str, Any]:
    """Phase 2. The authors did not publish its code; these are a public fork's settings, for every set."""
    return {
        **_wavemsnet(dataset),
        "epochs": 400,
        "schedule": (0.2, 0.35, 0.5),  # after 80, 140 and 200 of the 400 epochs
        "weight_decay": 1e-4,
        "freeze_epoch": 1,
    }


def _wavemxnet(dataset: str) -> dict[str, Any]:
    """Dai et al., ICASSP 2017, on UrbanSound8K: whole clips, Adam, L2 1e-4, no augmentation, 100 to 400 epochs.

    The paper states neither learning rate nor batch size; these are P. Remy's public Keras version's. The number
    of epochs is the least of the paper's. On ESC the recipe is ours: crops as the EnvNets have them, because these
    clips are longer than the network's four seconds.
    """
    whole = dataset == "urbansound8k"
    return dict(
        epochs=100,
        batch_size=128,
        learning_rate=0.001,
        schedule=(),
        optimizer="adam",
        weight_decay=1e-4,
        trim_silence=not whole,
        pad=not whole,
        crops=1 if whole else 10,
    )


def _acdnet(dataset: str) -> dict[str, Any]:
    """Mohaimenuzzaman et al., Pattern Recognition 2023: EnvNet-v2's recipe, with mixing and strong augmentation.

    The authors report the epoch that does best on the test fold; here the last epoch is the result. They do not say
    whether they trim UrbanSound8K; here it is as for EnvNet-v2. Their last layer's bias begins uniform, here at zero.
    """
    envnetv2 = _envnetv2("esc50" if dataset == "esc10" else dataset)  # ESC-10 has no exception here
    return {**envnetv2, "epochs": 2000, "between_class": True, "strong_augmentation": True}


M_NETS = ("m3", "m5", "m11", "m18", "m34res")
RECIPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "envnet": _envnet,
    "envnetv2": _envnetv2,
    "wavemsnet": _wavemsnet,
    "wavemsnet_logmel": _wavemsnet_logmel,
    **dict.fromkeys(M_NETS, _wavemxnet),
    "acdnet": _acdnet,
    "logmel_cnn": _envnet,
    "logmel_m5": _wavemxnet,
}

# What the fast recipes share, and what is each network's own.
FAST: dict[str, Any] = dict(
    epochs=100, batch_size=64, schedule=(), warmup=0, one_cycle=0.15, between_class=True, strong_augmentation=True,
    eval_every=20,
)  # fmt: skip
_ADAM: dict[str, Any] = dict(optimizer="adam", learning_rate=0.004, weight_decay=1e-4, equalizer=6.0)
_SGD: dict[str, Any] = dict(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, nesterov=True)
FAST_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(M_NETS, _ADAM),
    "acdnet": _SGD,
    "envnet": {**_SGD, "learning_rate": 0.05, "between_class": False},
    "envnetv2": {**_SGD, "learning_rate": 0.01},
    "wavemsnet": {**_SGD, "learning_rate": 0.05},
    # In one go, unlike in its paper: the branches learn beside the spectrogram.
    "wavemsnet_logmel": {**_SGD, "learning_rate": 0.05, "weight_decay": 1e-4, "freeze_epoch": 0},
}
FAST_OWN |= {
    "logmel_cnn": {**FAST_OWN["envnet"], "epochs": 200, "between_class": True, "equalizer": 6.0},
    "logmel_m5": FAST_OWN["m5"],
}

# The built-in sounds have no published recipe. These changes to ESC-10's are ours: small batches, few epochs and
# a learning rate that rises and falls once, so that each network learns in a minute or two on two cores. The largest
# get Adam and a low learning rate, because their first steps overshoot. All were looked at on a validation fold, never
# on the fold that is tested.
SYNTHETIC_OVERRIDES: dict[str, dict[str, Any]] = {
    "envnet": dict(epochs=12, batch_size=8, learning_rate=0.002, schedule=(), one_cycle=0.2, eval_every=4),
    "envnetv2": dict(
        epochs=6, batch_size=8, learning_rate=0.0001, schedule=(), one_cycle=0.2, optimizer="adam",
        crops=4, eval_every=2,
    ),
    "wavemsnet": dict(
        epochs=3, batch_size=4, learning_rate=0.0003, schedule=(), one_cycle=0.2, optimizer="adam",
        crops=4, eval_every=1,
    ),
    "acdnet": dict(
        epochs=8, batch_size=8, learning_rate=0.02, schedule=(), warmup=0, one_cycle=0.2,
        between_class=False, strong_augmentation=False, crops=4, eval_every=2,
    ),
    **dict.fromkeys(M_NETS, dict(epochs=8, batch_size=8, learning_rate=0.002, one_cycle=0.2, crops=2, eval_every=2)),
}  # fmt: skip
SYNTHETIC_OVERRIDES |= {
    "wavemsnet_logmel": SYNTHETIC_OVERRIDES["wavemsnet"],
    "logmel_cnn": SYNTHETIC_OVERRIDES["envnet"],
    "logmel_m5": SYNTHETIC_OVERRIDES["m5"],
}
