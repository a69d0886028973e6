"""On what something was computed: what must be known to compare speeds, or to get a result again."""

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[1]


def hardware(device: torch.device) -> dict:
    """The device that computes, its threads, and the versions of what it runs."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
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
    """The commit that is checked out, read from git's own files; "" if this is no clone.

    Changes that are not committed are not seen.
    """
    git = repository / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:  # no branch
            return head
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((line[0] for line in packed if line[1:] == [name]), "")
    except OSError:
        return ""
