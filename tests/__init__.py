"""Tests of helpers and notebooks; `python -m pytest -n 2` runs them, two at a time."""

import os

# Of two tests at a time on two cores each gets one: torch's threads, two a process, would wait for each other busily, thirty times as long
# in small operations. Their processes inherit it; it must stand before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
