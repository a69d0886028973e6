"""Figures: each renders, and shows the data it was given."""

import io
import wave
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from IPython.core.pylabtools import print_figure
from IPython.display import Audio
from matplotlib import colormaps, rc_context, rcParams, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Text
from seaborn import color_palette

from esc_lib.plots import (
    COLOURS,
    STYLE,
    class_label,
    player,
    plot_confusion,
    plot_curves,
    plot_embedding,
    plot_histories,
    plot_landscape,
    plot_map,
    plot_reliability,
    plot_spectrograms,
    plot_waveforms,
    plot_windows,
    set_style,
)

HISTORY = {
    "loss": {1: 2.3, 2: 1.5, 3: 0.9, 4: 0.7},
    "acc": {1: 0.1, 2: 0.5, 3: 0.7, 4: 0.8},
    "lr": {1: 0.1, 2: 0.1, 3: 0.01, 4: 0.01},
    "eval_loss": {2: 1.8, 4: 1.1},
    "eval_acc": {2: 0.4, 4: 0.6},
}
EMPTY = {key: {} for key in HISTORY}
RATE = 8000


def tone(hz, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def rendered(figure):
    assert isinstance(figure, Figure)
    assert print_figure(figure).startswith(b"\x89PNG"), "a notebook shows what IPython prints"
    return figure


def size_of(png):
    """Width in dots and dots an inch, from a PNG's chunks IHDR (its first) and pHYs (dots a metre)."""
    dots = png[png.index(b"pHYs") + 4 :][:4]
    return int.from_bytes(png[16:20]), round(int.from_bytes(dots) * 0.0254)


@pytest.mark.parametrize(("kind", "name"), [("loss", "loss"), ("acc", "accuracy")])
def test_curves_are_the_history(kind, name):
    (axes,) = rendered(plot_curves(HISTORY, kind)).axes
    training, evaluation = axes.lines
    assert (list(training.get_xdata()), list(training.get_ydata())) == ([1, 2, 3, 4], list(HISTORY[kind].values()))
    assert (list(evaluation.get_xdata()), list(evaluation.get_ydata())) == ([2, 4], [*HISTORY[f"eval_{kind}"].values()])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "evaluation"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", name)
    assert (axes.get_ylim() == (0, 1)) is (kind == "acc"), "accuracies are shares"


@pytest.mark.parametrize("kind", ["loss", "acc"])
def test_a_run_before_its_first_epoch_has_empty_curves(kind):
    (axes,) = rendered(plot_curves(EMPTY, kind)).axes
    assert all(len(line.get_xdata()) == 0 for line in axes.lines)


@pytest.mark.parametrize("n", [2, 10, 12])
def test_rows_of_the_confusion_matrix_are_true_classes_and_columns_predicted_ones(n):
    names = [f"class {i}" for i in range(n)]
    counts = pd.DataFrame(np.arange(n * n).reshape(n, n), index=names, columns=names)
    figure = rendered(plot_confusion(counts, "title"))
    axes, *colour_bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "true", "title")
    assert np.array_equal(np.asarray(axes.collections[0].get_array()).reshape(n, n), counts.to_numpy())
    assert axes.yaxis_inverted(), "the first class is at the top"
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
    if n <= 10:
        assert [int(text.get_text()) for text in axes.texts] == list(range(n * n)) and not colour_bar
    else:
        assert not axes.texts and [bar.get_ylabel() for bar in colour_bar] == ["clips"]


