"""A disk that fills at some point of a training.

Each level starts from the same half-trained run, with so many bytes free that a save fails at some place; some levels have room, but
fsync says that there is none. Then space is freed and the run goes on.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np

from helpers.artefacts import MANIFEST, sha256
from helpers.errors import ArtefactError
from helpers.rows import files
from helpers.training import checkpoint
from helpers.training.checkpoint import newest_checkpoint
from helpers.training.loop import train
from tests.faults.nursery import OWN_MOUNTS, Start
from tests.faults.trainee import read_graph, settings, write_graph

PAPERS, EPOCHS, BLOCK_PAIRS, MEGABYTES = 2000, 2, 3000, 24
SENTENCE = "was not written: the disk is full; free space or choose another --out."
NO_DISK = "no small disk here"
PAGE = 4096


def on_a_small_disk(start: Start, folder: Path, levels: int) -> dict[str, int] | None:
    """The figures of a process with a small disk of its own on `folder`; None where this system gives none (unshare, tmpfs)."""
    (folder / "disk").mkdir(parents=True)
    process = start("full_disk", folder / "disk", levels, printed=folder / "printed.txt")
    status, printed = process.wait(), (folder / "printed.txt").read_text()
    if NO_DISK in printed:
        return None
    assert status == 0, printed
    print(printed, end="", flush=True)
    return json.loads(printed.splitlines()[-1])


class _Stop(Exception):
    pass


class _Disk:
    """The disk: filled with a file but for some bytes, or one whose fsync fails from the n-th call on."""

    def __init__(self, place: Path):
        self.place, self.ballast, self._fsync = place, place / "ballast", os.fsync

    def fill(self, free: int) -> None:
        there = os.statvfs(self.place)
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(there.f_bavail * there.f_frsize - free, 1))

    def fail_fsync(self, calls: int) -> None:
        left = iter(range(calls))

        def fsync(descriptor):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._fsync(descriptor)

        os.fsync = fsync

    def free(self) -> None:
        os.fsync = self._fsync
        self.ballast.unlink(missing_ok=True)


def _count_places(places: Counter) -> None:
    """Wrap what writes a checkpoint so that what it was writing when the disk was full is counted."""

    def counted(write, name_of):
        def wrapper(*arguments, **named):
            try:
                return write(*arguments, **named)
            except OSError:
                places[name_of(*arguments)] += 1
                raise

        return wrapper

    checkpoint.write_rows = counted(checkpoint.write_rows, lambda folder, name, stored: name)
    checkpoint.write_manifest = counted(checkpoint.write_manifest, lambda folder, **facts: MANIFEST)


def levels_of(saved: Path, count: int) -> list[int]:
    """Bytes left free: spread over nothing to what the rows of a checkpoint like `saved` take, and so many more that its manifest fails."""
    pages = {path.name: -(-path.stat().st_size // PAGE) for path in saved.iterdir()}
    rows = sum(pages.values()) - pages[MANIFEST]
    in_manifest = [PAGE * (rows + page) for page in range(pages[MANIFEST])][: count // 2]
    return [*np.linspace(0, PAGE * (rows - 1), count - len(in_manifest)).astype(int).tolist(), *in_manifest]


def main(folder: str, levels: str) -> None:
    """Try so many levels on a new disk on `folder`; the last line printed is {"levels": ..., "losses": ...}."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", folder]
    if not os.environ.get(OWN_MOUNTS) or subprocess.run(mount, capture_output=True, check=False).returncode:
        print(NO_DISK)
    else:
        print(json.dumps(try_levels(Path(folder), int(levels))))


def try_levels(place: Path, count: int) -> dict[str, int]:
    """Try them all; a loss is anything but: one sentence, the checkpoint before still loads, and then the unbroken run's tables."""
    files.SHARD_BYTES = 1 << 15  # several shards a table
    disk, graph, losses, levels, places = _Disk(place), place / "graph", 0, 0, Counter()
    write_graph(graph, PAPERS)
    pairs = read_graph(graph)

    def config(folder: Path):
        return settings(folder, epochs=EPOCHS, block_pairs=BLOCK_PAIRS, checkpoint_minutes=0)

    def tables(folder: Path) -> dict[str, str]:
        return {path.name: sha256(path) for path in train(config(folder), pairs).path.iterdir() if path.name != MANIFEST}

    def stop_after_an_epoch(target, context):
        if (place / "half" / "run" / "checkpoints").exists():
            raise _Stop

    with contextlib.redirect_stdout(io.StringIO()):
        unbroken = tables(place / "unbroken")
        with contextlib.suppress(_Stop):
            train(config(place / "half"), pairs, stop_after_an_epoch)
    half = newest_checkpoint(config(place / "half"), pairs.fingerprint)
    assert half.epoch < EPOCHS, "half a run is whole"
    _count_places(places)
    fsyncs = max(1, count // 6)
    for level in [*levels_of(half.path, count - fsyncs), *(-2 - 3 * n for n in range(fsyncs))]:
        run, wrong = place / "level", []
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(place / "half", run)
        if level >= 0:
            disk.fill(level)
        else:
            disk.fail_fsync(-level)
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                train(config(run), pairs)
            except ArtefactError as error:
                print(error)
            except Exception as error:
                wrong.append(f"not a sentence but {error!r}")
        told = [line for line in out.getvalue().splitlines() if SENTENCE in line]
        levels += bool(told)
        if not told:
            wrong.append("nothing was said")
        if errors.getvalue():
            wrong.append(f"on standard error: {errors.getvalue()[-300:]}")
        with contextlib.redirect_stdout(io.StringIO()):
            found = newest_checkpoint(config(run), pairs.fingerprint)
            if found is None or (found.epoch, found.block) < (half.epoch, half.block):
                wrong.append("the checkpoint before is lost")
            disk.free()
            if tables(run) != unbroken:
                wrong.append("other tables than the unbroken run's")
        if left := list(run.rglob(".*")):
            wrong.append(f"left behind: {left}")
        for sentence in wrong:
            print(f"{level} bytes free: {sentence}" if level >= 0 else f"fsync {-level} fails: {sentence}")
        losses += bool(wrong)
    print("full while writing", dict(places), f"(the rest at log.csv, in fsync, or a file's name); {levels} levels")
    return {"levels": levels, "losses": losses}
