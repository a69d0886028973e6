"""On which device to compute."""

import re

import torch


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
