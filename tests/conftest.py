"""Makes the helpers beside this file importable for all tests."""

import os

# Tests run side by side; threads waiting for each other on busy cores take a hundred times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")
