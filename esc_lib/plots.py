"""The course's figures, each from plain tables and arrays; a notebook shows the figure that a function returns.

What draws is imported by the functions that need it: `import esc_lib` shall cost little more than `import torch`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from IPython.display import Audio
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Waveform = npt.NDArray[np.floating]


def _figure(size: tuple[float, float], **settings: Any) -> "Figure":
    """An empty figure, size (width, height) in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", **settings)


def plot_curves(history: dict[str, dict[int, float]], kind: str) -> "Figure":
    """Learning curve of a run's "loss" or "acc" (`kind`): on the training clips as shown, and on held-out folds."""
    from matplotlib.ticker import MaxNLocator

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


def plot_confusion(confusion: pd.DataFrame, title: str = "") -> "Figure":
    """Confusion matrix as a heat map: number of clips, rows true, columns predicted."""
    import seaborn as sns

    size = 2.5 + 0.4 * len(confusion)
    figure = _figure((size + 1, size))
    axes = figure.subplots()
    sns.heatmap(confusion, annot=len(confusion) <= 10, fmt="d", cmap="Blues", cbar=False, square=True, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def plot_reliability(table: pd.DataFrame, title: str = "") -> "Figure":
    """Reliability diagram of a table from `esc_lib.evaluation.reliability`: accuracy against confidence.

    A calibrated network lies on the diagonal; the larger a point, the more clips.
    """
    figure = _figure((4, 4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    axes.plot(table["confidence"], table["accuracy"], linewidth=1)
    axes.scatter(table["confidence"], table["accuracy"], 400 * table["clips"] / table["clips"].sum())
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=title)
    return figure


def plot_windows(windows: pd.DataFrame, title: str = "") -> "Figure":
    """Probability of each class over time: `windows` from `esc_lib.predict`."""
    figure = _figure((7, 0.8 + 0.25 * windows.shape[1]), dpi=72)
    axes = figure.subplots()
    rows = np.arange(windows.shape[1]) + 0.5
    image = axes.pcolormesh(windows.index, rows, windows.T, vmin=0, vmax=1, cmap="viridis", shading="nearest")
    axes.set_yticks(rows, windows.columns)
    axes.invert_yaxis()
    axes.set(xlabel="seconds", title=title)
    figure.colorbar(image, ax=axes, label="probability")
    return figure


def plot_waveforms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Waveforms over time in seconds, one small figure each, titled with their names.

    Args:
        waveforms: by name, each `(frames,)`, full scale at 1.0.
        sample_rate: Hz.
        columns: small figures side by side.
    """
    figure, grid = _small_figures(len(waveforms), columns)
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        axes.plot(np.arange(len(waveform)) / sample_rate, waveform, linewidth=0.4)
        axes.set_title(name, fontsize=9)
    return figure


def plot_spectrograms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Spectrograms, Hz over seconds, one small figure each; black is 80 dB below the maximum of each.

    Args:
        waveforms, sample_rate, columns: as for `plot_waveforms`.
    """
    figure, grid = _small_figures(len(waveforms), columns)
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        # A faint noise floor keeps the logarithm of digital silence finite.
        noise = np.random.default_rng(0).normal(0, 1e-6, len(waveform))
        levels, _, _, image = axes.specgram(np.asarray(waveform) + noise, NFFT=512, Fs=sample_rate, noverlap=256)
        top = 10 * np.log10(levels.max())
        image.set(cmap="magma", clim=(top - 80, top))
        axes.set_title(name, fontsize=9)
    return figure


def _small_figures(n: int, columns: int) -> "tuple[Figure, list[Axes]]":
    """A figure with `n` axes in rows of `columns`; the last row says that time is in seconds."""
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


def player(waveform: Waveform, sample_rate: int, seconds: float = 1.5) -> "Audio":
    """A player for the loudest `seconds` of a waveform; short, because the sound is stored in the notebook.

    Args:
        waveform: `(frames,)`, full scale at 1.0.
        sample_rate: Hz.
        seconds: at most this much is played.
    """
    from IPython.display import Audio

    length = min(len(waveform), int(seconds * sample_rate))
    waveform = np.asarray(waveform)
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=float))])
    start = int(np.argmax(energy[length:] - energy[: len(energy) - length]))
    # Quiet sounds are normalised; silence cannot be.
    return Audio(waveform[start : start + length], rate=sample_rate, normalize=bool(waveform.any()))
