"""The course's figures, each from plain tables and arrays; a notebook shows the figure that a function returns.

What draws is imported by the functions that need it: `import esc_lib` shall cost little more than `import torch`.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.arguments import check
from esc_lib.notebooks import printable

if TYPE_CHECKING:
    from IPython.display import Audio
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Waveform = npt.NDArray[np.floating]
P = ParamSpec("P")
SEGMENT, HOP = 512, 256  # of spectrograms, in samples
SILENCE = 1e-12  # relative to full scale: -120 dB, the least power that counts as a figure's maximum

# Ten colours that colour-blind readers tell apart: the palette "colorblind" of seaborn (Waskom, 2021).
COLOURS = (
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip
MARKERS = "os^vDPX<>p"
OVER_MAPS = (COLOURS[9], COLOURS[2])  # seen on white and on a spectrogram
MOST_FILTERS = 40  # of a map
MEL_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
# How a landscape names and draws the kinds of its entries.
KINDS = {
    "pretrained": ("pretrained on other data", COLOURS[4], "D"),
    "humans": ("humans", "black", "*"),
    "published": ("published", COLOURS[1], "s"),
    "here": ("this course", COLOURS[0], "o"),
    "chance": ("chance", COLOURS[7], "v"),
}
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "image.cmap": "magma",
    "axes.formatter.min_exponent": 6,  # log axes: 1000, not 10^3
}


def set_style() -> None:
    """Gives the figures that a lesson draws itself the style of the figures in this module."""
    import matplotlib

    matplotlib.rcParams.update(STYLE)


def _styled(plot: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """A figure's function that draws in the course's style, whatever the style of the caller."""

    @wraps(plot)
    def styled(*args: P.args, **settings: P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = plot(*args, **settings)
        for axes in figure.axes:  # matplotlib would take the size from the caller's style when it draws
            axes.tick_params(labelsize=STYLE["xtick.labelsize"])
        return figure

    return styled


def _figure(width: float, height: float) -> "Figure":
    """An empty figure, width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def class_label(name: object) -> str:
    """The text for a class in figures and tables.

    >>> class_label("crying_baby")
    'crying baby'
    """
    return str(name).replace("_", " ")


def literal(text: object) -> str:
    r"""Text from data for a title or label: matplotlib draws it as it is, in one line, where `$` starts no formula."""
    return printable(text).replace("$", r"\$")


def _drawn_class(name: object) -> str:
    return literal(class_label(name))


def _check_table(name: str, table: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError unless a table has rows, columns, and among them these."""
    check(name, table, pd.DataFrame)
    missing = [column for column in columns if column not in table]
    if table.empty or missing:
        lacks = f"no column {', '.join(missing)}" if missing else "no rows or no columns"
        raise ValueError(f"{name} is a table with {lacks}: pass one that has them")


@_styled
def plot_curves(history: dict[str, dict[int, float]], kind: str) -> "Figure":
    """Learning curve of a run's "loss" or "acc" (`kind`): on the training clips as shown, and on held-out folds."""
    from matplotlib.ticker import MaxNLocator

    if kind not in ("loss", "acc"):
        raise ValueError(f"kind is {kind!r}: expected 'loss' or 'acc'")
    check("history", history, dict)
    if missing := {kind, f"eval_{kind}"} - set(history):
        raise ValueError(f"history has no {', '.join(sorted(missing))}: pass the history of a run")
    figure = _figure(6, 3.5)
    axes = figure.subplots()
    for key, label, style in ((kind, "training", ".-"), (f"eval_{kind}", "evaluation", "o-")):
        axes.plot(list(history[key]), list(history[key].values()), style, label=label, clip_on=False)
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0.5, max(history[kind], default=1) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if kind == "acc":
        axes.set(ylabel="accuracy", ylim=(0, 1))
    axes.legend()
    return figure


@_styled
def plot_histories(history: pd.DataFrame, title: str = "") -> "Figure":
    """Learning curves of a cross-validation: loss on the training clips as shown, accuracy on the tested fold.

    Args:
        history: of `CrossValidation`; a thin line per run, and a thick one for their mean.
        title: above both figures.
    """
    from matplotlib.ticker import MaxNLocator

    _check_table("history", history, "fold", "seed", "epoch", "loss", "eval_acc")
    figure = _figure(8, 3)
    figure.suptitle(literal(title))
    for axes, key, style in zip(figure.subplots(1, 2), ("loss", "eval_acc"), ("-", "o-"), strict=True):
        known = history.dropna(subset=[key])
        for _, run in known.groupby(["fold", "seed"]):
            axes.plot(run["epoch"], run[key], style, color=COLOURS[7], alpha=0.6, linewidth=0.7, markersize=2)
        mean = known.groupby("epoch")[key].mean()
        axes.plot(mean.index, mean, style, color=COLOURS[0], linewidth=2, label="mean", markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel="training loss" if key == "loss" else "accuracy on the test fold")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right")
    return figure


@_styled
def plot_confusion(confusion: pd.DataFrame, title: str = "") -> "Figure":
    """Confusion matrix as a heat map: number of clips, rows true, columns predicted."""
    import seaborn as sns

    _check_table("confusion", confusion)
    if confusion.to_numpy().dtype.kind not in "iu":
        raise ValueError("confusion holds other values than numbers of clips: expected whole numbers")
    n = len(confusion)
    few = n <= 10
    size = (0.4 if few else 0.16) * n
    figure = _figure(size + 2.2, size + 1.5)
    axes = figure.subplots()
    sns.heatmap(
        confusion.rename(index=_drawn_class, columns=_drawn_class),
        vmin=0, annot=few, fmt="d", cmap="magma_r", square=True, xticklabels=True, yticklabels=True, ax=axes,
        cbar=not few, cbar_kws={"label": "clips", "shrink": 0.6},
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="true", title=literal(title))
    return figure


@_styled
def plot_reliability(table: pd.DataFrame, title: str = "") -> "Figure":
    """Reliability diagram of a table from `esc_lib.evaluation.reliability`: accuracy against confidence.

    A calibrated network lies on the diagonal; the larger a point, the more clips.
    """
    _check_table("table", table, "confidence", "accuracy", "clips")
    figure = _figure(4, 4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=COLOURS[7], linewidth=1)
    axes.plot(table["confidence"], table["accuracy"], linewidth=1)
    axes.scatter(table["confidence"], table["accuracy"], 400 * table["clips"] / table["clips"].sum(), clip_on=False)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=literal(title))
    return figure