@pytest.mark.parametrize(("n", "columns", "bottom"), [(1, 1, [0]), (3, 2, [1, 2]), (4, 2, [2, 3]), (5, 3, [2, 3, 4])])
def test_waveforms_are_drawn_over_seconds_with_their_names(n, columns, bottom):
    waves = {f"sound {i}": tone(100 * (i + 1), seconds=0.04 * (i + 1)) for i in range(n)}
    figure = rendered(plot_waveforms(waves, RATE, columns))
    for axes, (name, sound) in zip(figure.axes, waves.items(), strict=True):
        (line,) = axes.lines
        assert axes.get_title() == name
        np.testing.assert_allclose(line.get_ydata(), sound)
        np.testing.assert_allclose(line.get_xdata(), np.arange(len(sound)) / RATE)
        assert axes.get_xlim() == pytest.approx((0, 0.04 * n)), "all over the same time"
    assert [i for i, axes in enumerate(figure.axes) if axes.get_xlabel() == "time (s)"] == bottom
    assert [any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks()) for axes in figure.axes] == [
        i in bottom for i in range(n)
    ], "the lowest of each column has numbers"
    assert [i for i, axes in enumerate(figure.axes) if axes.get_ylabel()] == list(range(0, n, columns))


@pytest.mark.parametrize("frames", [1601, 2001, 79_999, 80_000])
def test_of_a_long_waveform_the_extremes_are_drawn(frames):
    sound = np.random.default_rng(frames).normal(0, 0.1, frames)
    sound[frames // 3], sound[-1] = 0.9, -0.9  # two clicks of one sample
    (line,) = plot_waveforms({"clicks": sound}, RATE).axes[0].lines
    times, levels = line.get_data()
    drawn = np.rint(times * RATE).astype(int)
    np.testing.assert_allclose(levels, sound[drawn], err_msg="every point is a sample, at its own time")
    assert len(drawn) <= 1000 and (np.diff(drawn) >= 0).all()
    assert {frames // 3, frames - 1} <= set(drawn), "no click is lost"
    stretches = np.array_split(np.arange(frames), 100)
    highest, lowest = np.maximum.reduceat, np.minimum.reduceat
    starts = [stretch[0] for stretch in stretches]
    assert np.median(highest(levels, np.searchsorted(drawn, starts)) - highest(sound, starts)) == 0
    assert np.median(lowest(levels, np.searchsorted(drawn, starts)) - lowest(sound, starts)) == 0


def levels_of(axes):
    """Levels (dB) of a drawn spectrogram, and the middle of its rows (kHz) and columns (s)."""
    (image,) = axes.images
    levels = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    assert image.origin == "lower"
    rows, columns = ((np.arange(n) + 0.5) / n for n in levels.shape)
    return levels, bottom + rows * (top - bottom), left + columns * (right - left)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("copies", [1, 3])  # few pictures are drawn finely, many coarsely
def test_spectrograms_show_the_pitch_in_kilohertz_and_the_level_in_decibels(copies):
    waves = {"low": tone(500), "high": tone(3000, level=0.05), "silence": np.zeros(RATE)}
    waves |= {f"{name} {i}": wave for i in range(1, copies) for name, wave in waves.items()}
    figure = rendered(plot_spectrograms(waves, RATE, columns=3))
    *grid, colour_bar = figure.axes
    for axes, (name, khz, loudest) in zip(grid, [("low", 0.5, 0), ("high", 3, -20)], strict=False):
        assert (axes.get_title(), axes.get_ylim(), axes.get_xlim()) == (name, (0, 4), (0, 1))
        levels, rows, _ = levels_of(axes)
        step = rows[1] - rows[0]
        assert rows[levels.mean(axis=1).argmax()] == pytest.approx(khz, abs=step)
        assert levels.max() == pytest.approx(loudest, abs=0.5), "relative to the figure's maximum"
        assert axes.images[0].get_clim() == (-80, 0)
    assert (levels_of(grid[2])[0] == -80).all(), "silence is black"
    assert [axes.get_ylabel() for axes in grid[::3]] == ["frequency (kHz)"] * copies
    assert colour_bar.get_ylabel() == "level (dB)"


@pytest.mark.parametrize("rate", [8000, 44_100])
def test_a_click_is_drawn_at_its_time(rate):
    click = np.zeros(5 * rate)
    click[3 * rate] = 1
    levels, _, columns = levels_of(plot_spectrograms({"click": click}, rate).axes[0])
    step = columns[1] - columns[0]
    assert columns[levels.mean(axis=0).argmax()] == pytest.approx(3, abs=step) and step < 0.07
    assert columns[0] - step / 2 <= 0 and columns[-1] + step / 2 >= 5 - 128 / rate, "from end to end"


def sound_in(audio):
    """Samples (16 bit) and sample rate (Hz) of a player."""
    assert isinstance(audio, Audio)
    with wave.open(io.BytesIO(audio.data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def test_the_player_holds_the_loudest_part():
    sound = 0.01 * tone(300, seconds=4)
    sound[15_000:19_000] = tone(700, seconds=0.5)
    samples, rate = sound_in(player(sound, RATE, seconds=0.5))
    assert (len(samples), rate) == (4000, RATE)
    np.testing.assert_allclose(samples / np.abs(samples).max(), sound[15_000:19_000] / 0.5, atol=0.01)


def test_the_player_holds_all_of_a_short_sound_and_a_limited_part_of_a_long_one():
    assert len(sound_in(player(tone(300, seconds=0.3), RATE))[0]) == 2400
    assert len(sound_in(player(tone(300, seconds=5), RATE))[0]) == 1.5 * RATE


@pytest.mark.filterwarnings("error")
def test_the_player_plays_silence():
    samples, _ = sound_in(player(np.zeros(RATE), RATE))
    assert len(samples) == RATE and not samples.any()


def test_figures_are_not_registered_with_pyplot():
    import matplotlib.pyplot as plt

    plt.close("all")
    plot_curves(HISTORY, "loss"), plot_waveforms({"a": tone(100)}, RATE), plot_spectrograms({"a": tone(100)}, RATE)
    plot_confusion(pd.DataFrame([[1, 0], [0, 1]]))
    assert plt.get_fignums() == []


# --- calibration and predictions over time ---


def test_reliability_has_a_point_per_bin_sized_by_its_clips():
    table = pd.DataFrame({"confidence": [0.35, 0.9], "accuracy": [0.5, 0.8], "clips": [10, 30]})
    (axes,) = plot_reliability(table, "m5").axes
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), [[0.35, 0.5], [0.9, 0.8]])
    small, large = points.get_sizes()
    assert large == pytest.approx(3 * small) and axes.get_title() == "m5"
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 0], [1, 1]])


