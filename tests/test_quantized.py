"""What half precision and eight bits cost: tested as `evaluate` does, calibrated on training clips alone."""

from dataclasses import replace

import pandas as pd
import pytest
import tiny
import torch

import esc_lib
from esc_lib.data.clips import load_clips
from esc_lib.results import load_record, quantized
from esc_lib.results.quantized import (
    COLUMNS,
    QUANTIZED,
    FileNetwork,
    calibration_windows,
    count,
    halve,
    main,
    quantize,
    rounded,
)

ROWS = pd.read_csv(QUANTIZED)
FORMATS = ["float32", "float16", "int8", "7 bits"]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    folder = tiny.write_set(tmp_path / "data", tiny.tones())
    monkeypatch.setenv("ESC_DATA", str(folder))
    return folder


def trained(folds, save_dir):
    """A run that was trained on all folds but one."""
    evaluated = next(iter({1, 2, 3} - set(folds)))
    config = tiny.config(train_folds=folds, eval_folds=[evaluated], epochs=8, eval_every=8, precision="float32")
    return esc_lib.train(config, save_dir=save_dir, device="cpu", progress=False)


def test_every_format_is_tested_as_evaluate_does_and_the_rows_add_up(data_dir, tmp_path, monkeypatch):
    runs = [trained(folds, tmp_path / "cv-tiny-some") for folds in ([1, 2], [1, 3])]
    runs[0].save_temperature("result", 3.0, fitted_on="nothing", clips=1)  # changes probabilities, but no count
    expected = [esc_lib.evaluate(run, device="cpu").result for run in runs]
    table = tmp_path / "quantized.csv"
    other, earlier = ("m5", "other", "int8", 1, 2, 1, 3), ("tiny", "tiny-some", "int8", 9, 9, 9, 9)
    pd.DataFrame([other, earlier], columns=COLUMNS).to_csv(table, index=False)
    tables = []
    monkeypatch.setattr(quantized, "count", lambda *of: tables.append(count(*of)) or tables[-1])
    main([str(run.path) for run in runs], table)
    rows = pd.read_csv(table)
    assert rows["record"].tolist() == ["other", *4 * ["tiny-some"]] and tuple(rows.loc[0]) == other
    rows = rows[1:].set_index("format")
    assert rows.at["float32", "correct"] == sum(of["correct"] for of in expected) > 20
    for name in FORMATS:
        of_folds = pd.concat(tables).query("format == @name")
        assert (*rows.loc[name, ["folds", "clips", "correct"]],) == (2, 62, of_folds["correct"].sum())


def test_all_formats_compute_in_float32_whatever_the_run_computed_in(data_dir, tmp_path, monkeypatch):
    run = trained([1, 2], tmp_path / "cv-tiny-some")
    run.config = replace(run.config, precision="bfloat16")
    precisions = []
    seen = quantized.predict_probabilities
    monkeypatch.setattr(quantized, "predict_probabilities", lambda *of: precisions.append(of[2].precision) or seen(*of))
    count(run, tmp_path)
    assert precisions == len(FORMATS) * ["float32"]


def test_a_file_gives_the_logits_of_its_network(data_dir, tmp_path):
    run = trained([1, 2], tmp_path)
    run.save_temperature("result", 3.0, fitted_on="nothing", clips=1)
    files = {name: tmp_path / f"{name}.onnx" for name in ("plain", "half", "int8")}
    esc_lib.export(run, files["plain"])
    windows = calibration_windows(run, load_clips("synthetic", tiny.RATE, folds=[1, 2]))
    halve(files["plain"], files["half"])
    quantize(files["plain"], files["int8"], windows)
    with torch.no_grad():
        expected = run.model()(windows.unsqueeze(1)).softmax(dim=1)
    off = {
        n: float((FileNetwork(f)(windows.unsqueeze(1)).softmax(dim=1) - expected).abs().max()) for n, f in files.items()
    }
    assert off["plain"] < 1e-5 < off["half"] < 5e-3 and off["half"] < off["int8"] < 0.25, off


def test_rounded_weights_are_those_of_a_checkpoint_of_seven_bits(data_dir, tmp_path):
    run = trained([1, 2], tmp_path)
    network, size = rounded(run)
    plain, x = run.model(), torch.randn(8, 1, tiny.LENGTH)
    run.save_checkpoint(plain, run.config.epochs, None, bits=7)
    assert (run.path / "epoch-0008/epoch-0008.model").stat().st_size == size
    assert torch.equal(network(x), run.model()(x)) and not torch.equal(network(x), plain(x))


def test_calibration_never_sees_the_tested_fold(data_dir, tmp_path, monkeypatch):
    """Every clip's samples are its number, so that a window names the clips that it was cut from."""
    folds = [1, 2, 3] * 20
    numbered = tiny.write_set(tmp_path / "numbered", tiny.numbered(folds))
    run = tiny.new_run(tiny.config(epochs=1), tmp_path)
    run.save_checkpoint(tiny.TinyNet(10), 1, None)
    seen = []
    monkeypatch.setattr(quantized, "quantize", lambda file, to, windows: (seen.append(windows), halve(file, to)))
    count(run, tmp_path, data_dir=numbered)
    clips = tiny.numbers_in(seen[0].unsqueeze(1))
    assert len(set(clips)) == 40 == len(clips) and {folds[i] for i in clips} == {1, 2}
    assert torch.equal(
        seen[0], calibration_windows(run, load_clips("synthetic", tiny.RATE, folds=[1, 2], data_dir=numbered))
    )


def test_a_run_that_is_not_finished_is_refused(data_dir, tmp_path):
    run = tiny.new_run(tiny.config(), tmp_path)
    with pytest.raises(ValueError, match="is not finished: train it to its end first"):
        main([str(run.path)], tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()


@pytest.mark.parametrize("record", ROWS["record"].unique())
def test_the_committed_counts_are_those_of_the_records(record):
    """Of the first seed, up to bfloat16, in which the records were tested: a clip or two are that close."""
    runs, rows = load_record(record).runs.query("seed == 0"), ROWS[ROWS["record"] == record].set_index("format")
    assert list(rows.index) == FORMATS
    assert rows["folds"].eq(len(runs)).all() and rows["clips"].eq(runs["clips"].sum()).all()
    assert abs(rows.at["float32", "correct"] - runs["correct"].sum()) <= 2
    assert rows["bytes"].is_monotonic_decreasing
