"""From published recordings to tensors: the data sets, and how they are downloaded, prepared, loaded and audited.

`prepare` packs a set at one sampling rate, `load_clips` opens it as one tensor, and `audit` reports what is in it.
Nothing here depends on networks.
"""

from esc_lib.data.audit import audit, describe_clips, formats
from esc_lib.data.clips import FULL_SCALE, Clips, load_clips, trim_silence
from esc_lib.data.datasets import DATASETS, Dataset, get_dataset
from esc_lib.data.prepare import prepare

__all__ = [
    "DATASETS", "FULL_SCALE", "Clips", "Dataset", "audit", "describe_clips", "formats", "get_dataset", "load_clips",
    "prepare", "trim_silence",
]  # fmt: skip
