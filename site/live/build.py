"""Builds the page that listens in site/_build/html/live: the page, onnxruntime-web, and the course's trained network.

Where npm is missing, or cannot fetch onnxruntime-web, it says so and leaves the page out of the site.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx

import esc_lib
from esc_lib.evaluation import as_arrays
from esc_lib.evaluation.calibration import with_temperature
from esc_lib.evaluation.cross_validation import CrossValidation
from esc_lib.files import write_json
from esc_lib.paths import PRETRAINED
from esc_lib.results.records import NOT_COMPARED, all_records
from esc_lib.training import Run

HERE = Path(__file__).parent
TARGET = HERE.parent / "_build" / "html" / "live"
PAGE = ("index.html", "live.js", "sound.js", "capture.js", "style.css")
# On one thread it needs no headers that isolate the page, which simple servers do not send.
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
RIGHT = 0.95  # of the answers that the page gives
SETTINGS = ("sample_rate", "window", "crops", "trim_silence", "pad", "min_peak", "temperature", "classes")


def build() -> None:
    """Writes the folder afresh."""
    shutil.rmtree(TARGET, ignore_errors=True)
    npm = shutil.which("npm")
    if not npm:
        print("npm is not installed: the site is built without the page that listens. Install Node.js for it.")
        return
    if subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=HERE).returncode:
        print(
            "npm could not fetch onnxruntime-web: the site is built without the page that listens. Is there a network?"
        )
        return
    TARGET.mkdir(parents=True)
    for name in PAGE:
        shutil.copy(HERE / name, TARGET)
    for name in RUNTIME:
        shutil.copy(HERE / "node_modules" / "onnxruntime-web" / "dist" / name, TARGET)
    esc_lib.export(PRETRAINED, TARGET / "model.onnx")
    write_json(TARGET / "model.json", describe(TARGET / "model.onnx"))


def describe(model: Path) -> dict[str, Any]:
    """What the page has to know of an exported network: its metadata, and the threshold."""
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    settings = {key: json.loads(metadata[key]) for key in SETTINGS}
    texts = {key: metadata[key] for key in ("network", "credits")}
    run = esc_lib.load_run(PRETRAINED)
    return {**texts, **settings, "threshold": choose_threshold(own_record(run), run.temperature())}


def own_record(run: Run) -> CrossValidation:
    """The cross-validation of a run's settings, whose networks were tested on clips that they were not trained on."""
    ignored = NOT_COMPARED - {"epochs", "dataset"} | {"precision"}
    own = run.config.to_dict()
    for found in all_records():
        other = found.config.to_dict()
        if not found.config.validation_folds and all(own[key] == other[key] for key in set(own) - ignored):
            return found
    raise ValueError(f"data/results has no cross-validation of the settings of {run.path}: record one")


def choose_threshold(found: CrossValidation, temperature: float) -> dict[str, Any]:
    """The lowest probability, in percent, from which on answers to held-out clips are right often enough.

    Returns:
        it as "percent"; "wanted" and "right", which share of the answers from it on shall be right and is; "answered",
        which share of the clips has such an answer; the number of "clips"; and the "record".
    """
    probabilities, targets = as_arrays(found.predictions)
    probabilities = with_temperature(probabilities, temperature)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    for percent in range(100):
        above = confidence >= percent / 100
        if above.any() and right[above].mean() >= RIGHT:
            return {
                "percent": percent,
                "wanted": RIGHT,
                "right": round(float(right[above].mean()), 4),
                "answered": round(float(above.mean()), 4),
                "clips": len(targets),
                "record": found.path.stem,
            }
    raise ValueError(f"{found.path.stem}: at no threshold {RIGHT:.0%} of the answers are right")


if __name__ == "__main__":
    build()
