"""How fast this machine trains each network, beside the textbook loop and what its matrix products reach: `make bench`.

    python -m esc_lib.bench [networks] [--dataset esc10] [--batch-size 8] [--compile]

Everything that is compared is measured in turns, because these speeds change from minute to minute; medians count.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from esc_lib.batches import batches
from esc_lib.clips import Clips
from esc_lib.config import TrainConfig
from esc_lib.device import kept_memory, pick_device
from esc_lib.files import write_json
from esc_lib.inference import tested_probabilities
from esc_lib.machine import hardware
from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.convolution import plain_operations
from esc_lib.plain_loop import plain_batches
from esc_lib.precision import available, computing_in, seconds_of
from esc_lib.prepare import prepare
from esc_lib.recipes import recipe
from esc_lib.steps import new_optimizer, start_learning, train_step
from esc_lib.train import fastest_to_train, load_split

WAYS = {
    "standard": dict(between_class=False, strong_augmentation=False),
    "between-class": dict(between_class=True, strong_augmentation=True),
}
TESTED = 16  # clips, for the speed at test
FILLING = 3  # steps until hardly any new memory is asked for
IN_A_ROW = {"cpu": 1, "cuda": 20}  # steps whose mean counts: a GPU still computes one while the next is prepared
COLUMNS = [
    "network", "batch", "precision", "clips/s", "clips/s, BC and strong", "of float32 matmul", "times the plain loop",
    "times, BC and strong", "test clips/s", "memory, GB",
]  # fmt: skip


def measure(
    architecture: str,
    dataset: str = "synthetic",
    batch_size: int | None = None,
    repeats: int = 3,
    compiled: bool = False,
    data_dir: str | Path | None = None,
    device: str = "auto",
) -> dict:
    """Measures one network: complete training steps, from the packed int16 clips to the optimiser's update.

    Args:
        architecture: as for `recipe`.
        dataset: a prepared set.
        batch_size: clips a step; the paper's if not given.
        repeats: rounds in which everything is timed; a first one is not counted.
        compiled: whether standard learning is measured with `torch.compile` too.
        data_dir: where prepared data lies, as for `load_clips`.
        device: "auto", "cpu", "cuda", "cuda:1".

    Returns:
        what `table` shows: `clips_per_second` and `plain_clips_per_second`
        (by way of learning), `gflop_per_clip` (a training step's, counted by PyTorch), `matmul_gflops` (by precision),
        `fraction_of_float32_matmul`, `test_clips_per_second`, `memory_gb` (of the process, or of the GPU), and
        `compile_seconds`.

    Raises:
        FileNotFoundError: the data has not been prepared.
    """
    place = pick_device(device)
    batch = {} if batch_size is None else {"batch_size": batch_size}
    configs = {way: recipe(architecture, "esc10", **settings, **batch) for way, settings in WAYS.items()}
    configs = {way: replace(config, dataset=dataset, start_from="", freeze_epoch=0) for way, config in configs.items()}
    clips, test_clips = load_split(configs["standard"], data_dir, place)
    precision, _ = fastest_to_train(configs["standard"], clips)
    configs = {way: replace(config, precision=precision) for way, config in configs.items()}
    steps = {way: our_step(config, clips) for way, config in configs.items()}
    if compiled:
        steps["compiled"] = our_step(replace(configs["standard"], compile="on"), clips)
    with kept_memory():
        first = {way: seconds_of(step, place) for way, step in steps.items()}
        tested = speed_at_test(configs["standard"], test_clips)
    memory = peak_memory(place)
    plain = {f"plain {way}": plain_step(config, clips) for way, config in configs.items()}
    products = {f"matmul {precision}": matmul(precision, place) for precision in available(place)}
    seconds = in_turns(steps, {**plain, **products}, place, repeats)
    rate = {way: configs["standard"].batch_size / seconds[way] for way in steps}
    gflop = gflop_per_clip(architecture, len(clips.classes))
    matmuls = {precision: 2e-9 * size_of(place) ** 3 / seconds[f"matmul {precision}"] for precision in available(place)}
    return {
        "architecture": architecture,
        "batch_size": configs["standard"].batch_size,
        "precision": precision,
        "clips_per_second": rate,
        "plain_clips_per_second": {way: configs[way].batch_size / seconds[f"plain {way}"] for way in WAYS},
        "gflop_per_clip": gflop,
        "matmul_gflops": matmuls,
        "fraction_of_float32_matmul": rate["standard"] * gflop / matmuls["float32"],
        "test_clips_per_second": tested,
        "memory_gb": memory,
        "compile_seconds": first.get("compiled"),
    }


def our_step(config: TrainConfig, clips: Clips) -> Callable[[], object]:
    """Each call of the result is one more training step, as `esc_lib.train` takes them."""
    device = clips.samples.device
    generator = torch.Generator(device).manual_seed(config.seed)
    model = build_model(config.architecture, len(clips.classes)).to(device, memory_format=torch.channels_last)
    start_learning(model, frozen=False)
    optimizer = new_optimizer(config, model)
    learner = torch.compile(model) if config.compile == "on" else model
    shown = full_batches(lambda: batches(config, clips, generator), config.batch_size)

    def step():
        x, label = next(shown)
        with computing_in(config.precision, device):
            return train_step(config, learner, optimizer, x, label)

    return step


def plain_step(config: TrainConfig, clips: Clips) -> Callable[[], object]:
    """The same from the textbook loop, with PyTorch's own operations and layout, in float32."""
    device, on_cpu = clips.samples.device, clips.to("cpu")
    model = build_model(config.architecture, len(clips.classes)).to(device)
    start_learning(model, frozen=False)
    optimizer = new_optimizer(config, model)
    shown = full_batches(lambda: plain_batches(config, on_cpu), config.batch_size)

    def step():
        x, label = next(shown)
        with plain_operations(), computing_in("float32", device):
            return train_step(config, model, optimizer, x.to(device), label.to(device))

    return step


def full_batches(epoch: Callable[[], Iterator], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after the other without end, all of one size; small sets make the batch from several."""
    x, label = [], []
    while True:
        for some, labels in epoch():
            x, label = [*x, some], [*label, labels]
            if sum(map(len, x)) >= size:
                yield torch.cat(x)[:size], torch.cat(label)[:size]
                x, label = [], []


def matmul(precision: str, device: torch.device) -> Callable[[], object]:
    """A product of two square matrices, the fastest thing that a processor does."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = torch.randn(size_of(device), size_of(device), device=device).to(dtype)

    def product():
        with computing_in(precision, device):
            return matrix @ matrix

    return product


def size_of(device: torch.device) -> int:
    """Rows of the matrices that are multiplied."""
    return 8192 if device.type == "cuda" else 2048


def in_turns(ours: dict[str, Callable], others: dict[str, Callable], device: torch.device, repeats: int) -> dict:
    """Median seconds of each call, or on a GPU of several in a row; a first round of all of them is not counted.

    Ours run as in `esc_lib.train`, in memory that is kept; a few calls fill it, as a training's first steps do.
    """
    rounds, times = [], IN_A_ROW[device.type]
    for _ in range(repeats + 1):
        with kept_memory():
            for call in FILLING * list(ours.values()):
                call()
            seconds = {name: seconds_of(call, device, times) for name, call in ours.items()}
        rounds.append(seconds | {name: seconds_of(call, device, times) for name, call in others.items()})
    return {name: statistics.median(seconds[name] for seconds in rounds[1:]) for name in rounds[0]}


def speed_at_test(config: TrainConfig, clips: Clips) -> float:
    """Clips a second at test, with all their crops."""
    device = clips.samples.device
    model = build_model(config.architecture, len(clips.classes)).to(device, memory_format=torch.channels_last)
    some = clips.select(np.arange(min(TESTED, len(clips))))
    return len(some) / min(seconds_of(lambda: tested_probabilities(model, some, config), device) for _ in range(3))


def gflop_per_clip(architecture: str, n_classes: int) -> float:
    """Floating-point operations (1e9) of a training step for one clip, as PyTorch counts them in its own operations."""
    model = build_model(architecture, n_classes)
    start_learning(model, frozen=False)
    x = torch.zeros(2, 1, model.INPUT_SAMPLES)
    with plain_operations(), FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops() / len(x) / 1e9


def peak_memory(device: torch.device) -> float | None:
    """The most memory (GB) that the GPU's tensors, or this process, took so far; None where nobody counts it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform != "linux":
        return None
    import resource  # not on Windows; in other units on macOS

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def table(rows: list[dict]) -> pd.DataFrame:
    """A row per network: speed, and what it is a fraction or a multiple of."""
    lines = []
    for row in rows:
        ours, plain = row["clips_per_second"], row["plain_clips_per_second"]
        lines.append(
            [
                row["architecture"],
                row["batch_size"],
                row["precision"],
                *(round(ours[way], 1) for way in WAYS),
                round(row["fraction_of_float32_matmul"], 2),
                *(round(ours[way] / plain[way], 1) for way in WAYS),
                round(row["test_clips_per_second"], 1),
                row["memory_gb"] and round(row["memory_gb"], 1),
            ]
        )
    return pd.DataFrame(lines, columns=COLUMNS)


def main() -> None:
    """Measures the networks one after the other, each in a process of its own, and writes down what it finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(ARCHITECTURES), help="all, if none is named")
    parser.add_argument("--dataset", default="synthetic", help="clips to learn from; it is prepared if it is not there")
    parser.add_argument("--batch-size", type=int, help="the paper's if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too, which takes minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = {**hardware(pick_device()), "dataset": given.dataset, "rows": []}
    for architecture in given.networks:
        prepare(given.dataset, ARCHITECTURES[architecture].SAMPLE_RATE)
        # A process of its own, because the most memory that a process took can only grow.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            asked = pool.submit(measure, architecture, given.dataset, given.batch_size, given.repeats, given.compile)
            record["rows"].append(asked.result())
        write_json(given.out, record)  # what was measured is kept, whatever comes
        print(table(record["rows"][-1:]).T.to_string(header=False), "\n", flush=True)
    print(table(record["rows"]).to_string(index=False))
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
