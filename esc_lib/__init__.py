"""The reusable pieces of the course on end-to-end environmental sound classification.

Seven wings beside the networks, and data flows one way through them: `data` (from recordings to tensors) and `models`
(the networks) -> `training` -> `evaluation` -> `results` and `bench`. `interpret` looks inside a trained network, and
`esclearner` reads the runs of an older project.
The notebooks explain; what they use more than once is here.
"""

import esc_lib.esclearner  # noqa: F401 # teaches `load_run` and `evaluate` the older project's runs
from esc_lib.data import load_clips, prepare
from esc_lib.esclearner import fetch_run
from esc_lib.evaluation import calibrate, cross_validate, evaluate, export, predict
from esc_lib.models import build_model
from esc_lib.training import load_run, recipe, train

__all__ = [
    "build_model", "calibrate", "cross_validate", "evaluate", "export", "fetch_run", "load_clips", "load_run",
    "predict", "prepare", "recipe", "train",
]  # fmt: skip
