"""Where a notebook runs: what is installed, what is missing, and errors meant for the user shown as one sentence."""

import contextlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import __version__
from helpers.config import ROOT
from helpers.errors import ConfigError, UserError
from helpers.memory import available_ram

# The one place of the project's public address; `python -m tests.publish URL` rewrites it here, in notebooks and README.
REPOSITORY, TAG = "https://github.com/OWNER/paper-embeddings", "v0.1.0"

NEVER_TOUCHED = ("torch", "numpy", "pandas", "pyarrow", "ipython", "ipykernel")  # a notebook that replaces these breaks its own runtime
NOT_FOR_NOTEBOOKS = ("jupyter",)  # Colab has its own server; elsewhere it is running already
SHOWN = ("torch", "numpy", "pandas", "pyarrow", "numba", "matplotlib")


def requirements(path: Path = ROOT / "requirements.txt") -> list[tuple[str, str, str]]:
    """(name, lower bound, who needs it) of each line `name>=bound  # who`."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [(*line.split("#")[0].strip().split(">="), line.split("#")[1].strip()) for line in lines]


def installed(name: str) -> str | None:
    """The version of an installed package, None where there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)


def install_missing(path: Path = ROOT / "requirements.txt") -> list[str]:
    """Install the packages of `path` that are missing, never replacing one; returns their requirements. ConfigError where that fails."""
    missing = [line for line in requirements(path) if line[0] not in NOT_FOR_NOTEBOOKS and not installed(line[0])]
    for name, _, why in missing:
        if name in NEVER_TOUCHED:
            raise ConfigError(f"{name} is missing ({why}): choose a Colab runtime, or `pip install -r requirements.txt` and start again.")
        print(f"Installing {name}: {why}")
    if wanted := [f"{name}>={bound}" for name, bound, _ in missing]:
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"{', '.join(wanted)} could not be installed ({reason}); check the network and run this cell again.")
    return wanted


def commit() -> str:
    """The checkout's git commit, "unknown" where there is no git or no checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--tags", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def _device_name() -> str:
    # The GPU's name and memory
    import torch

    return f"{torch.cuda.get_device_name()} ({torch.cuda.mem_get_info()[1] / 1e9:.0f} GB)" if torch.cuda.is_available() else "no GPU"


def start_notebook() -> None:
    """A notebook's first call: install what is missing, print versions, commit and device, show a UserError as one sentence."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.set_custom_exc((UserError,), _one_sentence)
    install_missing()
    print(f"helpers {__version__} (commit {commit()}) in {ROOT}")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {installed(name)}' for name in SHOWN)}; {_device_name()}")


def _one_sentence(shell, kind, error, traceback, tb_offset=None) -> list[str]:
    # IPython's handler of a UserError: the cell fails and stops Run All, but shows the sentence alone
    sentence = f"{kind.__name__}: {error}"
    shell._showtraceback(kind, error, [sentence])
    return [sentence]


def checks(folder: Path) -> list[tuple[str, str, str]]:
    """(what, found, "OK" or what to do) of this machine: Python, packages against their lower bounds, RAM, GPU, disk of `folder`."""
    from packaging.version import Version  # here: a notebook begins without it

    rows = [("Python", platform.python_version(), "OK" if sys.version_info >= (3, 11) else "take Python 3.11 or newer")]
    for name, bound, why in requirements():
        if (version := installed(name)) is None:
            verdict = "not needed on Colab" if name in NOT_FOR_NOTEBOOKS else f"pip install '{name}>={bound}' ({why})"
        else:
            verdict = f"older than {bound}: pip install -U '{name}>={bound}'" if Version(version) < Version(bound) else "OK"
        rows.append((name, version or "missing", verdict))
    ram, disk = available_ram() / 1e9, shutil.disk_usage(folder).free / 1e9
    rows.append(("RAM", f"{ram:.1f} GB available", "OK" if ram >= 2 else "close other notebooks: the sample needs 1 GB"))
    rows.append(("GPU", _device_name() if installed("torch") else "unknown", "OK"))  # nothing needs one
    rows.append(("disk", f"{disk:.1f} GB free in {folder}", "OK" if disk >= 1 else "free some: a run needs 1 GB at least"))
    return rows