def test_windows_are_drawn_over_time():
    windows = pd.DataFrame([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], pd.Index([0.5, 1.5, 2.5]), ["dog", "rain"])
    axes = plot_windows(windows).axes[0]
    (mesh,) = axes.collections
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(2, 3), windows.T)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "rain"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first class is on top"
    assert axes.get_xlim() == pytest.approx((0, 3)) and mesh.get_clim() == (0, 1)


# --- names that hold markup, and wrong arguments ---

NAMES = {  # a name, and how it is drawn
    "$a$": "$a$",
    "$": "$",
    "$$": "$$",
    r"$\frac$": r"$\frac$",
    r"\$5 \\$ $6": r"\$5 \\$ $6",
    "_a_ *b* `c`": "_a_ *b* `c`",
    "<script>|</td>": "<script>|</td>",
    "two\nlines\r": r"two\nlines\r",
    "\0\x1b[31m": r"\x00\x1b[31m",
    "caf\u00e9 \u03a9": "caf\u00e9 \u03a9",
    "\udcff \u202eright to left": r"\udcff \u202eright to left",
    "": "",
}
CLASSES = {name: class_label(drawn) for name, drawn in NAMES.items()} | {"title": r"$\title$"}
SQUARE = pd.DataFrame(np.eye(len(NAMES), dtype=int), index=list(NAMES), columns=list(NAMES))
BINS = pd.DataFrame({"confidence": [0.5], "accuracy": [0.5], "clips": [1]})
MAP = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def entries(names):
    return pd.DataFrame({"label": list(names), "accuracy": 50.0, "kind": "here"})