@_styled
def plot_windows(windows: pd.DataFrame, title: str = "") -> "Figure":
    """Probability of each class over time: `windows` from `esc_lib.predict`."""
    _check_table("windows", windows)
    figure = _figure(7, 0.8 + 0.25 * windows.shape[1])
    axes = figure.subplots()
    rows = np.arange(windows.shape[1]) + 0.5
    image = axes.pcolormesh(windows.index, rows, windows.T, vmin=0, vmax=1, cmap="magma_r", shading="nearest")
    axes.set_yticks(rows, [_drawn_class(name) for name in windows.columns])
    axes.invert_yaxis()
    axes.set(xlabel="time (s)", title=literal(title))
    figure.colorbar(image, ax=axes, label="probability", aspect=30)
    return figure


@_styled
def plot_waveforms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Waveforms over time, one small figure each, titled with their names.

    Args:
        waveforms: by name, each `(frames,)`, full scale at 1.0.
        sample_rate: Hz.
        columns: small figures side by side.
    """
    figure, grid = _small_figures(waveforms, sample_rate, columns, "amplitude")
    for axes, waveform in zip(grid, waveforms.values(), strict=True):
        drawn = _extremes(np.asarray(waveform))
        axes.plot(drawn / sample_rate, np.asarray(waveform)[drawn], linewidth=0.6)
    return figure


def _extremes(waveform: Waveform, stretches: int = 400) -> npt.NDArray[np.integer]:
    """Indices of the samples that show in a picture: lowest and highest of each stretch, if there are many samples."""
    length = -(-len(waveform) // stretches)
    if length <= 4:
        return np.arange(len(waveform))
    padded = np.pad(waveform, (0, -len(waveform) % length), mode="edge").reshape(-1, length)
    starts = length * np.arange(len(padded))
    indices = np.sort(np.concatenate([starts + padded.argmin(axis=1), starts + padded.argmax(axis=1)]))
    return np.minimum(indices, len(waveform) - 1)


@_styled
def plot_spectrograms(waveforms: dict[str, Waveform], sample_rate: int, columns: int = 2) -> "Figure":
    """Spectrograms, frequency over time, one small figure each; levels are relative to the figure's maximum.

    Args:
        waveforms, sample_rate, columns: as for `plot_waveforms`.
    """
    figure, grid = _small_figures(waveforms, sample_rate, columns, "frequency (kHz)", sharey=True)
    grid[0].set_ylim(0, sample_rate / 2000)
    # Coarse cells and colours: noise does not compress, and notebooks are committed with their figures.
    bins, cells = (2, 130) if len(waveforms) <= 3 else (4, 100)
    maps = [_powers(np.asarray(waveform), bins, cells) for waveform in waveforms.values()]
    top = max(SILENCE, *(powers.max() for powers, _ in maps))
    for axes, (powers, samples) in zip(grid, maps, strict=True):
        image = _draw_spectrogram(axes, powers, samples, sample_rate, top)
    figure.colorbar(image, ax=grid, label="level (dB)", ticks=range(-80, 1, 20), aspect=30, pad=0.01)
    return figure


def _draw_spectrogram(
    axes: "Axes", powers: npt.NDArray[np.floating], samples: int, sample_rate: int, top: float
) -> "AxesImage":
    """Powers as levels, frequency in kHz over time.

    Args:
        axes: to draw on.
        powers, samples: of `_powers`.
        sample_rate: of the waveform, in Hz.
        top: the power at 0 dB.
    """
    # A segment and a bin stand for half a step before their middle to half a step after it.
    left, bottom = -HOP / sample_rate / 2, -sample_rate / 1000 / SEGMENT / 2
    extent = (left, left + powers.shape[1] * samples / sample_rate, bottom, bottom + sample_rate / 2000)
    levels = 10 * np.log10(np.maximum(powers / top, 1e-8))
    return axes.imshow(levels, **_map_colours(), vmin=-80, vmax=0, extent=extent)


def _powers(waveform: Waveform, bins: int, cells: int) -> tuple[npt.NDArray[np.floating], int]:
    """Mean power of a waveform in cells of time and frequency, and the samples from one cell to the next.

    Args:
        waveform: `(frames,)`, full scale at 1.0.
        bins: of the Fourier transform, in a cell.
        cells: side by side, at most.
    """
    from matplotlib.mlab import specgram

    padded = np.pad(waveform, (SEGMENT // 2, SEGMENT), mode="symmetric")  # the first segment's middle is at 0 s
    powers = np.asarray(specgram(padded, NFFT=SEGMENT, noverlap=SEGMENT - HOP, scale_by_freq=False)[0])[:-1]
    hops = -(-powers.shape[1] // cells)
    starts = np.arange(0, powers.shape[1], hops)
    sums = np.add.reduceat(powers.reshape(-1, bins, powers.shape[1]).mean(axis=1), starts, axis=1)
    return sums / np.diff([*starts, powers.shape[1]]), hops * HOP


def _map_colours(steps: int = 32) -> dict[str, Any]:
    """Settings of `imshow` for a map: the lowest row below, colours in steps that compress well."""
    import matplotlib

    return {
        "cmap": matplotlib.colormaps["magma"].resampled(steps), "aspect": "auto", "origin": "lower",
        "interpolation": "nearest",
    }  # fmt: skip


def _small_figures(
    waveforms: dict[str, Waveform], sample_rate: int, columns: int, label: str, **settings: Any
) -> "tuple[Figure, list[Axes]]":
    """A figure with axes for each waveform, in rows of `columns`, over the same seconds.

    Args:
        waveforms, sample_rate, columns: as for `plot_waveforms`.
        label: of the vertical axis.
        settings: of `subplots`.
    """
    check("waveforms", waveforms, dict)
    check("columns", columns, int, 1, 100)
    check("number of waveforms", n := len(waveforms), int, 1, 1000)
    for name, waveform in waveforms.items():
        _check_sound(f"waveforms[{name!r}]", waveform, sample_rate)
    rows = -(-n // columns)
    width = min(max(5, 2.6 * columns), max(10, 1.5 * columns))  # ten inches fill a notebook's page
    figure = _figure(width, 1.7 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True, **settings).flat)
    grid[0].set_xlim(0, max(map(len, waveforms.values())) / sample_rate)
    letters = int(9 * width / columns)  # that fit above one of the small figures
    for axes, name in zip(grid, waveforms, strict=False):
        axes.set_title("\n".join(literal(line) for line in wrap(printable(name), letters)))
        axes.grid(False)
    for axes in grid[max(0, n - columns) : n]:
        axes.set_xlabel("time (s)")
        axes.tick_params(labelbottom=True)
    for axes in grid[:n:columns]:
        axes.set_ylabel(label)
    for axes in grid[n:]:
        axes.remove()
    return figure, grid[:n]


@_styled
def plot_map(
    values: npt.ArrayLike, seconds: float, *, frequencies: npt.ArrayLike, title: str = "", label: str = "activation"
) -> "Figure":
    """A learned time-frequency map, its rows sorted by their filters' centre frequencies.

    All rows are equally high, whatever their distance in frequency: the ticks tell their centre frequencies.

    Args:
        values: `(filters, frames)`.
        seconds: that the frames span.
        frequencies: `(filters,)`, the filters' centre frequencies in Hz, in any order.
        title: above the map.
        label: of the colour bar.
    """
    values, frequencies = np.asarray(values), np.asarray(frequencies)
    if values.ndim != 2 or 0 in values.shape or frequencies.shape != values.shape[:1]:
        raise ValueError(
            f"values have the shape {values.shape}, frequencies {frequencies.shape}: expected (filters, frames) and "
            "(filters,)"
        )
    check("seconds", seconds, float, 1e-6, 1e6)
    n, order = len(values), np.argsort(frequencies, kind="stable")
    figure = _figure(6, 2.6)
    axes = figure.subplots()
    image = axes.imshow(values[order], extent=(0, seconds, -0.5, n - 0.5), **_map_colours())
    ticks = np.unique(np.linspace(0, n - 1, 7).round().astype(int))
    axes.set_yticks(ticks, [f"{hz / 1000:.2g}" for hz in frequencies[order][ticks]])
    axes.set(xlabel="time (s)", ylabel="centre frequency (kHz)", title=literal(title))
    axes.grid(False)
    figure.colorbar(image, ax=axes, label=literal(label))
    return figure


@_styled
def plot_responses(
    responses: dict[str, Waveform], frequencies: npt.NDArray[np.floating], title: str = "", floor: float = -20
) -> "Figure":
    """Responses of filters, sorted by centre frequency, over the mel scale; one map each, side by side.

    Of more than 40 filters, every second or third and so on of the sorted ones is drawn.

    Args:
        responses: by name, each `(filters, n)`, of `esc_lib.interpret`.
        frequencies: `(n,)`, in Hz, at equal distances on the mel scale.
        title: above all maps.
        floor: what is black, in dB below each filter's own peak.
    """
    check("responses", responses, dict)
    check("number of responses", len(responses), int, 1, 100)
    figure = _figure(1 + 2.5 * len(responses), 2.8)
    figure.suptitle(literal(title))
    grid = figure.subplots(1, len(responses), sharey=True, squeeze=False)[0]
    for axes, (name, response) in zip(grid, responses.items(), strict=True):
        n, size = len(response), np.abs(response)
        # More are too fine to see, and a file of noise is large.
        size = size[size.argmax(axis=1).argsort(kind="stable")[:: -(-n // MOST_FILTERS)]]
        levels = 20 * np.log10(np.maximum(size / np.maximum(size.max(axis=1, keepdims=True), 1e-12), 1e-6))
        extent = (0, n, 0, len(frequencies))
        image = axes.imshow(levels.T, **_map_colours(10), vmin=floor, vmax=0, extent=extent)
        axes.set(title=literal(name), xlabel="filter")
        axes.grid(False)
    ticks = [tick for tick in MEL_TICKS if tick <= max(frequencies)]
    places = np.interp(ticks, frequencies, np.arange(len(frequencies)) + 0.5)
    grid[0].set_yticks(places, [f"{tick / 1000:g}" for tick in ticks])
    grid[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=list(grid), label="response (dB)")
    return figure


@_styled
def plot_importance(
    waveform: Waveform, importances: "dict[str, pd.Series[float]]", sample_rate: int, title: str = ""
) -> "Figure":
    """How important each moment is, over the waveform and over its spectrogram.

    Args:
        waveform: `(samples,)`, full scale at 1.0.
        importances: by name, one or two: of `occlusion` or `sum_windows` of `esc_lib.interpret`; each is divided by its
            largest magnitude.
        sample_rate: in Hz.
        title: above the figure.
    """
    _check_sound("waveform", waveform, sample_rate)
    check("importances", importances, dict)
    check("number of importances", len(importances), int, 1, len(OVER_MAPS))
    figure = _figure(7, 3.6)
    figure.suptitle(literal(title))
    above, below = figure.subplots(2, 1, sharex=True)
    drawn = _extremes(np.asarray(waveform))
    above.plot(drawn / sample_rate, np.asarray(waveform)[drawn], linewidth=0.6, color=COLOURS[7])
    peak = max(np.abs(waveform).max(), 1e-6)
    above.set(ylabel="waveform", ylim=(-1.05 * peak, 1.05 * peak))
    powers, samples = _powers(np.asarray(waveform), 4, 120)
    _draw_spectrogram(below, powers, samples, sample_rate, max(SILENCE, powers.max()))
    below.set(xlabel="time (s)", ylabel="frequency (kHz)", xlim=(0, len(waveform) / sample_rate))
    for axes in (above, below):
        axes.grid(False)
        over = axes.twinx()
        for (name, importance), colour in zip(importances.items(), OVER_MAPS, strict=False):
            values = importance / max(importance.abs().max(), 1e-12)
            over.step(values.index, values, where="mid", color=colour, linewidth=1.6, label=literal(name))
        over.set(ylim=(-1.05, 1.05), yticks=(-1, 0, 1), ylabel="importance")
        over.grid(False)
    figure.legend(*over.get_legend_handles_labels(), loc="outside upper right", ncols=len(importances))
    return figure


@_styled
def plot_landscape(table: pd.DataFrame, title: str = "") -> "Figure":
    """A whole field in one chart: the accuracy of each entry, the best on top; lines mark humans and chance.

    Args:
        table: a row per entry: `label`, `accuracy` in %, `kind` ("chance", "published", "here", "humans" or
            "pretrained") and, where known, the interval from `low` to `high` in %.
        title: above the chart.
    """
    _check_table("table", table, "label", "accuracy", "kind")
    if unknown := set(table["kind"]) - set(KINDS):
        raise ValueError(f"table has the kind {min(map(str, unknown))}: expected one of {', '.join(KINDS)}")
    if not table["accuracy"].between(0, 100).all():
        raise ValueError("table has accuracies outside 0 to 100: pass them in %")
    table = table.reindex(columns=["label", "accuracy", "kind", "low", "high"])
    table = table.astype({"accuracy": float, "low": float, "high": float})
    table = table.sort_values("accuracy", kind="stable", ignore_index=True)
    figure = _figure(7.5, 1 + 0.24 * len(table))
    axes = figure.subplots()
    for kind, (text, colour, marker) in KINDS.items():
        entries = table[table["kind"] == kind]
        if entries.empty:
            continue
        axes.hlines(entries.index, entries["low"], entries["high"], color=colour, linewidth=1.5)
        axes.plot(entries["accuracy"], entries.index, marker, color=colour, label=text, markersize=6)
        if kind in ("humans", "chance"):
            for accuracy in entries["accuracy"]:
                axes.axvline(accuracy, color=colour, linestyle="--", linewidth=1, zorder=0.5)
    for row, accuracy in enumerate(table["accuracy"]):
        axes.text(1.01, row, f"{accuracy:.1f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
    axes.set_yticks(table.index, [literal(label) for label in table["label"]])
    axes.set(xlabel="accuracy (%)", xlim=(0, 100), ylim=(-0.7, len(table) - 0.3), title=literal(title))
    figure.legend(loc="outside lower center", ncols=len(KINDS))
    return figure


@_styled
def plot_embedding(
    points: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: Sequence[str],
    *,
    predicted: npt.ArrayLike | None = None,
    title: str = "",
) -> "Figure":
    """Clips as points in a plane, coloured by class; rings mark those that the network got wrong.

    Args:
        points: `(clips, 2)`.
        targets: `(clips,)`, numbers of the true classes.
        classes: their names.
        predicted: `(clips,)`, numbers of the predicted classes.
        title: above the figure.
    """
    points, targets = np.asarray(points), np.asarray(targets)
    predicted = targets if predicted is None else np.asarray(predicted)
    n = len(targets) if targets.ndim == 1 else 0
    if n == 0 or points.shape != (n, 2) or predicted.shape != (n,):
        raise ValueError(
            f"points, targets and predicted have the shapes {points.shape}, {targets.shape} and {predicted.shape}: "
            "expected (clips, 2), (clips,) and (clips,)"
        )
    for name, numbers in (("targets", targets), ("predicted", predicted)):
        if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(classes):
            raise ValueError(
                f"{name} are not all numbers of the {len(classes)} classes: expected 0 to {len(classes) - 1}"
            )
    columns = -(-len(classes) // 18)
    figure = _figure(4.5 + 1.5 * columns, 4.5)
    axes = figure.subplots()
    for i in np.unique(targets):
        x, y = points[targets == i].T
        # Ten colours and ten markers make a hundred pairs; the first ten differ in both.
        axes.scatter(
            x, y, s=28, color=COLOURS[i % 10], marker=MARKERS[(i + i // 10) % 10],
            edgecolor="#333333", linewidth=0.4, label=_drawn_class(classes[i]),
        )  # fmt: skip
    if (wrong := predicted != targets).any():
        x, y = points[wrong].T
        axes.scatter(x, y, s=110, facecolor="none", edgecolor="black", linewidth=1.1, label="mistake")
    axes.set(xticks=[], yticks=[], title=literal(title))
    figure.legend(loc="outside right upper", ncols=columns)
    return figure


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
