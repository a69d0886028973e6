"""Two test processes run side by side, so each keeps to one thread; torch reads this when it is first imported."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
