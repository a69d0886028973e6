"""Everything that knows esc-learner, the PyTorch project of 2022 that this course succeeds; nothing else does.

Importing this wing teaches `load_run` its run directories, `build_model` its networks and `evaluate` its protocol.
`fetch_run` downloads a run that its author published. Source of all that is said of it here:
github.com/arrrrrmin/esc-learner, as its last version (commit 73c2256, 28 September 2022) behaves.
"""

from esc_lib.esclearner.evaluate import esclearner_protocol
from esc_lib.esclearner.fetch import fetch_run
from esc_lib.esclearner.models import NETWORKS
from esc_lib.esclearner.runs import EscLearnerRun, read_run
from esc_lib.evaluation.evaluate import PROTOCOLS
from esc_lib.models import READ_ONLY
from esc_lib.training.runs import READERS

__all__ = ["EscLearnerRun", "fetch_run"]

READ_ONLY.update(NETWORKS)
READERS.append(read_run)
PROTOCOLS["esc-learner"] = esclearner_protocol
