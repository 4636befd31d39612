"""Where a notebook runs: versions printed, errors meant for the user shown as one sentence."""

import importlib.metadata
import platform
import subprocess
import sys

import torch

from helpers import __version__
from helpers.config import ROOT
from helpers.errors import UserError

SHOWN = ("torch", "numpy", "pandas", "pyarrow", "numba", "matplotlib")


def commit() -> str:
    """The checkout's git commit, "unknown" where there is no git or no checkout."""
    try:
        answer = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def start_notebook() -> None:
    """Print versions, commit and device, and show errors meant for the user as one sentence: a notebook's first call."""
    print(f"helpers {__version__} (commit {commit()}) in {ROOT}")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"Python {platform.python_version()}, {versions}; {device}")
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.set_custom_exc((UserError,), _one_sentence)


def _one_sentence(shell, kind, error, traceback, tb_offset=None) -> list[str]:
    """IPython's handler of a UserError: the cell fails and stops Run All, but shows the sentence alone."""
    sentence = f"{kind.__name__}: {error}"
    shell._showtraceback(kind, error, [sentence])
    return [sentence]
