"""Clips as points: what a network's last layer receives, in two dimensions."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esc_lib.arguments import check
from esc_lib.data.clips import Clips
from esc_lib.interpret.filters import check_network
from esc_lib.models.blocks import Network
from esc_lib.training.augment import even_starts
from esc_lib.training.config import TrainConfig
from esc_lib.training.inference import audible_crops, crop_probabilities, mean_of_crops


def embed(network: Network, clips: Clips, config: TrainConfig) -> Tensor:
    """The input of a network's last layer for each clip: the mean over the crops that a test takes of it.

    Args:
        network: in eval mode.
        clips: on its device, as for `esc_lib.training.class_probabilities`.
        config: the settings that it was trained with.

    Shape:
        `(clips, features)`, on the CPU
    """
    check_network(network)
    check("clips", clips, Clips)
    check("config", config, TrainConfig)
    start = even_starts(clips.frames, config.crop_samples, config.crops, pad=config.pad)  # (clips, crops)
    audible = audible_crops(clips, start, config.crop_samples, config.min_peak)
    seen: list[Tensor] = []
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].float().cpu()))
    try:
        crop_probabilities(network, clips, audible.nonzero()[:, 0], start[audible], config.crop_samples)
    finally:
        hook.remove()
    return mean_of_crops(torch.cat(seen), audible)


def to_two_dimensions(embeddings: Tensor, *, seed: int = 0) -> npt.NDArray[np.floating[Any]]:
    """Points of a plane whose neighbours are those of the embeddings, found by t-SNE; it starts from their PCA.

    Distances between groups and the sizes of groups mean little: t-SNE keeps who is near whom.

    Source: L. van der Maaten, G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.

    Args:
        embeddings: of `embed`, of 4 clips or more.
        seed: of t-SNE.

    Shape:
        `(clips, features)` -> `(clips, 2)`
    """
    from sklearn.manifold import TSNE

    check("embeddings", embeddings, Tensor)
    check("number of clips", len(embeddings), int, 4, 10**6)
    check("seed", seed, int, 0, 2**32 - 1)
    perplexity = min(30, (len(embeddings) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings.numpy())
