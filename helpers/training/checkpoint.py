"""Checkpoints: all a run needs to go on, in `checkpoints/<blocks done>/`; hashed, flushed and copied to Drive beside the training."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from helpers.artefacts import MANIFEST, differences, new_folder, read_manifest, sentences_for_disk_errors, write_manifest
from helpers.config import FIXED_SETTINGS, TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError
from helpers.memory import TABLES
from helpers.rows.files import RowFiles, aligned_empty, as_stored, as_tensor, empty_table, write_rows

NOTEBOOK = "notebook 03_train_embeddings"
KEPT = 2
PAUSES = (1, 4, 15, 40, 0)  # seconds after each try of a copy that fails; then the next checkpoint's turn comes

Keep = Callable[[Path], None] | None


@dataclasses.dataclass
class Checkpoint:
    """A run's state: rows bfloat16 or float32 (N, D), what the optimiser keeps of each, and how far it is."""

    target: torch.Tensor | RowFiles  # a tensor to train on; files, memory-mapped, to read
    context: torch.Tensor | RowFiles
    state: dict[str, torch.Tensor | RowFiles]  # "target_sums", ...: float32 (N,) or (N, D)
    epoch: int  # epochs done
    block: int  # blocks of the next one that are done
    log: list[dict]  # the rows of log.csv so far
    settings: dict  # TRAINING_SETTINGS of the run
    path: Path


class Copies:
    """Hands the newest checkpoint to `keep` in a thread of its own, and again where that fails: training never waits for it."""

    def __init__(self, keep: Callable[[Path], None]):
        self.in_hand = self._newest = None
        self._keep, self._worker = keep, ThreadPoolExecutor(1)

    def put(self, checkpoint: Path) -> None:
        """Have this checkpoint copied instead of all before it."""
        self._newest = checkpoint
        self._worker.submit(self._copy, checkpoint)

    def finish(self, wait: bool = True) -> None:
        """Wait until the newest checkpoint is kept, or has failed as often as there are PAUSES; or let the try in hand be the last."""
        self._newest = self._newest if wait else None
        self._worker.shutdown(wait)

    def _copy(self, checkpoint: Path) -> None:
        for pause in PAUSES:
            if checkpoint != self._newest:
                return
            self.in_hand = checkpoint
            try:
                return self._keep(checkpoint)
            except Exception as error:  # whatever it is: the training is worth more than the copy
                then = "trying again" if pause else f"it is whole in {checkpoint}; run this cell again to copy it"
                print(f"Checkpoint {checkpoint.name} was not kept: {error} Training is not touched; {then}.", flush=True)
                time.sleep(pause)
            finally:
                self.in_hand = None


