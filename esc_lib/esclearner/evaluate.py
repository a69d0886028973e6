"""Testing as esc-learner did: quiet crops are left out, and logits are averaged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esc_lib.data.clips import Clips, trim_silence
from esc_lib.esclearner.models import NETWORKS
from esc_lib.esclearner.runs import EscLearnerRun
from esc_lib.training.augment import cut, even_starts
from esc_lib.training.compute import precision_context
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import Run

SILENT = 0.2  # crops of EnvNets whose largest sample is lower (full scale is 1) are left out


def esclearner_protocol(run: Run, model: nn.Module, load: Callable[..., Clips]) -> tuple[Clips, Tensor, dict[str, Any]]:
    """The clips that count, their probabilities, and what the result must say about it.

    Args:
        run: a run of esc-learner.
        model: its network.
        load: loads the clips, given the settings.

    Raises:
        ValueError: not a run of esc-learner, or no clip counts.
    """
    if not isinstance(run, EscLearnerRun):
        raise ValueError(f"{run.path} is not a run of esc-learner: test it by the course's protocol")
    clips = load(replace(run.config, trim_silence=False))
    probabilities, counts = predict_as_esclearner(model, clips, run.config)
    left_out = int((~counts).sum())
    if left_out == len(clips):
        raise ValueError(f"no clip of {run.path}'s folds ever rises to {SILENT}: by esc-learner's protocol none counts")
    text = f"as esc-learner tested: logits averaged, {left_out} quiet clip(s) left out and not counted"
    return clips.select(counts.numpy()), probabilities[counts], {"protocol": text, "left_out": left_out}


@torch.no_grad()
def predict_as_esclearner(model: nn.Module, clips: Clips, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Every clip's class probabilities in esc-learner's way, and which clips count there.

    Of EnvNets, crops whose largest sample is below `SILENT` are left out, however far they swing to the other side; a
    clip that has no other does not count. Logits are averaged, not probabilities. Of M-nets, the clip is one crop and
    always counts; if it is nothing but zeros, which stopped esc-learner, it does so here too.

    Two differences stay. Its accuracy of M-nets is a mean over batches, the last of which is smaller; here it is the
    share of the clips. Its first EnvNet runs, those without "bc", heard trimmed and padded clips at test in their time.

    Args:
        model: network, in eval mode.
        clips: on the network's device, not trimmed.
        config: of the run.

    Shape:
        `(clips, n_classes)` float32 (zeros for those that do not count), `(clips,)` bool, both on the CPU
    """
    probabilities = torch.zeros(len(clips), len(clips.classes))
    counts = torch.zeros(len(clips), dtype=torch.bool)
    clips, start = _its_crops(clips, config)
    with precision_context(config.precision, clips.samples.device):
        for i, of_clip in enumerate(start):
            x = cut(clips, torch.full_like(of_clip, i), of_clip, config.crop_samples)
            if config.architecture not in NETWORKS:
                x = x[x.amax(dim=(1, 2)) >= SILENT]
            if len(x):
                probabilities[i], counts[i] = model(x).float().mean(dim=0).softmax(dim=0).cpu(), True
    return probabilities, counts


def _its_crops(clips: Clips, config: TrainConfig) -> tuple[Clips, Tensor]:
    """The clips as they are heard there, and where each one's crops begin: `(clips, crops)`."""
    if config.architecture not in NETWORKS:
        return clips, even_starts(clips.frames, config.crop_samples, config.crops, pad=False)
    trimmed = trim_silence(clips)
    clips = replace(clips, frames=trimmed.offsets + trimmed.frames - clips.offsets)  # leading zeros stay
    return clips, -((config.crop_samples - clips.frames) // 2)[:, None]  # the clip in the middle, or its middle
