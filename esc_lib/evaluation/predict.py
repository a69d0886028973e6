"""What a trained network predicts for any recording: which classes, and when."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from esc_lib.arguments import as_path, check
from esc_lib.data.audio import Recording, Samples, int16_blocks, open_recording
from esc_lib.data.clips import FULL_SCALE, Clips
from esc_lib.evaluation.calibration import with_temperature
from esc_lib.progress import progress_bar
from esc_lib.training.augment import even_starts
from esc_lib.training.compute import inference_context, pick_device, to_device
from esc_lib.training.config import TrainConfig
from esc_lib.training.inference import check_finite, crop_probabilities
from esc_lib.training.runs import Run, as_run

# Windows that are in the network at the same time: what a short recording has, so that a long one takes no more memory.
WINDOWS_PER_BATCH = 10
PROGRESS_FROM = 60  # seconds


@dataclass(frozen=True)
class Prediction:
    """What `predict` found in a recording.

    Attributes:
        top: the most probable classes of the whole recording, most probable first: class, probability.
        windows: the probability of each class in each window; a row per window, indexed by its centre in seconds.
        seconds: how long the recording is.
    """

    top: pd.DataFrame
    windows: pd.DataFrame
    seconds: float


def predict(
    run: Run | str | Path, audio_file: str | Path, *, top: int = 5, checkpoint: str = "result", device: str = "auto"
) -> Prediction:
    """Classifies a recording of any length, rate and number of channels.

    The recording is treated as the clips of a test are: mixed to mono, resampled, trimmed if the run trims, cut into as
    many windows, whose probabilities are averaged. A longer one is cut into more, at most half a window apart. If the
    run has a temperature (`esc_lib.calibrate`), it is applied: to the mean, for which it was fitted, and to each
    window, for which it promises less.

    Args:
        run: a run, or its directory.
        audio_file: wav, flac, ogg, mp3, aiff, au, caf, w64 or rf64, of up to a day. It is read block by block, twice;
            memory does not depend on its length.
        top: number of classes to list.
        checkpoint: as for `Run.checkpoint`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: no run there, or no recording.
        ValueError: the recording is empty, cut, damaged or not audio; or no such checkpoint or device.
    """
    check("top", top, int, 1, 10**6)
    run, place = as_run(run), pick_device(device)
    config = run.config
    recording = open_recording(as_path("audio_file", audio_file))
    model = to_device(run.model(checkpoint), place)
    total, first, frames = _extent(recording, config)
    starts = _starts(config, frames)
    of_windows, peaks = _windows(model, recording, config, first, frames, starts)
    check_finite(run.path, of_windows)
    audible = peaks >= config.min_peak
    mean = of_windows[audible if audible.any() else ...].mean(dim=0, keepdim=True)
    classes, temperature = config.class_names, run.temperature(checkpoint)
    probabilities = pd.Series(with_temperature(mean.numpy(), temperature)[0], classes, name="probability")
    centre = (first + starts.double() + config.crop_samples / 2) / config.sample_rate
    seconds = pd.Index(centre.numpy().round(3), name="seconds")
    return Prediction(
        top=probabilities.sort_values(ascending=False, kind="stable").head(top).rename_axis("class").reset_index(),
        windows=pd.DataFrame(with_temperature(of_windows.numpy(), temperature), seconds, classes),
        seconds=total / config.sample_rate,
    )


def _extent(recording: Recording, config: TrainConfig) -> tuple[int, int, int]:
    """How many samples the recording has at the run's rate, and which of them count: the first one, and how many.

    Those are all, or without the zeros at both ends, if the run trims its clips.
    """
    total, first, last = 0, None, 0
    with _progress(recording, "checking", recording.seconds * config.sample_rate + 1) as bar:  # 1: for rounding
        for block in int16_blocks(recording, config.sample_rate):
            nonzero = np.flatnonzero(block)
            if len(nonzero):
                first = total + int(nonzero[0]) if first is None else first
                last = total + int(nonzero[-1])
            total += len(block)
            bar.update(len(block))
    if first is None or not config.trim_silence:
        return total, 0, total
    return total, first, last + 1 - first


def _starts(config: TrainConfig, frames: int) -> Tensor:
    """Where the windows start: as many as in a test, and more if they would be more than half a window apart."""
    clip = torch.tensor([frames])
    first, last = even_starts(clip, config.crop_samples, 2, pad=config.pad)[0]
    needed = 1 + -(-int(last - first) // max(1, config.crop_samples // 2))
    return even_starts(clip, config.crop_samples, max(config.crops, needed), pad=config.pad)[0]


def _windows(
    model: nn.Module, recording: Recording, config: TrainConfig, first: int, frames: int, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Class probabilities `(windows, n_classes)` and peak `(windows,)` of each window, on the CPU.

    Args:
        model: the network.
        recording, config: what is predicted, and the run's settings.
        first, frames: as from `_extent`.
        starts: of the windows, in samples after `first`: `(windows,)`.
    """
    place = next(model.parameters()).device
    batches = starts.split(WINDOWS_PER_BATCH)
    length = config.crop_samples
    # What a batch covers of the samples that count; outside of them windows are zero.
    spans = [(max(0, int(batch[0])), min(frames, int(batch[-1]) + length)) for batch in batches]
    blocks = int16_blocks(recording, config.sample_rate)
    pieces = _cut_out(blocks, [(first + begin, first + end) for begin, end in spans])
    # Made beforehand: small results, kept among the network's large temporary ones, would leave gaps in memory that
    # nothing fits into, 5 MB for each minute of the recording.
    probabilities = torch.empty(len(starts), len(config.class_names))
    peaks = torch.empty(len(starts))
    rows = torch.arange(len(starts)).split(WINDOWS_PER_BATCH)
    with inference_context(config.precision, place), _progress(recording, "predicting", len(batches)) as bar:
        for row, batch, (begin, _), samples in zip(rows, batches, spans, pieces, strict=True):
            clip, start = _as_clips(samples, config).to(place), (batch - begin).to(place)
            index = torch.zeros_like(start)
            probabilities[row] = crop_probabilities(model, clip, index, start, length)
            inside = [samples[max(0, at) : at + length] for at in start.tolist()]
            peaks[row] = torch.tensor([max(int(x.max()), -int(x.min())) / FULL_SCALE for x in inside])
            bar.update()
    return probabilities, peaks


