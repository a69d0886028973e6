"""Figures of the course, each from plain tables and arrays; a notebook shows the figure that a function returns."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

_AXIS_LABELS = {"loss": "loss", "acc": "accuracy"}


def plot_curves(history: dict[str, dict[int, float]], kind: str) -> Figure:
    """Learning curve over the epochs: on the training clips as they were shown, and on the evaluation folds.

    Args:
        history: of a run.
        kind: "loss" or "acc".
    """
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for key, label, style in ((kind, "training", "-"), (f"eval_{kind}", "evaluation", "o-")):
        axes.plot(list(history[key]), list(history[key].values()), style, label=label)
    axes.set(xlabel="epoch", ylabel=_AXIS_LABELS[kind])
    axes.xaxis.get_major_locator().set_params(integer=True)
    if kind == "acc":
        axes.set_ylim(0, 1)
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def plot_confusion(confusion: pd.DataFrame, title: str = "") -> Figure:
    """Confusion matrix as a heat map: number of clips, rows true, columns predicted."""
    size = 2.5 + 0.4 * len(confusion)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(confusion, annot=len(confusion) <= 10, fmt="d", cmap="Blues", cbar=False, square=True, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


def plot_waveforms(waveforms: dict[str, np.ndarray], sample_rate: int, columns: int = 2) -> Figure:
    """Waveforms over time in seconds, one small picture each, under the names they are given by.

    Shape:
        each waveform: `(frames,)`, full scale at 1.0
    """
    rows = -(-len(waveforms) // columns)
    figure = Figure(figsize=(5 * columns, 1.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        axes.plot(np.arange(len(waveform)) / sample_rate, waveform, linewidth=0.4)
        axes.set_title(name, fontsize=9)
    for axes in list(grid)[-columns:]:
        axes.set_xlabel("seconds")
    return figure


def plot_spectrograms(waveforms: dict[str, np.ndarray], sample_rate: int, columns: int = 2) -> Figure:
    """Spectrograms in decibels, one small picture each, on one colour scale of 80 dB below the loudest of each.

    Shape:
        each waveform: `(frames,)`, full scale at 1.0
    """
    rows = -(-len(waveforms) // columns)
    figure = Figure(figsize=(5 * columns, 1.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, waveform) in zip(grid, waveforms.items(), strict=False):
        # A faint noise floor keeps the logarithm of digital silence finite.
        noise = np.random.default_rng(0).normal(0, 1e-6, len(waveform))
        _, _, _, image = axes.specgram(waveform + noise, NFFT=1024, Fs=sample_rate, noverlap=512)
        top = float(image.get_array().max())
        image.set_clim(top - 80, top)
        axes.set_title(name, fontsize=9)
    return figure
