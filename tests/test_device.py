"""How the process keeps its memory while a network trains."""

import ctypes
import platform
import subprocess
import sys

import pytest

from esc_lib.training.compute import retain_freed_memory

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


# Pages that the system has to clear for a tensor of 64 MB, which has 16,384, in a process that did nothing else before.
# Behind the block the first one shows whether the memory was given back. It may lie in a hole of the heap, under some
# small block, and stay there; so whether memory is given back at once again is asked with tensors that fit in no hole.
COUNT_FAULTS = """
import resource, torch
from contextlib import suppress
from esc_lib.training.compute import retain_freed_memory

def faults(megabytes=64):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(megabytes * 2**18).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
with suppress(KeyError), retain_freed_memory():
    faults()
    print(min(faults() for _ in range(4)))  # a small block may have taken the place of one
    raise KeyError
print(faults())
faults(256)
print(faults(256))
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc is asked to keep memory")
def test_memory_is_kept_inside_and_given_back_behind_also_after_an_error():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True)
    outside, inside, first_behind, behind = map(int, done.stdout.split())
    assert outside > 8000 and inside < 1000 and first_behind > 8000 and behind > 32000


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_other_systems_do_without(monkeypatch, error):
    def no_library(_):
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with retain_freed_memory():
        pass
