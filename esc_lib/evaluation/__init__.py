"""From a trained network to results: tests on held-out folds, cross-validation, statistics, calibration, predictions.

`evaluate` tests one run and `cross_validate` trains and tests one for every fold; both keep every clip's probabilities.
`predict` applies a run to any recording, and `export` takes it to where this course is not.
"""

from esc_lib.evaluation.calibration import calibrate, reliability
from esc_lib.evaluation.cross_validation import CrossValidation, cross_validate
from esc_lib.evaluation.evaluate import Evaluation, as_arrays, evaluate
from esc_lib.evaluation.export import export
from esc_lib.evaluation.predict import Prediction, predict
from esc_lib.evaluation.statistics import bootstrap_interval, mcnemar, wilson_interval

__all__ = [
    "CrossValidation", "Evaluation", "Prediction", "as_arrays", "bootstrap_interval", "calibrate", "cross_validate",
    "evaluate", "export", "mcnemar", "predict", "reliability", "wilson_interval",
]  # fmt: skip
