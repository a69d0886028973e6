"""How fast this machine trains each network, beside a textbook loop and the speed of its matrix products.

Everything that is compared is measured in turns, because the speed of a machine changes from minute to minute; medians
count.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esc_lib.bench.plain_loop import plain_batches
from esc_lib.data.clips import Clips
from esc_lib.models import build_model
from esc_lib.training.batches import batches, build_optimizer, load_split, set_train_mode, train_step
from esc_lib.training.compute import (
    auto_precision,
    available_precisions,
    pick_device,
    precision_context,
    retain_freed_memory,
    time_call,
    to_device,
)
from esc_lib.training.config import TrainConfig
from esc_lib.training.inference import predict_probabilities
from esc_lib.training.recipes import recipe

Batch = tuple[Tensor, Tensor]  # waveforms and labels
Call = Callable[[], object]
VARIANTS = {
    "standard": dict(between_class=False, strong_augmentation=False),
    "between-class": dict(between_class=True, strong_augmentation=True),
}
TESTED = 16  # clips, for the speed at test
WARMUP_STEPS = 3  # until hardly any new memory is allocated
CALLS = {"cpu": 1, "cuda": 20}  # steps in a row, whose mean counts: a GPU computes one while the next is prepared
COLUMNS = [
    "network", "batch", "precision", "clips/s", "clips/s, BC and strong", "of float32 matmul", "times the plain loop",
    "times, BC and strong", "test clips/s", "memory, GB",
]  # fmt: skip


def measure(
    architecture: str,
    *,
    dataset: str = "synthetic",
    batch_size: int | None = None,
    repeats: int = 3,
    compiled: bool = False,
    data_dir: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Measures one network: complete training steps, from the packed int16 clips to the optimiser's update.

    Args:
        architecture: as for `recipe`.
        dataset: a prepared set.
        batch_size: clips a step; the paper's if not given.
        repeats: rounds in which everything is timed; a first one is not counted.
        compiled: whether standard training is measured with `torch.compile` too.
        data_dir: where prepared data lies, as for `load_clips`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Returns:
        what `benchmark_table` shows: `clips_per_second` and `plain_clips_per_second` (by variant),
        `precision_clips_per_second` (standard training in every precision that the device has: whether "auto" is
        right), `gflop_per_clip` (of a training step, counted by PyTorch), `matmul_gflops` (by precision),
        `fraction_of_float32_matmul`, `test_clips_per_second`, `memory_gb` (of the process, or of the GPU), and
        `compile_seconds`.

    Raises:
        FileNotFoundError: the data has not been prepared.
    """
    place = pick_device(device)
    configs = {variant: _config(architecture, dataset, batch_size, place, **of) for variant, of in VARIANTS.items()}
    standard = configs["standard"]
    clips, test_clips = load_split(standard, data_dir=data_dir, device=place)
    steps = {variant: our_step(config, clips) for variant, config in configs.items()}
    if compiled:
        steps["compiled"] = our_step(replace(standard, compile=True), clips)
    with retain_freed_memory():
        first = {name: time_call(step, place) for name, step in steps.items()}
        tested = speed_at_test(standard, test_clips)
    memory = peak_memory(place)
    precisions = available_precisions(place)
    others = {p: our_step(replace(standard, precision=p), clips) for p in precisions if p != standard.precision}
    plain = {f"plain {variant}": plain_step(config, clips) for variant, config in configs.items()}
    products = {f"matmul {p}": matmul(p, place) for p in precisions}
    seconds = in_turns({**steps, **others}, {**plain, **products}, place, repeats=repeats)
    rates = {name: standard.batch_size / of for name, of in seconds.items()}
    gflop = gflop_per_clip(architecture, len(clips.classes))
    matmuls = {p: 2e-9 * matmul_size(place) ** 3 / seconds[f"matmul {p}"] for p in precisions}
    return {
        "architecture": architecture,
        "batch_size": standard.batch_size,
        "precision": standard.precision,
        "clips_per_second": {name: rates[name] for name in steps},
        "plain_clips_per_second": {variant: rates[f"plain {variant}"] for variant in VARIANTS},
        "precision_clips_per_second": {p: rates["standard" if p == standard.precision else p] for p in precisions},
        "gflop_per_clip": gflop,
        "matmul_gflops": matmuls,
        "fraction_of_float32_matmul": rates["standard"] * gflop / matmuls["float32"],
        "test_clips_per_second": tested,
        "memory_gb": memory,
        "compile_seconds": first.get("compiled"),
    }


def _config(
    architecture: str, dataset: str, batch_size: int | None, device: torch.device, **variant: bool
) -> TrainConfig:
    """The paper's settings on any set, without a phase 1 to start from, in the precision that "auto" means."""
    changes: dict[str, Any] = {**variant} if batch_size is None else {**variant, "batch_size": batch_size}
    config = recipe(architecture, "esc10", **changes, precision=auto_precision(device), freeze_epoch=0)
    return replace(config, dataset=dataset)


