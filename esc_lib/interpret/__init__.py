"""What networks learned: their filters, the moments of a clip that decide, and how they arrange the clips.

`frontends` keeps the learned first layers of every network, before and after training, as small files, and `filters`
measures how they respond to frequencies. `attribution` finds the deciding moments, `embeddings` maps clips to points.
"""

from esc_lib.interpret.attribution import (
    fade_others,
    integrated_gradients,
    occlusion,
    sum_windows,
)
from esc_lib.interpret.embeddings import embed, to_two_dimensions
from esc_lib.interpret.filters import (
    alike_groups,
    bandwidths,
    centre_frequencies,
    dead_filters,
    ear_bandwidth,
    filter_sound,
    first_filters,
    kernel_response,
    mel_bandwidth,
    mel_frequencies,
    tone_response,
)
from esc_lib.interpret.frontends import FrontEnd, learned_map, list_frontends, load_frontend, save_frontend

__all__ = [
    "FrontEnd", "alike_groups", "bandwidths", "centre_frequencies", "dead_filters", "ear_bandwidth", "embed",
    "fade_others", "filter_sound", "first_filters", "integrated_gradients", "kernel_response", "learned_map",
    "list_frontends", "load_frontend", "mel_bandwidth", "mel_frequencies", "occlusion", "save_frontend",
    "sum_windows", "to_two_dimensions", "tone_response",
]  # fmt: skip
