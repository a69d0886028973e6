"""Opening esc-learner's run directories, which are laid out like this course's: the same files, other contents."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from esc_lib.esclearner.settings import convert_settings
from esc_lib.esclearner.weights import load_weights
from esc_lib.training.runs import Run, read_checkpoints, read_history


@dataclass
class EscLearnerRun(Run):
    """A run of esc-learner: opened and tested, never trained on."""

    keeps_only_best: ClassVar[bool] = True
    checkpoint_name: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9]{10}")  # drawn at random

    def load_weights(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Puts a checkpoint's tensors into a fresh network, whatever esc-learner called them."""
        load_weights(model, state)


def read_run(path: Path, settings: dict[str, Any]) -> EscLearnerRun | None:
    """Opens a run directory of these settings; None if it is none of esc-learner's, which alone have a "max_length".

    Raises:
        ValueError: a setting is unknown, missing or impossible, by name; a file is damaged; or it is a run of the first
            format, before 15 September 2022, which does not say what its checkpoints are.
    """
    if "max_length" not in settings:
        return None
    try:
        config = convert_settings(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'}: {error}") from error
    if not (path / "checkpoints.json").is_file() and any(path.glob("*/*-history.json")):
        raise ValueError(
            f"{path} is a run of esc-learner's first format, without a checkpoints.json: neither epoch nor accuracy of "
            "its checkpoints is known, so it cannot be opened; train again"
        )
    run = EscLearnerRun(path, config, read_history(path, config.epochs, may_diverge=True))
    run.checkpoints = read_checkpoints(run)
    return run
