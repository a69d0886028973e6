"""Figures: each renders, and shows the data it was given."""

import io
import wave

import numpy as np
import pandas as pd
import pytest
from IPython.display import Audio
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

from esc_lib.plots import (
    player,
    plot_confusion,
    plot_curves,
    plot_histories,
    plot_reliability,
    plot_spectrograms,
    plot_waveforms,
    plot_windows,
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return figure


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
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "true", "title")
    assert np.array_equal(np.asarray(axes.collections[0].get_array()).reshape(n, n), counts.to_numpy())
    assert axes.yaxis_inverted(), "the first class is at the top"
    if n <= 10:
        assert [int(text.get_text()) for text in axes.texts] == list(range(n * n))
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in labels] == names
    else:
        assert not axes.texts


@pytest.mark.parametrize(("n", "columns", "bottom"), [(1, 1, [0]), (3, 2, [2, 3]), (4, 2, [2, 3]), (5, 3, [3, 4, 5])])
def test_waveforms_are_drawn_over_seconds_with_their_names(n, columns, bottom):
    waves = {f"sound {i}": tone(100 * (i + 1), seconds=0.1 * (i + 1)) for i in range(n)}
    figure = rendered(plot_waveforms(waves, RATE, columns))
    for axes, (name, sound) in zip(figure.axes, waves.items(), strict=False):
        (line,) = axes.lines
        assert axes.get_title() == name
        np.testing.assert_allclose(line.get_ydata(), sound)
        np.testing.assert_allclose(line.get_xdata(), np.arange(len(sound)) / RATE)
    assert [i for i, axes in enumerate(figure.axes) if axes.get_xlabel() == "seconds"] == bottom
    assert sum(axes.get_visible() for axes in figure.axes) == n, "unused axes must be hidden"


@pytest.mark.filterwarnings("error")
def test_spectrograms_show_the_pitch():
    waves = {"low": tone(500), "high": tone(3000), "silence": np.zeros(RATE)}
    figure = rendered(plot_spectrograms(waves, RATE))
    for axes, (name, hz) in zip(figure.axes, [("low", 500), ("high", 3000)], strict=False):
        assert axes.get_title() == name
        (image,) = axes.images
        decibels = np.asarray(image.get_array())
        left, right, bottom, top = image.get_extent()
        assert (bottom, top) == (0, RATE / 2) and 0 <= left < right <= 1.001
        loudest = decibels.mean(axis=1).argmax()
        row = loudest if image.origin == "lower" else len(decibels) - 1 - loudest
        step = RATE / 2 / (len(decibels) - 1)  # Hz from row to row
        assert row * step == pytest.approx(hz, abs=step)
        low, high = image.get_clim()
        assert (high, high - low) == (pytest.approx(decibels.max()), pytest.approx(80))
    assert np.isfinite(np.asarray(figure.axes[2].images[0].get_array())).all(), "silence must give finite levels"


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
SQUARE = pd.DataFrame(np.eye(len(NAMES), dtype=int), index=list(NAMES), columns=list(NAMES))
BINS = pd.DataFrame({"confidence": [0.5], "accuracy": [0.5], "clips": [1]})


@pytest.mark.parametrize(
    ("plot", "names"),
    [
        (lambda: plot_confusion(SQUARE, r"$\title$"), {**NAMES, "title": r"$\title$"}),
        (lambda: plot_windows(SQUARE.set_axis(range(len(SQUARE))), r"$\title$"), {**NAMES, "title": r"$\title$"}),
        (lambda: plot_reliability(BINS, r"$\title$"), {"title": r"$\title$"}),
        (lambda: plot_waveforms({name: tone(100) for name in NAMES}, RATE), NAMES),
        (lambda: plot_spectrograms({name: tone(100) for name in NAMES}, RATE), NAMES),
    ],
    ids=["confusion", "windows", "reliability", "waveforms", "spectrograms"],
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
