"""Colab's Drive module as the code uses it: a mount is a folder; COLAB_STUB names what goes wrong."""

import os
from pathlib import Path


def mount(mountpoint: str, force_remount: bool = False) -> None:
    if os.environ.get("COLAB_STUB") == "declined":
        raise ValueError("mount failed")
    (Path(mountpoint) / "MyDrive").mkdir(parents=True, exist_ok=True)


def flush_and_unmount() -> None:
    if os.environ.get("COLAB_STUB") == "no flush":
        raise ValueError("unmount failed")
    Path(os.environ["COLAB_DRIVE_MOUNT"], "flushed").touch()
