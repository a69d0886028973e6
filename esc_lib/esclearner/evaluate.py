"""Testing as esc-learner did: crops that are too quiet are left out, and logits are averaged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esc_lib.data.clips import Clips, trim_silence
from esc_lib.esclearner.models import M_NETS
from esc_lib.esclearner.runs import EscLearnerRun
from esc_lib.training.augment import cut, even_starts
from esc_lib.training.compute import precision_context
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import Run

THRESHOLD = 0.2  # crops whose largest sample is lower (full scale is 1) are left out


def esclearner_protocol(run: Run, model: nn.Module, load: Callable[..., Clips]) -> tuple[Clips, Tensor, dict[str, Any]]:
    """The clips that count, their probabilities `(clips, n_classes)`, and what the result must say about them.

    Args:
        run, model, load: as for `esc_lib.evaluation.evaluate.course_protocol`.

    Raises:
        ValueError: not a run of esc-learner, or no clip counts.
    """
    if not isinstance(run, EscLearnerRun):
        raise ValueError(f"{run.path} is not a run of esc-learner: test it with protocol='course'")
    clips = load(replace(run.config, trim_silence=False))
    probabilities, counts = predict_as_esclearner(model, clips, run.config)
    left_out = int((~counts).sum())
    if left_out == len(clips):
        raise ValueError(
            f"no crop of {run.path}'s test clips reaches {THRESHOLD} of full scale, so in esc-learner's protocol none "
            "of them counts: test it with protocol='course'"
        )
    text = f"as esc-learner tested: logits averaged, {left_out} quiet clip(s) left out and not counted"
    remarks: dict[str, Any] = {"protocol": text, "left_out": left_out}
    if run.config.architecture in M_NETS:
        right = (probabilities.argmax(dim=1) == clips.targets.cpu()).double()
        # As it reported them: a mean over batches, the last of which may be smaller and counts as much.
        remarks["acc_over_batches"] = float(
            torch.stack([of.mean() for of in right.split(run.config.batch_size)]).mean()
        )
    return clips.select(counts.numpy()), probabilities[counts], remarks


@torch.no_grad()
def predict_as_esclearner(model: nn.Module, clips: Clips, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Every clip's class probabilities, computed in esc-learner's way, and which clips count there.

    Of EnvNets and WaveMsNet, crops whose largest sample is below `THRESHOLD` are left out, however low their smallest
    is; a clip whose crops are all left out does not count. The mean is over logits, not probabilities. Of M-nets, the
    clip is a single crop and always counts; one of nothing but zeros, which stopped esc-learner, counts here too.

    One difference remains: its first runs, those without "bc", were tested on trimmed and padded clips in their time.

    Args:
        model, config: the network, in eval mode, and its run's settings.
        clips: on the network's device, not trimmed.

    Shape:
        `(clips, n_classes)` float32 (zeros for those that do not count), `(clips,)` bool, both on the CPU
    """
    whole = config.architecture in M_NETS
    if whole:
        trimmed = trim_silence(clips)
        clips = replace(clips, frames=trimmed.offsets + trimmed.frames - clips.offsets)  # leading zeros stay
        starts = -((config.crop_samples - clips.frames) // 2)[:, None]  # crop and clip have the same middle
    else:
        starts = even_starts(clips.frames, config.crop_samples, config.crops, pad=False)
    probabilities = torch.zeros(len(clips), len(clips.classes))
    counts = torch.zeros(len(clips), dtype=torch.bool)
    with precision_context(config.precision, clips.samples.device):
        for i, start in enumerate(starts):
            x = cut(clips, torch.full_like(start, i), start, config.crop_samples)
            if not whole:
                x = x[x.amax(dim=(1, 2)) >= THRESHOLD]
            if len(x):
                probabilities[i], counts[i] = model(x).float().mean(dim=0).softmax(dim=0).cpu(), True
    return probabilities, counts
