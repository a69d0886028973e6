"""What a trained network says about any recording: which classes, and when."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from esc_lib.audio import read_audio, to_int16
from esc_lib.augment import even_starts, trim_silence
from esc_lib.clips import Clips
from esc_lib.datasets import get_dataset
from esc_lib.device import pick_device
from esc_lib.inference import crop_probabilities, heard_crops
from esc_lib.precision import computing_in
from esc_lib.runs import Run, load_run
from esc_lib.statistics import with_temperature


@dataclass(frozen=True)
class Prediction:
    """What `predict` found in a recording.

    Attributes:
        top: the most probable classes of the whole recording, first the best: class, probability.
        windows: the probability of each class in each window; a row per window, named by the second of its middle.
        seconds: how long the recording is.
    """

    top: pd.DataFrame
    windows: pd.DataFrame
    seconds: float


def predict(
    run: Run | str | Path, audio_file: str | Path, top: int = 5, which: str = "last", device: str = "auto"
) -> Prediction:
    """Lets a run's network listen to a recording of any length, rate and number of channels.

    The recording is treated as the clips of a test are: mixed to mono, resampled, trimmed if the run trims, cut into as
    many windows, whose probabilities are averaged. A longer one is cut into more, at most half a window apart. If the
    run has a temperature (`esc_lib.calibrate`), it is applied: to the mean, as it was found, and to each window, of
    which it promises less.

    Args:
        run: a run, or its directory.
        audio_file: anything that libsndfile reads: wav, flac, ogg, mp3, aiff and more.
        top: how many classes to name.
        which: checkpoint, as for `Run.checkpoint`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Raises:
        FileNotFoundError: no run there, or no recording.
        ValueError: the recording is empty, damaged or no audio; or no such checkpoint or device.
    """
    run = run if isinstance(run, Run) else load_run(run)
    place, config = pick_device(device), run.config
    recording = _as_clips(run, Path(audio_file)).to(place)
    length = config.crop_samples
    start = _starts(run, recording)
    index = torch.zeros_like(start)
    model = run.model(which).to(place, memory_format=torch.channels_last)
    with computing_in(config.precision, place):
        of_windows = crop_probabilities(model, recording, index, start, length)
    heard = heard_crops(recording, start[None], length, config.min_peak)[0].cpu()
    mean = of_windows[heard].mean(dim=0, keepdim=True)
    temperature = run.temperature(which)
    mean, of_windows = (torch.from_numpy(with_temperature(p.numpy(), temperature)) for p in (mean, of_windows))
    mean = mean[0]
    middle = (recording.offsets.cpu() + start.cpu() + length / 2) / config.sample_rate
    best = mean.argsort(descending=True, stable=True)[:top]
    names = pd.Series(recording.classes)
    return Prediction(
        top=pd.DataFrame({"class": names[best.numpy()].to_numpy(), "probability": mean[best].numpy()}),
        windows=pd.DataFrame(of_windows.numpy(), pd.Index(middle.numpy().round(3), name="seconds"), recording.classes),
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
    """Where the windows begin: as many as a test has, and more if they would be further apart than half a window."""
    config = run.config
    first, last = even_starts(recording.frames, config.crop_samples, 2, config.pad)[0]
    needed = 1 + -(-int(last - first) // max(1, config.crop_samples // 2))
    return even_starts(recording.frames, config.crop_samples, max(config.crops, needed), config.pad)[0]
