"""The reusable pieces of the course on end-to-end environmental sound classification.

Sound flows one way: datasets (what each set is) -> download and synthetic -> prepare -> clips (one tensor) ->
augment and mixing -> models -> batches -> train -> runs -> evaluate, cross_validation and predict -> plots. Beside them
stand audit (what is in a set), recipes (the papers' settings), statistics (how sure a result is), records and results
(published and measured numbers) and bench (speed). esclearner and fetch read the runs of an older project. The
notebooks explain; what they use again and again is here. A module imports only what is needed before it: `train` writes
its run and draws its curves, so it imports `runs` and `plots`, and neither imports it.
"""

from esc_lib.calibration import calibrate
from esc_lib.clips import Clips, load_clips
from esc_lib.config import TrainConfig
from esc_lib.cross_validation import CrossValidation, cross_validate
from esc_lib.datasets import DATASETS, get_dataset
from esc_lib.evaluate import Evaluation, evaluate
from esc_lib.fetch import fetch_run
from esc_lib.models import build_model
from esc_lib.predict import Prediction, predict
from esc_lib.prepare import prepare
from esc_lib.recipes import recipe
from esc_lib.resume import RunInUse
from esc_lib.runs import Run, list_runs, load_run
from esc_lib.train import TrainingStopped, train

__all__ = [
    "DATASETS",
    "Clips",
    "CrossValidation",
    "Evaluation",
    "Prediction",
    "Run",
    "RunInUse",
    "TrainConfig",
    "TrainingStopped",
    "build_model",
    "calibrate",
    "cross_validate",
    "evaluate",
    "fetch_run",
    "get_dataset",
    "list_runs",
    "load_clips",
    "load_run",
    "predict",
    "prepare",
    "recipe",
    "train",
]
