"""How the process keeps its memory while a network trains."""

import ctypes
import platform
import subprocess
import sys

import pytest

from esc_lib.device import kept_memory

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


# Pages that the system has to clear for a tensor of 64 MB, which has 16,384, in a process that did nothing else before.
COUNT_FAULTS = """
import resource, torch
from contextlib import suppress
from esc_lib.device import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
with suppress(KeyError), kept_memory():
    faults()
    print(min(faults() for _ in range(4)))  # a small block may have taken the place of one
    raise KeyError
faults()
print(faults())
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc is asked to keep memory")
def test_memory_is_kept_inside_and_given_back_behind_also_after_an_error():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    outside, inside, behind = map(int, done.stdout.split())
    assert outside > 8000 and inside < 1000 and behind > 8000


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_other_systems_do_without(monkeypatch, error):
    def no_library(_):
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with kept_memory():
        pass
