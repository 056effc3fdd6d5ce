"""Makes the helpers beside this file importable for all tests."""

import os

# Tests run side by side; threads waiting for each other on busy cores take a hundred times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test says by itself what a runner would tell: it gives the same on a laptop and on GitHub. What
# begins with TRILHO_TEST_ speaks to the tests.
for name in list(os.environ):
    if name.startswith(("GITHUB_", "TRILHO_")) and not name.startswith("TRILHO_TEST_"):
        del os.environ[name]