@pytest.mark.parametrize(
    ("plot", "names"),
    [
        (lambda: plot_confusion(SQUARE, r"$\title$"), CLASSES),
        (lambda: plot_windows(SQUARE.set_axis(range(len(SQUARE))), r"$\title$"), CLASSES),
        (lambda: plot_embedding(np.eye(len(NAMES), 2), range(len(NAMES)), list(NAMES), title=r"$\title$"), CLASSES),
        (lambda: plot_landscape(entries(NAMES), r"$\title$"), {**NAMES, "title": r"$\title$"}),
        (lambda: plot_map(MAP, 1, frequencies=[1, 2], title="$a$", label="$b$"), {"a": "$a$", "b": "$b$"}),
        (lambda: plot_reliability(BINS, r"$\title$"), {"title": r"$\title$"}),
        (lambda: plot_waveforms({name: tone(100) for name in NAMES}, RATE, 1), NAMES),
        (lambda: plot_spectrograms({name: tone(100) for name in NAMES}, RATE, 1), NAMES),
    ],
    ids=["confusion", "windows", "embedding", "landscape", "map", "reliability", "waveforms", "spectrograms"],
)
def test_names_are_drawn_as_they_are(monkeypatch, plot, names):
    drawn, formulas = [], []
    draw = RendererAgg.draw_text

    def record(self, gc, x, y, text, font, angle, ismath=False, mtext=None):
        drawn.append(text)
        formulas.extend([text] if ismath else [])
        draw(self, gc, x, y, text, font, angle, ismath, mtext)

    monkeypatch.setattr(RendererAgg, "draw_text", record)
    rendered(plot())
    assert set(names.values()) - {""} <= set(drawn) and not formulas


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frames", [1, 300, 512, 513])
def test_a_sound_shorter_than_a_segment_has_a_spectrogram(frames):
    rendered(plot_spectrograms({"short": tone(500)[:frames]}, RATE, columns=1))


