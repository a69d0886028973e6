"""In which numbers a network computes: exact float32, or shorter ones, which some processors multiply much faster."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")
HOPELESS = 3  # times slower: it is not called again


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Lets convolutions and matrix products compute in a precision until the block ends; weights stay float32.

    On a GPU convolutions add up in the same order every time, so that a training can be repeated.

    Args:
        precision: "float32" (24 bits of accuracy), "tf32" (GPUs alone: products of 11 bits, sums of 24) or
            "bfloat16" (8 bits, sums of 24; what a layer passes on is stored so too).
        device: where it computes.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting
        torch.backends.cudnn.deterministic = deterministic


def seconds_of(step: Callable, device: torch.device, times: int = 1) -> float:
    """How long a call takes, from an idle device to an idle device; the mean of several calls in a row."""
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(times):
        step()
    _wait_for(device)
    return (time.perf_counter() - start) / times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest_precision(step: Callable, device: torch.device) -> tuple[str, dict[str, float]]:
    """Calls a training step in every precision that the device has.

    Args:
        step: no arguments; it is called up to three times in each precision.
        device: where it computes.

    Returns:
        the fastest precision, and the seconds that a step took in each.
    """
    step()  # the first allocates
    seconds, turns = {}, available(device)
    for _ in range(2):  # in turns, because a machine's speed changes
        for precision in turns:
            with computing_in(precision, device):
                seconds[precision] = min(seconds_of(step, device), seconds.get(precision, math.inf))
        turns = [precision for precision in turns if seconds[precision] < HOPELESS * min(seconds.values())]
    return min(seconds, key=seconds.get), seconds


def available(device: torch.device) -> list[str]:
    """The precisions that are worth a try: TF32 is a matter of GPUs, and many processors have no use for bfloat16."""
    if device.type == "cuda":
        return list(PRECISIONS)
    return ["float32", "bfloat16"] if _bfloat16_is_worth_a_try() else ["float32"]


@cache
def _bfloat16_is_worth_a_try() -> bool:
    """Whether this processor multiplies short numbers. Where it has to pretend, a training step can take a minute."""
    matrix, cpu = torch.ones(256, 256), torch.device("cpu")
    long, short = (min(seconds_of(lambda m=m: m @ m, cpu) for _ in range(3)) for m in (matrix, matrix.bfloat16()))
    return short <= 10 * long  # seen: at most 3 times with AVX-512, 40 and more with AVX2