class Checkpoints:
    """A training's checkpoints: one every so often, the newest two are left, each is handed to `keep`; blocks: of an epoch."""

    def __init__(self, config: Config, fingerprint: dict, blocks: int, found: Checkpoint | None = None, keep: Keep = None):
        self.config, self.fingerprint, self.blocks, self.folder = config, fingerprint, blocks, config.folder("checkpoints")
        for stale in self.folder.glob(".*-*"):  # of a run that was killed
            shutil.rmtree(stale, ignore_errors=True)
        self._known = {path.name for path in _folders(self.folder)}
        self._whole = [found.path] if found else []
        self._writer, self._saved = ThreadPoolExecutor(1), time.monotonic()
        self._finished = self._writer.submit(lambda: None)  # the last checkpoint is on the disk, or why it did not get there
        self._copies = Copies(keep or (lambda checkpoint: None))
        if found:
            self._copies.put(found.path)

    def save_if_due(self, engine, log: list[dict]) -> bool:
        """Save where the interval is over, and tell whether; a disk that is full is told, and tried again after another interval."""
        if time.monotonic() < self._saved + 60 * self.config.checkpoint_minutes:
            return False
        try:
            self._save(engine, log)
        except ArtefactError as error:
            print(f"{error} Training goes on; the next try is in {self.config.checkpoint_minutes:g} minutes.", flush=True)
        self._saved = time.monotonic()
        return True

    def save_last(self, engine, log: list[dict]) -> Path:
        """Save, wait until it is on the disk and, as far as possible, kept; raises ArtefactError where it cannot be written."""
        self._save(engine, log)
        self._finished.result()
        self._copies.finish()
        return self._whole[-1]

    def close(self) -> None:
        """Wait for what is being written; what is being copied comes to its end by itself."""
        self._writer.shutdown()
        self._copies.finish(wait=False)

    def _save(self, engine, log: list[dict]) -> None:
        try:
            self._finished.result()
        except ArtefactError as error:
            print(error, flush=True)
        epoch, block = position(log, self.blocks)
        path = self.folder / f"{epoch * self.blocks + block:09d}"
        if path in self._whole:
            return
        if strangers := [other for other in _folders(self.folder) if other.name >= path.name and other.name not in self._known]:
            raise ArtefactError(f"{strangers[0]} was written by another run that is further along; stop one of the two.")
        facts = {"epoch": epoch, "block": block, "log": list(log), "config": self.config.part(TRAINING_SETTINGS), "pairs": self.fingerprint}
        engine.flush()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(new_folder(path))
            for name, values in {"target": engine.target, "context": engine.context, **engine.state}.items():
                write_rows(folder, name, as_stored(values))
            rest = stack.pop_all()
        self._finished = self._writer.submit(self._finish, rest, folder, path, facts)

    def _finish(self, rest: contextlib.ExitStack, folder: Path, path: Path, facts: dict) -> None:
        with rest:
            write_manifest(folder, **facts)
        self._whole.append(path)
        self._copies.put(path)
        for old in _folders(self.folder):
            if old not in (*self._whole[-KEPT:], self._copies.in_hand) and old.name < path.name:
                shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(config: Config, fingerprint: dict, to_train: bool = True, elsewhere: Path | None = None) -> Checkpoint | None:
    """The furthest checkpoint of this run that verifies, in `out` or, copied from there, `elsewhere`; None where there is none.

    To train on, the settings must be the same and the tables are loaded; to read only, they are memory-mapped.
    Raises ArtefactError for another run's (other pairs, or a setting that may not change), naming what differs, or where none is whole."""
    damaged = 0
    copies = [path for path in _folders(elsewhere) if (path / MANIFEST).exists()]  # without one, a copy was cut off
    for path in sorted([*_folders(config.folder("checkpoints")), *copies], key=lambda path: path.name, reverse=True):
        try:
            manifest = read_manifest(path, NOTEBOOK, verify=not to_train)
            if not {"epoch", "block", "log", "config", "pairs"} <= set(manifest):
                raise ArtefactError(f"{path / MANIFEST} is no checkpoint's of this version.")
            differs = differences(manifest["config"], config.part(FIXED_SETTINGS)) if to_train else []
            if any(manifest["pairs"].get(name) != made for name, made in fingerprint.items()):  # there may be shards' beside them
                differs.append("other training pairs")
            if differs:
                read_manifest(path, NOTEBOOK, verify=True)  # damaged or of another run?
            else:
                path = _copied(path, config.folder("checkpoints")) if path.parent == elsewhere else path
                names = sorted({*TABLES, *(file.rsplit("-", 1)[0] for file in manifest["files"])})
                parts = {name: _tensor(config, path, name, manifest) if to_train else RowFiles(path, name) for name in names}
        except ArtefactError as error:
            damaged += 1
            print(f"Checkpoint {path.name} is passed over: {error}", flush=True)
            continue
        if differs:
            advice = "choose another --out (or Drive folder), or delete that folder"
            raise ArtefactError(f"{path.parent} belongs to another run ({'; '.join(differs)}): {advice}.")
        return Checkpoint(*map(parts.pop, TABLES), parts, *(manifest[name] for name in ("epoch", "block", "log", "config")), path=path)
    if damaged:
        advice = "put a whole one there, or delete that folder to train from the beginning"
        raise ArtefactError(f"{config.folder('checkpoints')} holds no whole checkpoint, but {damaged} damaged: {advice}.")
    return None


def trained_checkpoint(config: Config, fingerprint: dict) -> Checkpoint:
    """The newest checkpoint in `out`, whatever its settings, memory-mapped; ArtefactError where there is none, or it is of other pairs."""
    if found := newest_checkpoint(config, fingerprint, to_train=False):
        return found
    raise ArtefactError(f"{config.folder('checkpoints')} holds no whole checkpoint yet; run {NOTEBOOK} first.")


def _copied(path: Path, folder: Path) -> Path:
    # A checkpoint fetched from Drive: read there once, from its first byte to its last
    with new_folder(folder / path.name) as new:
        shutil.copytree(path, new, dirs_exist_ok=True)
        read_manifest(new, NOTEBOOK, verify=True)
    print(f"Checkpoint {path.name} was fetched from {path.parent}", flush=True)
    return folder / path.name


def _tensor(config: Config, path: Path, name: str, manifest: dict) -> torch.Tensor:
    # a table or what the optimiser keeps of it, verified, where this run trains them (`empty_table`)
    files = RowFiles(path, name)
    stored = empty_table(config, name, len(files)) if name in TABLES else aligned_empty(files.shape, files.dtype)
    files.read_into(stored, {file: facts["sha256"] for file, facts in manifest["files"].items()})
    return as_tensor(stored)


def position(log: list[dict], blocks: int) -> tuple[int, int]:
    """(epochs done, blocks of the next one that are done) after the last row of a log, an epoch having so many blocks."""
    return divmod((max(log[-1]["epoch"], 1) - 1) * blocks + log[-1]["block"], blocks)


def _folders(folder: Path | None) -> list[Path]:
    # The checkpoints in a folder, newest first; raises ArtefactError where it cannot be read
    with sentences_for_disk_errors(folder, "read", {}, "mount Drive again, then run this again"):  # a Drive that dropped
        found = folder.glob("[0-9]*") if folder and folder.is_dir() else []
        return sorted((path for path in found if path.is_dir()), reverse=True)
