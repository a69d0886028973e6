"""How tests and notebooks run: on one thread each, no runs left behind; of notebooks, what cannot vary is compared."""

import os
import shutil
import tempfile

# The notebooks' kernels inherit these. Two test processes run side by side, so each keeps to one thread.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ESC_RUNS"] = tempfile.mkdtemp(prefix="esc-runs-")


def pytest_collectstart(collector):
    """Progress bars (stderr) and tables' HTML are not compared; a table's plain text still is."""
    if collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr", "text/html")


def pytest_unconfigure():
    shutil.rmtree(os.environ["ESC_RUNS"], ignore_errors=True)