def our_step(config: TrainConfig, clips: Clips) -> Call:
    """Each call of the result is one more training step, as `esc_lib.train` takes them."""
    device = clips.samples.device
    generator = torch.Generator(device).manual_seed(config.seed)
    model = to_device(build_model(config.architecture, len(clips.classes)), device)
    return _step(config, model, lambda: batches(config, clips, generator), device)


def plain_step(config: TrainConfig, clips: Clips) -> Call:
    """The same from the textbook loop, with PyTorch's own operations and layout, in float32."""
    device, on_cpu = clips.samples.device, clips.to("cpu")
    model = build_model(config.architecture, len(clips.classes)).to(device)
    config = replace(config, precision="float32", compile=False)
    return _step(config, model, lambda: plain_batches(config, on_cpu), device)


def _step(config: TrainConfig, model: nn.Module, epoch: Callable[[], Iterable[Batch]], device: torch.device) -> Call:
    set_train_mode(model, frozen=False)
    optimizer = build_optimizer(config, model)
    learner = cast(nn.Module, torch.compile(model)) if config.compile else model
    shown = full_batches(epoch, config.batch_size)

    def step() -> object:
        x, label = next(shown)
        with precision_context(config.precision, device):
            return train_step(learner, optimizer, x.to(device), label.to(device))

    return step


def full_batches(epoch: Callable[[], Iterable[Batch]], size: int) -> Iterator[Batch]:
    """Batches of one epoch after the other without end, all of one size; small sets make the batch from several."""
    x: list[Tensor] = []
    label: list[Tensor] = []
    while True:
        for some, labels in epoch():
            x, label = [*x, some], [*label, labels]
            if sum(map(len, x)) >= size:
                yield torch.cat(x)[:size], torch.cat(label)[:size]
                x, label = [], []


def matmul(precision: str, device: torch.device) -> Call:
    """A product of two square matrices, the fastest thing that a processor does."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = torch.randn(matmul_size(device), matmul_size(device), device=device).to(dtype)

    def product() -> object:
        with precision_context(precision, device):
            return matrix @ matrix

    return product


def matmul_size(device: torch.device) -> int:
    """Rows of the matrices that are multiplied."""
    return 8192 if device.type == "cuda" else 2048


def in_turns(
    ours: Mapping[str, Call], others: Mapping[str, Call], device: torch.device, *, repeats: int
) -> dict[str, float]:
    """Median seconds of each call, or on a GPU of several in a row; a first round of all of them is not counted.

    Args:
        ours: run as in `esc_lib.train`, in retained memory; a few calls fill it, as a training's first steps do.
        others: run after each round of ours.
        device: where they compute.
        repeats: rounds that count.
    """
    rounds, times = [], CALLS[device.type]
    for _ in range(repeats + 1):
        with retain_freed_memory():
            for call in WARMUP_STEPS * list(ours.values()):
                call()
            seconds = {name: time_call(call, device, times=times) for name, call in ours.items()}
        rounds.append(seconds | {name: time_call(call, device, times=times) for name, call in others.items()})
    return {name: statistics.median(seconds[name] for seconds in rounds[1:]) for name in rounds[0]}


def speed_at_test(config: TrainConfig, clips: Clips) -> float:
    """Clips a second at test, with all their crops."""
    device = clips.samples.device
    model = to_device(build_model(config.architecture, len(clips.classes)), device)
    some = clips.select(np.arange(min(TESTED, len(clips))))
    return len(some) / min(time_call(lambda: predict_probabilities(model, some, config), device) for _ in range(3))


def gflop_per_clip(architecture: str, n_classes: int) -> float:
    """Floating-point operations (1e9) of a training step for one clip, as PyTorch counts them in its own operations."""
    model = build_model(architecture, n_classes)
    set_train_mode(model, frozen=False)
    x = torch.zeros(2, 1, model.INPUT_SAMPLES)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops() / len(x) / 1e9


def peak_memory(device: torch.device) -> float | None:
    """The most memory (GB) that the GPU's tensors, or this process, has taken so far; None where it is not counted."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform != "linux":
        return None
    import resource  # not on Windows; in other units on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def benchmark_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per network: speed, and what it is a fraction or a multiple of."""
    lines = []
    for row in rows:
        ours, plain = row["clips_per_second"], row["plain_clips_per_second"]
        lines.append([
            *(row[key] for key in ("architecture", "batch_size", "precision")),
            *(round(ours[variant], 1) for variant in VARIANTS),
            round(row["fraction_of_float32_matmul"], 2),
            *(round(ours[variant] / plain[variant], 1) for variant in VARIANTS),
            round(row["test_clips_per_second"], 1),
            row["memory_gb"] and round(row["memory_gb"], 1),
        ])  # fmt: skip
    return pd.DataFrame(lines, columns=COLUMNS)
