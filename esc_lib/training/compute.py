"""What computes: the device, its number formats, its memory, and how all of it is named in a record."""

import ctypes
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm

from esc_lib.arguments import check
from esc_lib.models.cpu import accelerate
from esc_lib.paths import REPOSITORY
from esc_lib.progress import message_stream

PRECISIONS = ("float32", "tf32", "bfloat16")
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
Model = TypeVar("Model", bound=nn.Module)


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is the GPU if PyTorch sees one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    check("device", name, str)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device {name!r} is not known here: use auto, cpu, cuda or cuda:1")
    device, n = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= n):
        raise ValueError(f"device {name!r} is not there: PyTorch sees {n} GPU(s); use auto or cpu")
    return device


def warn_if_no_gpu(name: str) -> None:
    """One line where "auto" means the CPU."""
    if name == "auto" and not torch.cuda.is_available():
        tqdm.write("no GPU that PyTorch can use: training on the CPU", file=message_stream())


def warn_if_imitated(precision: str, device: torch.device) -> None:
    """One line where a training computes in bfloat16 without circuits for it."""
    if precision == "bfloat16" and precision not in available_precisions(device):
        text = "bfloat16 is only imitated on this device, and slow: float32, or auto, takes a fraction of the time"
        tqdm.write(text, file=message_stream())


def to_device(model: Model, device: torch.device) -> Model:
    """A network on the device that computes it, accelerated, in the layout in which convolutions are fastest."""
    return accelerate(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs


# Number formats -------------------------------------------------------------------------------------------------------


@contextmanager
def precision_context(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products inside the block compute in a precision; weights stay float32.

    On a GPU convolutions add up in the same order every time, so that a training can be repeated.

    Args:
        precision: "float32" (24 bits of accuracy), "tf32" (only on GPUs: products of 11 bits, sums of 24) or
            "bfloat16" (8 bits, sums of 24; a layer's output is stored in it too).
        device: where it computes.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined] # missing in torch's stubs
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


def inference_context(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """`precision_context` of a run's precision where the device has circuits for it; else of float32.

    A run may come from another machine. Without circuits, bfloat16 is imitated: less exact, and ten times slower.
    """
    return precision_context(precision if precision in available_precisions(device) else "float32", device)


def available_precisions(device: torch.device) -> list[str]:
    """The precisions that a device has circuits for, from the most exact to the fastest."""
    if device.type == "cuda":
        recent = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, 2020
        return list(PRECISIONS) if recent else ["float32"]
    capabilities = torch.cpu.get_capabilities()
    bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return ["float32", "bfloat16"] if bfloat16 else ["float32"]


def auto_precision(device: torch.device) -> str:
    """What `precision="auto"` means: bfloat16 where the device has circuits for it, else float32.

    It does not depend on how fast the machine is at the moment: the same settings give the same numbers.
    `esc_lib.bench` measures whether the rule is right.
    """
    return available_precisions(device)[-1]


# Time and memory ------------------------------------------------------------------------------------------------------


def time_call(call: Callable[[], object], device: torch.device, *, times: int = 1) -> float:
    """Seconds that a call takes, from an idle device to an idle device.

    Args:
        call, device: what is timed, and where it computes.
        times: calls in a row, whose mean is returned.
    """
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Lets the process keep the memory that it frees until the block ends, on Linux; elsewhere it changes nothing.

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
        mallopt(M_MMAP_MAX, 65536)  # glibc's default
        mallopt(M_TRIM_THRESHOLD, 128 * 1024)
        trim(0)


# For records ----------------------------------------------------------------------------------------------------------


def hardware(device: torch.device) -> dict[str, str | int]:
    """The device that computes, its threads, and the versions of what it runs: what a result or a speed depends on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "date": f"{date.today()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "esc-course": version("esc-course"),
        "commit": commit(),
    }


def commit(repository: Path = REPOSITORY) -> str:
    """The commit that is checked out, whatever is changed since; "" if this is no clone, or git is not installed."""
    if not (repository / ".git").exists():
        return ""  # git would find a repository further up
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
