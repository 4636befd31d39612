"""Fault injection: real processes that train or build, killed, damaged, out of disk; the harness counts what it cost."""

import os

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # of those processes: torch's threads would wait for each other on tiny tables