SOUND = {"a": tone(100)}
EMPTY_TABLE = pd.DataFrame({"dog": []})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_curves(HISTORY, "Loss"), "kind is 'Loss': expected 'loss' or 'acc'"),
        (lambda: plot_curves({"loss": {}}, "loss"), "history has no eval_loss"),
        (lambda: plot_curves([], "loss"), "history is"),
        (lambda: plot_confusion(EMPTY_TABLE), "confusion is a table with no rows"),
        (lambda: plot_confusion(pd.DataFrame([[0.5]])), "confusion holds other values"),
        (lambda: plot_confusion([[1]]), "confusion is"),
        (lambda: plot_reliability(pd.DataFrame({"confidence": [1.0]})), "table with no column accuracy, clips"),
        (lambda: plot_reliability(BINS[:0]), "table with no rows"),
        (lambda: plot_windows(EMPTY_TABLE), "windows is a table with no rows"),
        (lambda: plot_waveforms({}, RATE), "number of waveforms is 0"),
        (lambda: plot_waveforms([tone(100)], RATE), "waveforms is"),
        (lambda: plot_waveforms({"a": np.zeros(0)}, RATE), r"waveforms\['a'\] has the shape \(0,\)"),
        (lambda: plot_spectrograms({"a": np.zeros((2, 9))}, RATE), r"has the shape \(2, 9\): expected one channel"),
        (lambda: plot_spectrograms(SOUND, 0), "sample_rate is 0"),
        (lambda: plot_waveforms(SOUND, -RATE), "sample_rate is -8000"),
        (lambda: plot_waveforms(SOUND, RATE, 0), "columns is 0"),
        (lambda: plot_waveforms(SOUND, RATE, 1.5), "columns is 1.5"),
        (lambda: plot_map(MAP, 1, frequencies=[1, 2, 3]), r"values have the shape \(2, 3\), frequencies \(3,\)"),
        (lambda: plot_map(MAP[0], 1, frequencies=[1]), r"values have the shape \(3,\)"),
        (lambda: plot_map(MAP, 0, frequencies=[1, 2]), "seconds is 0"),
        (lambda: plot_landscape(entries([])), "table is a table with no rows"),
        (lambda: plot_landscape(entries("a").drop(columns="kind")), "table with no column kind"),
        (lambda: plot_landscape(entries("a").assign(kind="ours")), "kind ours: expected one of pretrained, humans"),
        (lambda: plot_landscape(entries("a").assign(accuracy=101)), "accuracies outside 0 to 100"),
        (lambda: plot_landscape(entries("a").assign(accuracy=np.nan)), "accuracies outside 0 to 100"),
        (
            lambda: plot_embedding(np.eye(3), range(3), "abc"),
            r"shapes \(3, 3\), \(3,\) and \(3,\): expected \(clips, 2\)",
        ),
        (lambda: plot_embedding(np.eye(2), [0, 1], "ab", predicted=[0]), r"and \(1,\): expected"),
        (lambda: plot_embedding(np.zeros((0, 2)), [], "ab"), r"shapes \(0, 2\)"),
        (lambda: plot_embedding(np.eye(2), [0, 2], "ab"), "targets are not all numbers of the 2 classes"),
        (lambda: plot_embedding(np.eye(2), [0, 1], "ab", predicted=[-1, 0]), "predicted are not all numbers"),
        (lambda: plot_embedding(np.eye(2), [0, 0.5], "ab"), "targets are not all numbers"),
        (lambda: player(tone(100), 0), "sample_rate is 0"),
        (lambda: player(tone(100), RATE, 0), "seconds is 0"),
        (lambda: player(tone(100), RATE, float("nan")), "seconds is nan"),
        (lambda: player(np.zeros(0), RATE), "waveform has the shape"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_histories_are_a_line_a_run_and_their_mean():
    rows = [(fold, 0, epoch, 1 / epoch, fold / 10 if epoch == 2 else np.nan) for fold in (1, 2, 3) for epoch in (1, 2)]
    history = pd.DataFrame(rows, columns=["fold", "seed", "epoch", "loss", "eval_acc"])
    left, right = rendered(plot_histories(history, "a $title$")).axes
    assert [len(axes.lines) for axes in (left, right)] == [4, 4]
    assert list(left.lines[-1].get_xdata()) == [1, 2] and list(left.lines[-1].get_ydata()) == [1, 0.5]
    assert list(right.lines[-1].get_xdata()) == [2] and right.lines[-1].get_ydata()[0] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="history is a table with no column eval_acc"):
        plot_histories(history.drop(columns="eval_acc"))


# --- what the lessons on filters, the field and embeddings draw ---


