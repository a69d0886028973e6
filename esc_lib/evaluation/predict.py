"""What a trained network predicts for any recording: which classes, and when."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from esc_lib.data.clips import Clips, trim_silence
from esc_lib.data.datasets import get_dataset
from esc_lib.data.prepare import read_audio, to_int16
from esc_lib.evaluation.calibration import with_temperature
from esc_lib.training.augment import even_starts
from esc_lib.training.compute import pick_device, precision_context, to_device
from esc_lib.training.inference import audible_crops, crop_probabilities
from esc_lib.training.runs import Run, as_run


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
        audio_file: anything that libsndfile reads: wav, flac, ogg, mp3, aiff and more.
        top: number of classes to list.
        checkpoint: as for `Run.checkpoint`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: no run there, or no recording.
        ValueError: the recording is empty, damaged or not audio; or no such checkpoint or device.
    """
    run, place = as_run(run), pick_device(device)
    config, length = run.config, run.config.crop_samples
    recording = _as_clips(run, Path(audio_file)).to(place)
    start = _starts(run, recording)
    model = to_device(run.model(checkpoint), place)
    with precision_context(config.precision, place):
        of_windows = crop_probabilities(model, recording, torch.zeros_like(start), start, length)
    audible = audible_crops(recording, start[None], length, config.min_peak)[0].cpu()
    mean = of_windows[audible].mean(dim=0, keepdim=True)
    temperature = run.temperature(checkpoint)
    probabilities = pd.Series(with_temperature(mean.numpy(), temperature)[0], recording.classes, name="probability")
    centre = (recording.offsets.cpu() + start.cpu() + length / 2) / config.sample_rate
    seconds = pd.Index(centre.numpy().round(3), name="seconds")
    return Prediction(
        top=probabilities.sort_values(ascending=False, kind="stable").head(top).rename_axis("class").reset_index(),
        windows=pd.DataFrame(with_temperature(of_windows.numpy(), temperature), seconds, recording.classes),
        seconds=len(recording.samples) / config.sample_rate,
    )


def _as_clips(run: Run, path: Path) -> Clips:
    """The recording as a data set of one clip, at the run's rate, trimmed if the run's clips were."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the path of a recording")
    waveform, rate = read_audio(path)
    samples = torch.from_numpy(to_int16(waveform, rate, run.config.sample_rate, seconds=len(waveform) / rate))
    spec = get_dataset(run.config.dataset)
    clips = Clips(
        samples=samples,
        offsets=torch.tensor([0]),
        frames=torch.tensor([len(samples)]),
        targets=torch.tensor([0]),
        table=pd.DataFrame({"file": [path.name]}),
        dataset=spec.name,
        classes=spec.classes,
        sample_rate=run.config.sample_rate,
        subset=False,
        source_sha256="",
    )
    return trim_silence(clips) if run.config.trim_silence else clips


def _starts(run: Run, recording: Clips) -> torch.Tensor:
    """Where the windows start: as many as in a test, and more if they would be more than half a window apart."""
    config = run.config
    first, last = even_starts(recording.frames, config.crop_samples, 2, pad=config.pad)[0]
    needed = 1 + -(-int(last - first) // max(1, config.crop_samples // 2))
    return even_starts(recording.frames, config.crop_samples, max(config.crops, needed), pad=config.pad)[0]
