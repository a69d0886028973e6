"""From clips to a trained network: settings, augmentation, mixing, the loss, the training loop and run directories.

`recipe` has the papers' settings and `train` turns them into a run directory; `load_run` opens one again. Everything
here works on whole batches, on the device where the clips are.
"""

from esc_lib.training.augment import (
    cut,
    equalize,
    even_crops,
    random_crops,
    random_gains,
    random_scales,
    random_sliders,
)
from esc_lib.training.batches import batches, load_split, training_crops
from esc_lib.training.checkpoint import RunLockedError
from esc_lib.training.compute import available_precisions, hardware, pick_device, time_call
from esc_lib.training.config import TrainConfig
from esc_lib.training.inference import class_probabilities
from esc_lib.training.loss import kl_loss
from esc_lib.training.mixing import a_weighting, loudness, mix, mixed_labels
from esc_lib.training.recipes import recipe
from esc_lib.training.runs import Run, list_runs, load_run
from esc_lib.training.train import TrainingError, train

__all__ = [
    "Run", "RunLockedError", "TrainConfig", "TrainingError", "a_weighting", "available_precisions", "batches",
    "class_probabilities", "cut", "equalize", "even_crops", "hardware", "kl_loss", "list_runs", "load_run",
    "load_split", "loudness", "mix", "mixed_labels", "pick_device", "random_crops", "random_gains", "random_scales",
    "random_sliders", "recipe", "time_call", "train", "training_crops",
]  # fmt: skip
