"""Published and measured results, and the tables that show them side by side.

`save_record` turns a cross-validation into three files under `data/results/`, and `load_record` opens one again. Every
table in the README and in the lessons is made from these files.
"""

from esc_lib.results.comparisons import landscape, learned_filters_gain
from esc_lib.results.records import load_record, measured_results, published_results, save_record
from esc_lib.results.tables import results_table

__all__ = [
    "landscape", "learned_filters_gain", "load_record", "measured_results", "published_results", "results_table",
    "save_record",
]  # fmt: skip