def _cut_out(blocks: Iterable[Samples], spans: list[tuple[int, int]]) -> Iterator[Samples]:
    """Pieces of a signal that comes block by block.

    Args:
        blocks: of the signal: each `(frames,)`.
        spans: beginning and end of each piece in the signal, in samples; neither ever decreases.
    """
    blocks = iter(blocks)
    held, at = np.empty(0, np.int16), 0  # the part of the signal that is held, and where it begins
    for begin, end in spans:
        while at + len(held) < end:
            passed = min(len(held), max(0, begin - at))
            held, at = np.concatenate([held[passed:], next(blocks)]), at + passed
        yield held[begin - at : end - at]


def _progress(recording: Recording, what: str, total: float) -> "tqdm[NoReturn]":
    """A progress bar for a long recording; for a short one it does nothing."""
    bar = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return progress_bar(desc=what, total=total, disable=recording.seconds <= PROGRESS_FROM, bar_format=bar)


def _as_clips(samples: Samples, config: TrainConfig) -> Clips:
    """Samples as a data set of one clip."""
    return Clips(
        samples=torch.from_numpy(samples),
        offsets=torch.tensor([0]),
        frames=torch.tensor([len(samples)]),
        targets=torch.tensor([0]),
        table=pd.DataFrame({"file": [""]}),
        dataset=config.dataset,
        classes=config.class_names,
        sample_rate=config.sample_rate,
        subset=False,
        source_sha256="",
    )
