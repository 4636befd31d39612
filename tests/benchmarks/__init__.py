"""Benchmarks: `python -m tests.benchmarks NAME [--quick] [--json FILE]`, one module each; figures worth quoting stand in RESULTS.md."""
