"""SIGKILL at random moments of a training process, until it is done; what was lost or doubled, and whether the tables are the same."""

import csv
import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.artefacts import MANIFEST, sha256
from helpers.neighbors.evaluate import evaluate
from helpers.rows.files import Float32Rows, RowFiles
from tests.faults.nursery import Child, Start
from tests.faults.trainee import CHECKPOINT_SECONDS, blocks_an_epoch, settings

AIMS = ("anywhere", "checkpoint", "copy", "anywhere", "checkpoint", "start")  # what kills are aimed at, as many each
LAST_MOMENT = 0.97  # of a run: later ones could find it ended
LOST_MACHINE = 5  # after so many kills the whole of `out` is gone, too, and only the copies are left


@dataclasses.dataclass
class Outcome:
    """What became of a run."""

    folder: Path
    kills: int
    hits: Counter  # what the kills fell into
    lost: int  # blocks that are not in the final tables
    doubled: int  # and trained into them more than once

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return max((self.folder / "run" / "checkpoints").glob("[0-9]*"), key=lambda path: path.name)

    def tables(self) -> dict[str, str]:
        """SHA-256 of every file of the newest checkpoint but the manifest, which holds times."""
        return {path.name: sha256(path) for path in self.last.iterdir() if path.name != MANIFEST}

    def log(self) -> list[list[str]]:
        """log.csv without its columns of seconds and rates."""
        with open(self.folder / "run" / "log.csv", newline="") as file:
            return [[row[name] for name in ("epoch", "block", "pairs", "learning_rate", "loss")] for row in csv.DictReader(file)]

    def mrr(self, pairs) -> float:
        """The held-out MRR of the newest checkpoint's tables, mean of validation and test."""
        tables = (Float32Rows(RowFiles(self.last, name)) for name in ("target", "context"))
        found = evaluate(pairs, *tables)
        return (found["mrr"] + found["validation_mrr"]) / 2


def differing(one: Outcome, other: Outcome) -> int:
    """Tables that are not bit by bit the same in both."""
    a, b = one.tables(), other.tables()
    return sum(a.get(name) != b.get(name) for name in a | b)


def run(start: Start, folder: Path, graph: Path, kills: int = 0, threads: int = 1, seed: int = 0, wrong: str = "") -> Outcome:
    """Train graph/graph.npz in folder by processes that `start` (of tests.faults.nursery) gives, killed so often; wrong: see there."""
    folder.mkdir(parents=True)
    shutil.copy(graph / "graph.npz", folder)
    generator, hits, done = np.random.default_rng(seed), Counter(), 0
    moments, blocks = np.sort(generator.uniform(0, LAST_MOMENT, kills)), None
    aims = generator.permutation(np.resize(AIMS, kills))
    while True:
        process = start("trainee", folder, done, threads, wrong, printed=folder / "printed.txt")
        if done < kills:
            blocks = blocks or all_blocks(folder, wrong)
            alive = _wait_for(process, folder, done, moments[done] * len(blocks), aims[done], generator)
        if done == kills or not alive:
            assert process.wait() == 0, (folder / "printed.txt").read_text()
            break
        process.kill()
        hits["at a start" if aims[done] == "start" else _hit(folder)] += 1
        done += 1
        if done % LOST_MACHINE == 0 and list((folder / "drive").glob(f"*/{MANIFEST}")):
            hits["and the machine lost"] += 1
            shutil.rmtree(folder / "run")
    outcome = Outcome(folder, done, hits, 0, 0)
    counts = lineage((folder / "ledger.txt").read_text(), sha256(outcome.last / MANIFEST))
    outcome.lost = sum(block not in counts for block in all_blocks(folder, wrong))
    outcome.doubled = sum(count - 1 for count in counts.values())
    return outcome


def all_blocks(folder: Path, wrong: str = "") -> list[tuple[int, int]]:
    """(epoch, block) of everything that the run is to train."""
    return [(epoch, block) for epoch in range(settings(folder).epochs) for block in range(blocks_an_epoch(folder, wrong))]


def lineage(ledger: str, last: str) -> Counter:
    """How often each (epoch, block) was trained into the checkpoint whose manifest has the hash `last`.

    That checkpoint holds what its process had trained when it began to write it, after what the checkpoint held from which that process
    had gone on, and so forth, back to the process that began with none.
    """
    lives: dict[str, list[list[str]]] = {}
    wrote: dict[str, tuple[str, str]] = {}  # hash of a manifest -> process, place
    for life, *event in map(str.split, ledger.splitlines()):
        lives.setdefault(life, []).append(event)
        if event[0] == "wrote":
            wrote[event[2]] = (life, event[1])
    counts = Counter()
    while last != "-":
        life, place = wrote[last]
        events = lives[life]
        before = events[: events.index(["save", place])]
        counts.update((int(event[1]), int(event[2])) for event in before if event[0] == "block")
        last = events[0][1]
    return counts


def _events(ledger: Path, life: int) -> Iterator[list[str] | None]:
    """The events of one process as they come, None while there is no new one."""
    rest = ""
    while not ledger.exists():
        yield None
    with open(ledger) as file:
        while True:
            rest += file.read()
            *lines, rest = rest.split("\n")
            yield from (line.split()[1:] for line in lines if line.split()[0] == str(life))
            yield None


def _wait_for(process: Child, folder: Path, life: int, blocks: float, aim: str, generator: np.random.Generator) -> bool:
    """Wait until `process` has trained up to that place and is at what the kill is aimed at; False where it ended first."""
    trained, events, an_epoch = None, _events(folder / "ledger.txt", life), blocks_an_epoch(folder)
    started = "start" if aim == "start" else "block"
    while trained is None or trained < blocks:
        event = next(events)
        if event and event[0] == started:
            trained = blocks if aim == "start" else int(event[1]) * an_epoch + int(event[2]) + 1
        elif event is None:
            if process.ended():
                return False
            time.sleep(0.0005)
    deadline = time.monotonic() + 5 * CHECKPOINT_SECONDS
    while aim in ("checkpoint", "copy") and _hit(folder) != f"in a {aim}" and time.monotonic() < deadline:
        if process.ended():
            return False
    time.sleep(generator.uniform(0, 0.003 if aim == "checkpoint" else 0.04))
    return not process.ended()


def _hit(folder: Path) -> str:
    """What a kill fell into, by what lies half-written."""
    if list((folder / "run" / "checkpoints").glob(".*-*")):
        return "in a checkpoint"
    if any(not (path / MANIFEST).exists() for path in (folder / "drive").glob("[0-9]*")):
        return "in a copy"
    return "in a step"
