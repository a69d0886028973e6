"""The course's figures, each from plain tables and arrays; a notebook shows the figure that a function returns.

What draws is imported by the functions that need it: `import esc_lib` shall cost little more than `import torch`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.arguments import check
from esc_lib.notebooks import printable

if TYPE_CHECKING:
    from IPython.display import Audio
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Waveform = npt.NDArray[np.floating]


def _figure(size: tuple[float, float], **settings: Any) -> "Figure":
    """An empty figure, size (width, height) in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", **settings)


def literal(text: object) -> str:
    r"""Text from data for a title or label: matplotlib draws it as it is, in one line, where `$` starts no formula."""
    return printable(text).replace("$", r"\$")


def _check_table(name: str, table: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError unless a table has rows, columns, and among them these."""
    check(name, table, pd.DataFrame)
    missing = [column for column in columns if column not in table]
    if table.empty or missing:
        lacks = f"no column {', '.join(missing)}" if missing else "no rows or no columns"
        raise ValueError(f"{name} is a table with {lacks}: pass one that has them")


def plot_curves(history: dict[str, dict[int, float]], kind: str) -> "Figure":
    """Learning curve of a run's "loss" or "acc" (`kind`): on the training clips as shown, and on held-out folds."""
    from matplotlib.ticker import MaxNLocator

    if kind not in ("loss", "acc"):
        raise ValueError(f"kind is {kind!r}: expected 'loss' or 'acc'")
    check("history", history, dict)
    if missing := {kind, f"eval_{kind}"} - set(history):
        raise ValueError(f"history has no {', '.join(sorted(missing))}: pass the history of a run")
    figure = _figure((6, 3.5))
    axes = figure.subplots()
    for key, label, style in ((kind, "training", ".-"), (f"eval_{kind}", "evaluation", "o-")):
        axes.plot(list(history[key]), list(history[key].values()), style, label=label)
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0.5, max(history[kind], default=1) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if kind == "acc":
        axes.set(ylabel="accuracy", ylim=(0, 1))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def plot_histories(history: pd.DataFrame, title: str = "") -> "Figure":
    """Learning curves of a cross-validation: loss on the training clips as shown, accuracy on the tested fold.

    Args:
        history: of `CrossValidation`; a thin line per run, and a thick one for their mean.
        title: above both figures.
    """
    _check_table("history", history, "fold", "seed", "epoch", "loss", "eval_acc")
    figure = _figure((8, 3))
    figure.suptitle(literal(title))
    for axes, key, style in zip(figure.subplots(1, 2), ("loss", "eval_acc"), ("-", "o-"), strict=True):
        known = history.dropna(subset=[key])
        for _, run in known.groupby(["fold", "seed"]):
            axes.plot(run["epoch"], run[key], style, color="tab:gray", alpha=0.6, linewidth=0.7, markersize=2)
        mean = known.groupby("epoch")[key].mean()
        axes.plot(mean.index, mean, style, color="tab:blue", linewidth=2, label="mean", markersize=4)
        axes.set(xlabel="epoch", ylabel="training loss" if key == "loss" else "accuracy on the test fold")
        axes.grid(alpha=0.3)
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    return figure


def plot_confusion(confusion: pd.DataFrame, title: str = "") -> "Figure":
    """Confusion matrix as a heat map: number of clips, rows true, columns predicted."""
    import seaborn as sns

    _check_table("confusion", confusion)
    if confusion.to_numpy().dtype.kind not in "iu":
        raise ValueError("confusion holds other values than numbers of clips: expected whole numbers")
    confusion = confusion.rename(index=literal, columns=literal)
    size = 2.5 + 0.4 * len(confusion)
    figure = _figure((size + 1, size))
    axes = figure.subplots()
    sns.heatmap(confusion, annot=len(confusion) <= 10, fmt="d", cmap="Blues", cbar=False, square=True, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title=literal(title))
    return figure


def plot_reliability(table: pd.DataFrame, title: str = "") -> "Figure":
    """Reliability diagram of a table from `esc_lib.evaluation.reliability`: accuracy against confidence.

    A calibrated network lies on the diagonal; the larger a point, the more clips.
    """
    _check_table("table", table, "confidence", "accuracy", "clips")
    figure = _figure((4, 4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    axes.plot(table["confidence"], table["accuracy"], linewidth=1)
    axes.scatter(table["confidence"], table["accuracy"], 400 * table["clips"] / table["clips"].sum())
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=literal(title))
    return figure


def plot_windows(windows: pd.DataFrame, title: str = "") -> "Figure":
    """Probability of each class over time: `windows` from `esc_lib.predict`."""
    _check_table("windows", windows)
    figure = _figure((7, 0.8 + 0.25 * windows.shape[1]), dpi=72)
    axes = figure.subplots()
    rows = np.arange(windows.shape[1]) + 0.5
    image = axes.pcolormesh(windows.index, rows, windows.T, vmin=0, vmax=1, cmap="viridis", shading="nearest")
    axes.set_yticks(rows, [literal(name) for name in windows.columns])
    axes.invert_yaxis()
    axes.set(xlabel="seconds", title=literal(title))
    figure.colorbar(image, ax=axes, label="probability")
    return figure


def plot_waveforms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Waveforms over time in seconds, one small figure each, titled with their names.

    Args:
        waveforms: by name, each `(frames,)`, full scale at 1.0.
        sample_rate: Hz.
        columns: small figures side by side.
    """
    figure, grid = _small_figures(waveforms, sample_rate, columns)
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        axes.plot(np.arange(len(waveform)) / sample_rate, waveform, linewidth=0.4)
        axes.set_title(literal(name), fontsize=9)
    return figure


def plot_spectrograms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Spectrograms, Hz over seconds, one small figure each; black is 80 dB below the maximum of each.

    Args:
        waveforms, sample_rate, columns: as for `plot_waveforms`.
    """
    figure, grid = _small_figures(waveforms, sample_rate, columns)
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        # A faint noise floor keeps the logarithm of digital silence finite, and fills sounds shorter than a segment.
        sound = np.random.default_rng(0).normal(0, 1e-6, max(len(waveform), 513))
        sound[: len(waveform)] += waveform
        levels, _, _, image = axes.specgram(sound, NFFT=512, Fs=sample_rate, noverlap=256)
        top = 10 * np.log10(levels.max())
        image.set(cmap="magma", clim=(top - 80, top))
        axes.set_title(literal(name), fontsize=9)
    return figure


def _small_figures(waveforms: dict[str, Waveform], sample_rate: int, columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure with axes for each waveform, in rows of `columns`; the last row says that time is in seconds."""
    check("waveforms", waveforms, dict)
    check("columns", columns, int, 1, 100)
    check("number of waveforms", n := len(waveforms), int, 1, 1000)
    for name, waveform in waveforms.items():
        _check_sound(f"waveforms[{name!r}]", waveform, sample_rate)
    rows = -(-n // columns)
    # A coarse grid of dots: noise does not compress, and notebooks are committed with their figures.
    figure = _figure((max(4.5, 2.6 * columns), 1.6 * rows), dpi=72)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.tick_params(labelsize=7)
    for axes in grid[-columns:]:
        axes.set_xlabel("seconds", fontsize=8)
    for axes in grid[n:]:
        axes.set_visible(False)
    return figure, grid


def _check_sound(name: str, waveform: Waveform, sample_rate: int) -> None:
    """Raises ValueError unless a waveform is one channel with samples, and its rate one that a sound file can state."""
    check("sample_rate", sample_rate, int, 1, 2**31 - 1)
    if np.ndim(waveform) != 1 or len(waveform) == 0:
        raise ValueError(f"{name} has the shape {np.shape(waveform)}: expected one channel, with samples")


def player(waveform: Waveform, sample_rate: int, seconds: float = 1.5) -> "Audio":
    """A player for the loudest `seconds` of a waveform; short, because the sound is stored in the notebook.

    Args:
        waveform: `(frames,)`, full scale at 1.0.
        sample_rate: Hz.
        seconds: at most this much is played.
    """
    from IPython.display import Audio

    _check_sound("waveform", waveform, sample_rate)
    check("seconds", seconds, float, 0.01, 3600)
    length = min(len(waveform), max(1, int(seconds * sample_rate)))
    waveform = np.asarray(waveform)
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=float))])
    start = int(np.argmax(energy[length:] - energy[: len(energy) - length]))
    # Quiet sounds are normalised; silence cannot be.
    return Audio(waveform[start : start + length], rate=sample_rate, normalize=bool(waveform.any()))
