"""A trained network as a single ONNX file, which runs where neither PyTorch nor this course is installed."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from esc_lib.arguments import as_path
from esc_lib.data.datasets import DATASETS
from esc_lib.files import atomic_write
from esc_lib.training.runs import Run, as_run

NEEDED = ("onnx", "onnxscript")
OPSET = 18  # the oldest that the exporter writes without converting: more runtimes read it


class Classifier(nn.Module):
    """From windows to calibrated probabilities: a network between its channel axis and a softmax with temperature."""

    def __init__(self, network: nn.Module, temperature: float):
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, waveform: Tensor) -> Tensor:
        """`(batch, samples)` -> `(batch, classes)`"""
        return (self.network(waveform.unsqueeze(1)) / self.temperature).softmax(dim=1)


def export(run: Run | str | Path, file: str | Path, *, checkpoint: str = "result") -> Path:
    """Writes a run's network as an ONNX file, with all that is needed to use it as `predict` does.

    The input `waveform` holds windows at the run's sampling rate with full scale at 1.0, as many as wanted; the output
    `probabilities` is what `predict` returns for them in `windows`: standardisation, if the network has one, and
    softmax with the run's temperature are inside. It computes in float32: where `predict` computes in bfloat16, it
    rounds, and the two differ in the third decimal. A window's length is fixed; the M-nets could take any, but
    exporting that takes minutes.

    The file's metadata tell how to cut a recording, all as text: `network`, `classes` (a JSON list), `sample_rate`
    (Hz), `window` (samples), `crops`, `trim_silence`, `pad`, `min_peak` and `temperature`, which mean what they do in
    `TrainConfig` and `predict`; `credits` names the recordings with their licence, and `esc-course` its version.

    Args:
        run: a run, or its directory.
        file: the file to write; an older one is replaced.
        checkpoint: as for `Run.checkpoint`.

    Shape:
        waveform: `(batch, window)` float32 -> probabilities: `(batch, classes)` float32, rows sum to 1

    Returns:
        the file.

    Raises:
        FileNotFoundError: no run there, or its checkpoint is missing.
        ModuleNotFoundError: onnx or onnxscript is not installed.
        ValueError: no such checkpoint.
        WriteError: the file cannot be written.
    """
    run, path = as_run(run), as_path("file", file)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"export needs {' and '.join(missing)}: pip install --editable '.[export]'")
    config, temperature = run.config, run.temperature(checkpoint)
    windows = torch.zeros(2, config.crop_samples)  # a batch of one would be taken for a constant
    with quiet_exporter():
        program = torch.onnx.export(
            Classifier(run.model(checkpoint), temperature).eval(), (windows,), dynamo=True, opset_version=OPSET,
            input_names=["waveform"], output_names=["probabilities"], verbose=False,
            dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
    assert program is not None  # as it would be with a file's name
    program.model.metadata_props.update(
        {
            "network": config.architecture,
            "classes": json.dumps(config.class_names),
            "sample_rate": str(config.sample_rate),
            "window": str(config.crop_samples),
            "crops": str(config.crops),
            "trim_silence": json.dumps(config.trim_silence),
            "pad": json.dumps(config.pad),
            "min_peak": str(config.min_peak),
            "temperature": str(temperature),
            "credits": f"trained on {_title(config.dataset)}",
            "esc-course": version("esc-course"),
        }
    )
    content = program.model_proto.SerializeToString()
    atomic_write(path, lambda stream: stream.write(content))
    return path


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without PyTorch's notes about itself and about packages that no network here uses."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        registry.setLevel(level)


def _title(dataset: str) -> str:
    known = DATASETS.get(dataset)
    return f"{known.title} ({known.licence})" if known else dataset