def test_a_map_is_sorted_by_centre_frequency_which_its_ticks_tell():
    frequencies = np.random.default_rng(0).permutation(np.arange(1, 41)) * 100.0
    values = frequencies[:, None] * np.ones(150)
    figure = rendered(plot_map(values, 1.5, frequencies=frequencies, title="EnvNet", label="level (dB)"))
    axes, colour_bar = figure.axes
    shown = np.asarray(axes.images[0].get_array())
    assert (np.diff(shown, axis=0) > 0).all() and axes.images[0].origin == "lower"
    ticks = {
        round(tick): float(text.get_text())
        for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }
    assert len(ticks) == 7 and {0, 39} < set(ticks)
    for row, khz in ticks.items():
        assert khz == pytest.approx(shown[row, 0] / 1000, rel=0.05), "two digits"
    assert axes.images[0].get_extent() == [0, 1.5, -0.5, 39.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (s)", "centre frequency (kHz)")
    assert (axes.get_title(), colour_bar.get_ylabel()) == ("EnvNet", "level (dB)")


FIELD = pd.DataFrame(
    [
        ("chance", 10, "chance", None, None),
        ("EnvNet", 87.2, "published", None, None),
        ("M11", 86.5, "here", 83.1, 89.4),
        ("humans", 95.7, "humans", None, None),
        ("a transformer", 98.8, "pretrained", None, None),
    ],
    columns=["label", "accuracy", "kind", "low", "high"],
)


def test_a_landscape_is_sorted_coloured_by_kind_and_has_lines_for_humans_and_chance():
    figure = rendered(plot_landscape(FIELD, "ESC-10"))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["chance", "M11", "EnvNet", "humans", "a transformer"], "upwards from the bottom"
    dots = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert dots["this course"].get_xydata().tolist() == [[86.5, 1]] and dots["humans"].get_xydata().tolist() == [
        [95.7, 3]
    ]
    assert len({dot.get_color() for dot in dots.values()}) == len({dot.get_marker() for dot in dots.values()}) == 5
    assert {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"} == {10, 95.7}
    intervals = [bar.get_segments() for bar in axes.collections]
    assert [[83.1, 1], [89.4, 1]] in [segment.tolist() for segments in intervals for segment in segments]
    assert [text.get_text() for text in axes.texts] == ["10.0", "86.5", "87.2", "95.7", "98.8"]
    assert set(dots) == {text.get_text() for text in figure.legends[0].get_texts()}


def test_a_landscape_needs_no_intervals_and_shows_the_kinds_it_has():
    figure = rendered(plot_landscape(FIELD[["label", "accuracy", "kind"]][1:3]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["published", "this course"]


@pytest.mark.parametrize("n", [2, 10, 50])
def test_an_embedding_tells_all_classes_apart_and_rings_mistakes(n):
    rng = np.random.default_rng(0)
    points, targets = rng.normal(size=(4 * n, 2)), np.arange(4 * n) % n
    predicted = targets.copy()
    predicted[[1, 3]] = 0, 0
    figure = rendered(plot_embedding(points, targets, [f"class_{i}" for i in range(n)], predicted=predicted))
    *classes, mistakes = figure.axes[0].collections
    np.testing.assert_allclose(mistakes.get_offsets(), points[[1, 3]])
    for i, dots in enumerate(classes):
        np.testing.assert_allclose(dots.get_offsets(), points[targets == i])
    looks = {(tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in classes}
    assert len(looks) == len(classes) == n
    if n <= 10:
        assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == n
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(f"class {i}" for i in range(n)), "mistake"]
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= figure.axes[0].bbox.x1 and legend.x1 <= figure.bbox.x1 and legend.y0 >= 0, "outside, and whole"


def test_an_embedding_without_predictions_or_without_mistakes_has_no_rings():
    for predicted in (None, [0, 1]):
        figure = plot_embedding([[0, 1], [1, 0]], [0, 1], ["dog", "rain"], predicted=predicted)
        assert len(figure.axes[0].collections) == 2


# --- one style for all ---

TEN = ["dog", "rain", "sea_waves", "crying_baby", "clock_tick", "sneezing", "helicopter", "chainsaw", "rooster", "fire"]
FIFTY = [f"{name}_{i}" for i in range(5) for name in ("washing_machine", *TEN[1:])]
CROSSED = pd.DataFrame(
    [(fold, 0, epoch, 1 / epoch, epoch / 10) for fold in (1, 2) for epoch in (1, 2)],
    columns=["fold", "seed", "epoch", "loss", "eval_acc"],
)


def confusion_of(names):
    return pd.DataFrame(np.eye(len(names), dtype=int), names, names)


def windows_of(names):
    return pd.DataFrame(np.eye(3, len(names)), [0.5, 1.0, 1.5], names)


FIGURES = {
    "curves": lambda: plot_curves(HISTORY, "acc"),
    "histories": lambda: plot_histories(CROSSED, "M11"),
    "confusion, 10": lambda: plot_confusion(confusion_of(TEN)),
    "confusion, 50": lambda: plot_confusion(confusion_of(FIFTY)),
    "reliability": lambda: plot_reliability(BINS),
    "windows, 10": lambda: plot_windows(windows_of(TEN)),
    "windows, 50": lambda: plot_windows(windows_of(FIFTY)),
    "waveforms": lambda: plot_waveforms({f"{50} % dog, 50 % {name}": tone(100) for name in FIFTY[:10]}, RATE, 5),
    "spectrograms": lambda: plot_spectrograms({f"{50} % dog, 50 % {name}": tone(100) for name in FIFTY[:4]}, RATE),
    "map": lambda: plot_map(np.random.default_rng(0).random((96, 150)), 1.5, frequencies=np.geomspace(50, 8000, 96)),
    "landscape": lambda: plot_landscape(FIELD),
    "embedding, 10": lambda: plot_embedding(np.eye(10, 2), range(10), TEN, predicted=[0] * 10, title="M11"),
    "embedding, 50": lambda: plot_embedding(np.eye(50, 2), range(50), FIFTY),
}


@pytest.fixture(params=list(FIGURES), scope="module")
def figure(request):
    return rendered(FIGURES[request.param]())


def test_every_figure_has_the_style(figure):
    assert figure.dpi >= 110
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts, axes.title, axes.xaxis.label):
            assert text.get_fontsize() >= 8
        for image in (*axes.images, *(mesh for mesh in axes.collections if mesh.get_array() is not None)):
            ends, magma = (image.cmap(0.0), image.cmap(1.0)), colormaps["magma"]
            assert ends in [(magma(0.0), magma(1.0)), (magma(1.0), magma(0.0))]


def test_no_label_hides_another(figure, monkeypatch):
    drawn = []

    def record(self, renderer):
        if self.get_visible() and self.get_text():
            drawn.append((self.get_text(), self.get_window_extent(renderer)))

    monkeypatch.setattr(Text, "draw", record)
    FigureCanvasAgg(figure).draw()
    assert len(drawn) > 5
    for (one, box), (other, its) in combinations(drawn, 2):
        assert not box.overlaps(its), f"{one!r} and {other!r}"


@pytest.mark.parametrize("name", ["curves", "spectrograms"])
def test_a_figure_looks_the_same_whatever_the_style_of_the_lesson(name):
    with rc_context(rcParamsDefault):
        plain = print_figure(FIGURES[name]())
        set_style()
        assert print_figure(FIGURES[name]()) == plain
    with rc_context({"axes.prop_cycle": "cycler('color', ['red'])", "figure.dpi": 50, "xtick.labelsize": 4}):
        figure = FIGURES[name]()
    assert print_figure(figure) == plain


def test_the_style_of_a_lesson_s_own_figures():
    import matplotlib.pyplot as plt

    with rc_context(rcParamsDefault):
        set_style()
        figure, axes = plt.subplots(figsize=(5, 3))
        (line,) = axes.loglog([20, 20_000], [1, 2])
        width, dpi = size_of(print_figure(figure))
        plt.close(figure)
        assert same_color(line.get_color(), COLOURS[0]) and rcParams["image.cmap"] == "magma"
        numbers = [text.get_text() for text in axes.get_xticklabels()]
        assert r"$\mathdefault{1000}$" in numbers and not any("^" in number for number in numbers)
    assert dpi == STYLE["figure.dpi"] >= 110 and width == pytest.approx(5 * 110, abs=30)


def test_the_library_draws_and_saves_the_dots_of_110_an_inch():
    width, dpi = size_of(print_figure(plot_curves(HISTORY, "loss")))
    assert dpi == 110 and width == pytest.approx(6 * 110, abs=30)


@pytest.mark.parametrize("plot", [plot_waveforms, plot_spectrograms])
def test_pictures_of_noise_are_small_files(plot):
    noises = {f"noise {i}": np.random.default_rng(i).normal(0, 0.1, 5 * RATE) for i in range(10)}
    assert len(print_figure(plot(noises, RATE, columns=5))) < 120_000


def test_the_colours_are_those_for_colour_blind_readers():
    assert list(COLOURS) == color_palette("colorblind").as_hex()


def test_class_names_are_written_as_words():
    assert class_label("crying_baby") == "crying baby"
    labels = plot_confusion(confusion_of(TEN)).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels][2:4] == ["sea waves", "crying baby"]
