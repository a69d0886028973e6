"""What half precision and fewer bits cost: `python -m esc_lib.results.quantized RUN...`.

The runs are a cross-validation's with one seed: clips that are tested twice would make the intervals too narrow. Every
run's network is exported, and from that file one with float16 weights and one of int8 are made; "7 bits" are a
checkpoint's weights, rounded as those of the course's ACDNet. Each is tested on the fold that the network was not
trained on, as `evaluate` does, but in float32; exported files without PyTorch in the network. The counts go to
`data/results/quantized.csv`, a row for each record and format.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from esc_lib.data.clips import Clips
from esc_lib.evaluation.export import export
from esc_lib.files import atomic_write, serialize
from esc_lib.paths import RESULTS
from esc_lib.training.augment import random_crops
from esc_lib.training.batches import load_folds
from esc_lib.training.inference import predict_probabilities
from esc_lib.training.rounding import restore_weights, round_weights
from esc_lib.training.runs import Run, as_run

QUANTIZED = RESULTS / "quantized.csv"
CALIBRATION_CLIPS = 40
BITS = 7  # of the weights of the course's ACDNet: the most with which it stays below 4 MB
KEY = ["network", "record", "format"]
COLUMNS = [*KEY, "folds", "clips", "correct", "bytes"]


class FileNetwork(nn.Module):
    """An exported network in place of the one that it was made from.

    Args:
        file: the ONNX file.

    Shape:
        `(batch, 1, window)` waveform -> `(batch, n_classes)` logits, without the temperature, up to a constant
    """

    def __init__(self, file: Path):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.temperature = float(self.session.get_modelmeta().custom_metadata_map["temperature"])

    def forward(self, x: Tensor) -> Tensor:
        (probabilities,) = self.session.run(["probabilities"], {"waveform": x.squeeze(1).numpy()})
        return torch.from_numpy(probabilities).log() * self.temperature


def halve(file: Path, to: Path) -> None:
    """Stores the weights of an exported network as float16. It still computes in float32."""
    import onnx

    model = onnx.load(file)
    for weights in [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]:
        name, values = weights.name, onnx.numpy_helper.to_array(weights).astype("float16")
        weights.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_half"))
        model.graph.node.insert(0, onnx.helper.make_node("Cast", [weights.name], [name], to=onnx.TensorProto.FLOAT))
    onnx.save(model, to)


def quantize(file: Path, to: Path, windows: Tensor) -> None:
    """Quantises an exported network's convolutions and linear layers to int8; all else stays in float32.

    Every output channel's weights have a scale of their own. They take 7 of the 8 bits, because processors without
    VNNI add two products in 16 bits, which would overflow. The range of an activation leaves out the largest 0.01 %
    of its values in the windows. Both were chosen on training clips.

    Args:
        file, to: the exported network, and the file to be written.
        windows: of training clips, on which the ranges of the activations are found.

    Shape:
        windows: `(n, window)` float32
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Windows(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        left = iter(windows.split(1))

        def get_next(self) -> dict[str, Any] | None:
            window = next(self.left, None)
            return None if window is None else {"waveform": window.numpy()}

    with redirect_stdout(io.StringIO()):  # it counts its histogram's bins aloud
        quant_pre_process(str(file), str(to), skip_symbolic_shape=True)
        quantize_static(
            str(to), str(to), Windows(), op_types_to_quantize=["Conv", "Gemm"], per_channel=True, reduce_range=True,
            calibrate_method=CalibrationMethod.Percentile, extra_options={"CalibPercentile": 99.99},
        )  # fmt: skip


def calibration_windows(run: Run, clips: Clips) -> Tensor:
    """A random window of each of some training clips, drawn with the run's seed: `(n, window)`."""
    generator = torch.Generator().manual_seed(run.config.seed)
    index = torch.randperm(len(clips), generator=generator)[:CALIBRATION_CLIPS]
    return random_crops(clips, index, run.config.crop_samples, generator, pad=run.config.pad).squeeze(1)


def rounded(run: Run) -> tuple[nn.Module, int]:
    """A run's network with rounded weights, and the size in bytes that a checkpoint of it has."""
    network = run.model()
    state = round_weights(network.state_dict(), BITS)
    network.load_state_dict(restore_weights(state))
    return network, len(serialize(state, compress=True))


def count(run: Run, folder: Path, *, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Tests a run's network in every format.

    Args:
        run: a finished run of a cross-validation.
        folder: for the files.
        data_dir: where prepared data lies, if not in `ESC_DATA` or the repository's `data/`.

    Returns:
        a row a format: `COLUMNS`, of one fold.
    """
    config = replace(run.config, precision="float32")
    seen = load_folds(config, config.train_folds, data_dir=data_dir, device="cpu")
    clips = load_folds(config, config.eval_folds, data_dir=data_dir, device="cpu")
    files = {name: folder / f"{name}.onnx" for name in ("float32", "float16", "int8")}
    export(run, files["float32"])
    halve(files["float32"], files["float16"])
    quantize(files["float32"], files["int8"], calibration_windows(run, seen))
    networks: dict[str, tuple[nn.Module, int]]
    networks = {name: (FileNetwork(file), file.stat().st_size) for name, file in files.items()}
    networks[f"{BITS} bits"] = rounded(run)
    rows = []
    for name, (network, size) in networks.items():
        correct = int((predict_probabilities(network, clips, config).argmax(dim=1) == clips.targets).sum())
        record = run.path.parent.name.removeprefix("cv-")
        rows.append((config.architecture, record, name, 1, len(clips), correct, size))
    return pd.DataFrame(rows, columns=COLUMNS)


def main(runs: Sequence[str], table: Path = QUANTIZED) -> None:
    """Counts over some runs, which take the place of what the table had of the same record; see the module."""
    counted = []
    with tempfile.TemporaryDirectory() as folder:
        for run in map(as_run, runs):
            if not run.finished:
                raise ValueError(f"{run.path} is not finished: train it to its end first")
            counted.append(count(run, Path(folder)))
    added = {"folds": "sum", "clips": "sum", "correct": "sum", "bytes": "max"}
    new = pd.concat(counted).groupby(KEY, sort=False).agg(added).reset_index()
    old = pd.read_csv(table) if table.is_file() else new[:0]
    rows = pd.concat([old[~old["record"].isin(new["record"])], new])
    atomic_write(table, methodcaller("write", rows.to_csv(index=False, lineterminator="\n").encode()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories: a cross-validation's, of one seed")
    main(parser.parse_args().runs)
