"""Checkpoints: everything a run needs to go on, one folder a step, the manifest written last; the newest two are kept."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import torch

from helpers.artefacts import new_folder, read_manifest, write_manifest
from helpers.config import MAY_CHANGE, TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError
from helpers.rows.bfloat16 import as_stored, as_tensor

NOTEBOOK = "notebook 03_train_embeddings"
KEPT = 2


@dataclasses.dataclass
class Checkpoint:
    """A run's state: rows bfloat16 or float32 (N, D), optimiser sums float32 (N,) or None, and how far it is."""

    target: torch.Tensor
    context: torch.Tensor
    target_sums: torch.Tensor | None
    context_sums: torch.Tensor | None
    epoch: int  # epochs done
    log: list[dict]  # the rows of log.csv so far
    settings: dict  # TRAINING_SETTINGS of the run
    path: Path


def save_checkpoint(config: Config, fingerprint: dict, engine, epoch: int, log: list[dict]) -> Path:
    """Write `out/checkpoints/<epochs done>/` whole, then delete all but the newest two; raises ArtefactError where the disk is full."""
    path = config.folder("checkpoints") / f"{epoch:06d}"
    with new_folder(path) as folder:
        for name in ("target", "context"):
            np.save(folder / f"{name}.npy", as_stored(getattr(engine, name)))
            if (sums := getattr(engine, f"{name}_sums")) is not None:
                np.save(folder / f"{name}_sums.npy", sums.numpy())
        write_manifest(folder, epoch=epoch, log=log, config=config.part(TRAINING_SETTINGS), pairs=fingerprint)
    for old in _folders(config)[KEPT:]:
        shutil.rmtree(old)
    return path


def newest_checkpoint(config: Config, fingerprint: dict, to_train: bool = True) -> Checkpoint | None:
    """The newest checkpoint of this run that verifies, None where there is none.

    To train on, the settings must be the same and the tables are loaded; to read only, they are memory-mapped.

    Raises ArtefactError where the folder belongs to another run (other pairs, or a setting that may not change), naming what differs.
    """
    for path in _folders(config):
        try:
            manifest = read_manifest(path, NOTEBOOK, verify=True)
        except ArtefactError as error:
            print(f"Checkpoint {path.name} is passed over: {error}")
            continue
        expected = config.part(TRAINING_SETTINGS) if to_train else {}
        differs = [name for name, value in expected.items() if manifest["config"].get(name) != value]
        differs = [
            f"{name} {manifest['config'].get(name)} there, {getattr(config, name)} here" for name in differs if name not in MAY_CHANGE
        ]
        if any(manifest["pairs"].get(name) != made for name, made in fingerprint.items()):  # there may be shards' beside them
            differs.append("other training pairs")
        if differs:
            raise ArtefactError(
                f"{path.parent} belongs to another run ({'; '.join(differs)}): choose another --out, or delete that folder."
            )

        def tensor(name: str, path: Path = path) -> torch.Tensor | None:
            file = path / f"{name}.npy"
            if not file.exists():
                return None
            if not to_train or not config.tables_on_disk:
                return as_tensor(np.load(file, mmap_mode=None if to_train else "c"))
            config.folder("tables").mkdir(exist_ok=True)  # the checkpoint stays as it is: training goes on in a copy
            return as_tensor(np.load(shutil.copy(file, config.folder("tables")), mmap_mode="r+"))

        tables = [tensor(name) for name in ("target", "context", "target_sums", "context_sums")]
        return Checkpoint(*tables, epoch=manifest["epoch"], log=manifest["log"], settings=manifest["config"], path=path)
    if to_train and _folders(config):
        print("No checkpoint is whole: training starts again from the beginning.")
    return None


def trained_checkpoint(config: Config, fingerprint: dict) -> Checkpoint:
    """The newest checkpoint in `out`, whatever its settings, its tables memory-mapped.

    Raises ArtefactError where there is none, or it is of other pairs.
    """
    found = newest_checkpoint(config, fingerprint, to_train=False)
    if found is None:
        raise ArtefactError(f"{config.folder('checkpoints')} holds no whole checkpoint yet; run {NOTEBOOK} first.")
    return found


def _folders(config: Config) -> list[Path]:
    """The checkpoints, newest first."""
    return sorted((path for path in config.folder("checkpoints").glob("[0-9]*") if path.is_dir()), reverse=True)
