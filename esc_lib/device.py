"""On which device to compute, and how the process keeps its memory meanwhile."""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is the GPU if PyTorch sees one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device {name!r} is not known here: use auto, cpu, cuda or cuda:1")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(
            f"device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} GPU(s); use auto or cpu"
        )
    return device


def say_if_no_gpu(name: str) -> None:
    """One line where "auto" means the CPU."""
    if name == "auto" and not torch.cuda.is_available():
        tqdm.write("no GPU that PyTorch can use: training on the CPU", file=sys.stderr)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Lets the process keep the memory that it frees until the end, on Linux; elsewhere it changes nothing.

    A training step frees maps of hundreds of megabytes and soon needs as many again. The C library would give them back
    to the system, which has to clear every page of them once more: that can be a third of the step.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (TypeError, OSError, AttributeError):  # no glibc: Windows, macOS, musl
        yield
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, 65536)  # as glibc begins
        mallopt(M_TRIM_THRESHOLD, 128 * 1024)
        trim(0)
