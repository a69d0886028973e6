"""From published recordings to tensors: what the sets are, fetching, preparing, loading and auditing them.

`prepare` packs a set at one sampling rate and `load_clips` opens it as one tensor; `audit` says what is in it. This
wing knows nothing of networks.
"""

from esc_lib.data.audit import audit, describe_clips, formats
from esc_lib.data.clips import FULL_SCALE, Clips, load_clips, trim_silence
from esc_lib.data.datasets import DATASETS, Dataset, get_dataset
from esc_lib.data.prepare import prepare

__all__ = [
    "DATASETS",
    "FULL_SCALE",
    "Clips",
    "Dataset",
    "audit",
    "describe_clips",
    "formats",
    "get_dataset",
    "load_clips",
    "prepare",
    "trim_silence",
]
