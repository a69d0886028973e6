"""A disk that is full, for tests."""

from contextlib import contextmanager

import pytest


@contextmanager
def largest_file(size):
    """Let the system refuse to write beyond `size` bytes per file: as a full disk does, for root too."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
