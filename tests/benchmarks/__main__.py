"""Run one benchmark: print machine, versions and command, then its table; `--json` writes its figures as one flat object of numbers."""

import argparse
import importlib
import importlib.metadata
import json
import os
import pkgutil
import platform
import shlex
import sys
from pathlib import Path

import psutil

import tests.benchmarks
from helpers.environment import commit


def machine() -> str:
    """Processor, cores, memory and versions in two lines."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "numba", "pyarrow"))
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB\n"
        f"Python {platform.python_version()}, {versions}; commit {commit()}"
    )


def main() -> int:
    """Parse the command line and run the benchmark of that name."""
    names = sorted(module.name for module in pkgutil.iter_modules(tests.benchmarks.__path__) if module.name != "__main__")
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("name", choices=names)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--csv", metavar="FILE", help="write the table of `compressed` here")
    given = parser.parse_args()
    if given.csv and given.name != "compressed":
        parser.error("only `compressed` makes a CSV")
    print(f"{machine()}\n$ python -m tests.benchmarks {shlex.join(sys.argv[1:])}\n", flush=True)
    more = {"csv": given.csv} if given.csv else {}
    figures = importlib.import_module(f"tests.benchmarks.{given.name}").run(quick=given.quick, **more)
    if figures is None:
        return 0
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.4g}")
    if given.json:
        Path(given.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
