"""Fault injection: real processes that train or build, killed, damaged, out of disk; the harness counts what it cost."""
