"""A training process to break: `python -m tests.faults.trainee FOLDER LIFE THREADS [WRONG]` trains FOLDER's graph and keeps a ledger.

FOLDER/ledger.txt gets one line an event, first the process's number LIFE: `start HASH` (the manifest of the checkpoint it goes on from, or
-), `block EPOCH BLOCK` (trained), `save PLACE` (the rows of a checkpoint begin to be written in a temporary folder), `wrote PLACE HASH`
(its manifest is there), `end`. What the trainer itself says of its position is not asked.
WRONG breaks resuming on purpose, to see that the harness tells: `skip` a block, `double` one, or load a shard `unverified`; or it is where
the tables are: `on_disk` (targets in a file).
"""

import dataclasses
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from helpers.artefacts import sha256
from helpers.config import Config
from helpers.rows import files
from helpers.training import checkpoint, engines, loop
from tests.planted import planted

PAPERS, EPOCHS, BLOCK_PAIRS = 4000, 20, 4500
CHECKPOINT_SECONDS = 0.08
PLACES = {"on_disk": dict(tables_on_disk=True)}
PIECE, PAUSE = 1 << 14, 0.002  # bytes that a copy writes at a time, seconds it waits then: a slow Drive


def settings(folder: Path, threads: int = 1, **changes) -> Config:
    """The Config of a run in folder/run."""
    small = dict(
        subset="all", out=str(folder / "run"), dimensions=16, epochs=EPOCHS, block_pairs=BLOCK_PAIRS, engine="kernel", device="cpu"
    )
    return Config.of_preset("cs", **{**small, "threads": threads, "checkpoint_minutes": CHECKPOINT_SECONDS / 60, **changes})


def write_graph(folder: Path, N: int = PAPERS) -> None:
    """Write folder/graph.npz: the training pairs and the held-out citations of a planted graph of N papers."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = planted(N, heldout=N, validation=0)
    np.savez(folder / "graph.npz", indptr=pairs.indptr, contexts=pairs.contexts, heldout=pairs.heldout, noise=pairs.noise)


def read_graph(folder: Path) -> SimpleNamespace:
    """That graph, with the fields of helpers.pairs.build.Pairs."""
    with np.load(folder / "graph.npz") as arrays:
        pairs = SimpleNamespace(**arrays)
    return SimpleNamespace(**vars(pairs), papers=len(pairs.indptr) - 1, fingerprint={"graph.npz": sha256(folder / "graph.npz")})


def blocks_an_epoch(folder: Path, wrong: str = "") -> int:
    """How many blocks an epoch of that graph has."""
    config = settings(folder, **PLACES.get(wrong, {}))
    return max(1, round(len(read_graph(folder).contexts) / config.block_pairs))


def keep_slowly(elsewhere: Path):
    """A stand-in for Drive: copies a checkpoint to `elsewhere` in small pieces, the manifest last, no rename; keeps the newest two."""

    def keep(path: Path) -> None:
        there = elsewhere / path.name
        for old in elsewhere.glob("*"):
            if not (old / checkpoint.MANIFEST).exists():  # of a process that was killed
                shutil.rmtree(old)
        if there.exists():
            return
        there.mkdir(parents=True)
        for file in sorted(path.iterdir(), key=lambda file: file.name == checkpoint.MANIFEST):
            with open(file, "rb") as old, open(there / file.name, "wb") as new:
                while piece := old.read(PIECE):
                    new.write(piece)
                    time.sleep(PAUSE)
        for old in sorted(elsewhere.glob(f"*/{checkpoint.MANIFEST}"))[: -checkpoint.KEPT]:
            shutil.rmtree(old.parent)

    return keep


def keep_a_ledger(path: Path, life: int) -> None:
    """Wrap the functions that training calls, from outside, so that each event appends its line to `path`."""
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words) -> None:
        os.write(ledger, (" ".join(map(str, (life, *words))) + "\n").encode())

    find, write_rows, write_manifest = loop.newest_checkpoint, checkpoint.write_rows, checkpoint.write_manifest
    train_block = engines.KernelEngine.train_block

    def found_and_noted(*arguments, **named):
        found = find(*arguments, **named)
        note("start", sha256(found.path / checkpoint.MANIFEST) if found else "-")
        return found

    def trained_and_noted(engine, epoch, block, *arguments):
        pairs = train_block(engine, epoch, block, *arguments)
        note("block", epoch, block)
        return pairs

    def noted_rows(folder, name, stored):
        if name == checkpoint.TABLES[0]:
            note("save", folder.name)
        write_rows(folder, name, stored)

    def noted_manifest(folder, **facts):
        write_manifest(folder, **facts)
        note("wrote", folder.name, sha256(folder / checkpoint.MANIFEST))

    loop.newest_checkpoint, engines.KernelEngine.train_block = found_and_noted, trained_and_noted
    checkpoint.write_rows, checkpoint.write_manifest = noted_rows, noted_manifest


def break_resuming(how: str, blocks: int) -> None:
    """Make the trainer go on at a wrong block, or without verifying; blocks: an epoch."""
    find = loop.newest_checkpoint

    def wrong_place(*arguments, **named):
        if (found := find(*arguments, **named)) is None:
            return None
        epoch, block = divmod(found.epoch * blocks + found.block + (1 if how == "skip" else -1), blocks)
        return dataclasses.replace(found, epoch=epoch, block=block)

    if how == "unverified":
        files.sha256 = lambda path: checkpoint.read_manifest(path.parent, "")["files"][path.name]["sha256"]
    else:
        loop.newest_checkpoint = wrong_place


def main(folder: str, life: str, threads: str, wrong: str = "") -> None:
    """Train to the end, or until killed."""
    place = Path(folder)
    keep_a_ledger(place / "ledger.txt", int(life))
    if wrong and wrong not in PLACES:
        break_resuming(wrong, blocks_an_epoch(place))
    loop.train(
        settings(place, int(threads), **PLACES.get(wrong, {})),
        read_graph(place),
        keep=keep_slowly(place / "drive"),
        elsewhere=place / "drive",
    )
    with open(place / "ledger.txt", "a") as ledger:
        ledger.write(f"{life} end\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
