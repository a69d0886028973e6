"""Temperatures: fitted without the test fold, saved with the run, applied by its predictions."""

import json

import numpy as np
import pytest
import soundfile
import tiny

from esc_lib import calibrate, cross_validate, evaluate, load_run, predict, train
from esc_lib.evaluation.calibration import calibration_error, with_temperature
from esc_lib.evaluation.evaluate import as_arrays


@pytest.fixture
def run(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    monkeypatch.setenv("ESC_DATA", str(tiny.write_set(tmp_path / "data", tiny.tones())))
    return train(tiny.config(epochs=6, batch_size=4, eval_every=3), save_dir=tmp_path / "runs", device="cpu")


def test_the_temperature_of_overconfident_probabilities_is_recovered(run):
    predictions = evaluate(run.path, device="cpu").predictions
    temperature = calibrate(run, predictions, fitted_on="fold 3")
    columns = [column for column in predictions if column.startswith("p_")]
    sharpened = with_temperature(predictions[columns].to_numpy(), 0.5)
    overconfident = predictions.assign(**dict(zip(columns, sharpened.T, strict=True)))
    assert calibrate(run.path, overconfident, fitted_on="the same, with doubled logits") == pytest.approx(
        2 * temperature, rel=1e-3
    )
    (entry,) = json.loads((run.path / "temperatures.json").read_text(encoding="utf-8")).values()
    assert entry["fitted_on"] == "the same, with doubled logits" and entry["clips"] == len(predictions)


def test_a_temperature_belongs_to_its_checkpoint(run):
    predictions = evaluate(run.path, device="cpu").predictions
    assert load_run(run.path).temperature() == 1
    found = calibrate(run, predictions, fitted_on="fold 3")
    assert load_run(run.path).temperature("last") == found != 1
    run.checkpoints["epoch-0003"] = {"name": "epoch-0003", "epoch": 3, "eval_acc": 0.1}
    assert run.temperature("epoch-0003") == 1


@pytest.mark.parametrize("entry", [3, {}, {"temperature": 0}, {"temperature": -1}, {"temperature": "2"}])
def test_a_damaged_temperature_is_refused(run, entry):
    (run.path / "temperatures.json").write_text(json.dumps({run.checkpoint()["name"]: entry}), encoding="utf-8")
    with pytest.raises(ValueError, match="temperatures.json.*calibrate again"):
        load_run(run.path).temperature()


def test_calibration_on_a_training_fold_is_refused(run):
    predictions = evaluate(run.path, device="cpu").predictions.assign(fold=1)
    with pytest.raises(ValueError, match=r"trained on fold\(s\) \[1\]"):
        calibrate(run, predictions, fitted_on="fold 1")


def test_predictions_of_a_recording_are_calibrated(run, tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.sin(2 * np.pi * 124 * np.arange(600) / tiny.RATE), tiny.RATE)
    before = predict(run, tmp_path / "tone.wav", top=10, device="cpu")
    run.save_temperature("last", 3.0, fitted_on="nothing: a test", clips=0)
    after = predict(run, tmp_path / "tone.wav", top=10, device="cpu")
    assert after.top["class"].tolist() == before.top["class"].tolist()
    expected = before.top["probability"].to_numpy() ** (1 / 3)
    assert after.top["probability"].to_numpy() == pytest.approx(expected / expected.sum(), rel=1e-4)
    expected = before.windows.to_numpy() ** (1 / 3)
    assert after.windows.to_numpy() == pytest.approx(expected / expected.sum(axis=1, keepdims=True), rel=1e-4)


def test_cross_validation_fits_temperatures_on_its_validation_folds(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    data = tiny.write_set(tmp_path / "data", tiny.tones((1, 2, 3, 4), per_class=2))
    settings = tiny.config(epochs=6, batch_size=4, eval_every=2)
    found = cross_validate(settings, validation=True, data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    for row in found.runs.itertuples():
        run = load_run(found.path / f"fold-{row.fold}-seed-{row.seed}")
        (checked,) = run.config.validation_folds
        on_validation = evaluate(run, folds=[checked], data_dir=data, device="cpu")
        assert on_validation.predictions["fold"].unique().tolist() == [checked] != [row.fold]
        assert row.temperature == run.temperature() == calibrate(run, on_validation.predictions, fitted_on="again")
    table = found.calibration()
    probabilities, targets = as_arrays(found.predictions)
    assert table.loc["uncalibrated", "calibration error"] == pytest.approx(calibration_error(probabilities, targets))
    first = found.predictions["fold"] == 1
    expected = with_temperature(probabilities[first], found.runs["temperature"][0])
    np.testing.assert_allclose(as_arrays(found.calibrated()[first])[0], expected)
    plain = cross_validate(settings, folds=[1], data_dir=data, save_dir=tmp_path / "runs", device="cpu")
    assert plain.calibration().index.tolist() == ["uncalibrated"] and plain.runs["temperature"].isna().all()


def test_every_checkpoint_keeps_its_temperature(tmp_path, monkeypatch):
    tiny.register(monkeypatch)
    run = tiny.new_run(tiny.config(keep_n=2), tmp_path)
    for epoch, temperature in ((1, 2.0), (2, 3.0)):
        run.save_checkpoint(tiny.TinyNet(10), epoch, 0.5)
        run.save_temperature(f"epoch-000{epoch}", temperature, fitted_on="nothing", clips=1)
    assert [load_run(run.path).temperature(f"epoch-000{epoch}") for epoch in (1, 2)] == [2, 3]


def test_a_network_of_all_folds_is_calibrated_on_other_predictions_and_tables_that_are_none_are_refused(
    tmp_path, monkeypatch
):
    tiny.register(monkeypatch)
    where = dict(data_dir=tiny.write_set(tmp_path / "data", tiny.tones(per_class=1)), device="cpu")
    tested = train(tiny.config(epochs=1), save_dir=tmp_path / "runs", **where)
    predictions = evaluate(tested, **where).predictions
    run = train(tiny.config(epochs=1, train_folds=[1, 2, 3], eval_folds=[]), save_dir=tmp_path / "runs", **where)
    assert calibrate(run, predictions, fitted_on="a cross-validation") == load_run(run.path).temperature() > 0
    without = predictions.drop(columns=["true", "p_dog"])
    for wrong, message in ((predictions[:0], "predictions is empty"), (without, "lacks the column.s. p_dog, true")):
        with pytest.raises(ValueError, match=message):
            calibrate(run, wrong, fitted_on="nothing")
