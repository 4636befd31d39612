"""kill -9 of every other stage at random moments: `python -m tests.faults.stages STAGE FOLDER` runs one, `kill_stages` kills it."""

import contextlib
import io
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from helpers.artefacts import sha256
from helpers.config import Config
from helpers.corpus.build import build_corpus
from helpers.export.embeddings import FORMS, open_answer, with_rows, write_form
from helpers.pairs.build import Pairs, build_pairs
from helpers.training.loop import train
from tests.faults.nursery import Child, Start
from tests.planted import planted

PAPERS = 3000


def settings(folder: Path) -> Config:
    """The Config of a run in folder/run on folder's dump."""
    return Config.of_preset(
        "cs", subset="all", out=str(folder / "run"), dumps=[folder.parent / "dump.csv"], dimensions=16, epochs=1, threads=1
    )


def evaluation(config: Config) -> None:
    """What notebook 04 leaves behind."""
    answer = open_answer(config)
    answer.keep(config.folder("embeddings"), answer.metrics())


def export(config: Config) -> None:
    """What notebook 06 leaves behind."""
    answer = open_answer(config)
    tables = {"target": answer.target, "context": answer.context}
    for form in FORMS:
        write_form(config.folder("exports") / form, form, tables, with_rows(answer.papers), answer.facts)


STAGES = {"corpus": build_corpus, "pairs": build_pairs, "embeddings": evaluation, "exports": export}  # by the folder that they make


def artefacts(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in folder, by its path there: also of what is hidden and temporary."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_stages(start: Start, place: Path, kills: int, seed: int = 0) -> tuple[int, int]:
    """(killed, differing): each of STAGES killed so often and run again; differing counts a run that leaves other files than an unbroken.

    start: of tests.faults.nursery; place: an empty folder.
    """
    place.mkdir(parents=True, exist_ok=True)
    unbroken, generator, killed, differing = settings(place / "unbroken"), np.random.default_rng(seed), 0, 0
    pairs = planted(PAPERS, heldout=0, validation=0)
    citing = np.repeat(np.arange(PAPERS), np.diff(pairs.indptr))
    lines = [f"p{a},p{b}" for a, b in zip(citing.tolist(), pairs.contexts.tolist(), strict=True) if a > b]
    (place / "dump.csv").write_text("\n".join(["citing,cited", *lines]) + "\n")
    before = place / "before"  # what a stage finds
    for stage, run in STAGES.items():
        shutil.rmtree(before, ignore_errors=True)
        if Path(unbroken.out).exists():
            shutil.copytree(unbroken.out, before / "run")
        with contextlib.redirect_stdout(io.StringIO()):
            run(unbroken)
        whole, left, seconds = artefacts(Path(unbroken.out)), kills, _seconds(start, stage, place / "timed", before)
        while left:
            config = _prepared(place / "killed", before)
            process = _begin(start, stage, place / "killed")
            time.sleep(generator.uniform(0, seconds))
            if process.ended():  # it was faster this time
                process.wait()
                continue
            process.kill()
            left, killed = left - 1, killed + 1
            with contextlib.redirect_stdout(io.StringIO()):
                run(config)
            found = artefacts(Path(config.out))
            if found != whole:
                differing += 1
                print(f"{stage} killed: differs in", *sorted(name for name in found | whole if found.get(name) != whole.get(name)))
        if stage == "pairs":
            with contextlib.redirect_stdout(io.StringIO()):
                train(unbroken, Pairs(unbroken))
    return killed, differing


def _prepared(folder: Path, before: Path) -> Config:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if before.exists():
        shutil.copytree(before / "run", folder / "run")
    return settings(folder)


def _begin(start: Start, stage: str, folder: Path) -> Child:
    """A process that begins the stage now."""
    process = start("stages", stage, folder, printed=folder / "printed.txt")
    while not (folder / "begins").exists():
        time.sleep(0.001)
    return process


def _seconds(start: Start, stage: str, folder: Path, before: Path) -> float:
    """How long such a process takes."""
    _prepared(folder, before)
    process, began = _begin(start, stage, folder), time.perf_counter()
    assert process.wait() == 0, (folder / "printed.txt").read_text()
    return time.perf_counter() - began


def main(stage: str, folder: str) -> None:
    """Run the stage in folder/run."""
    (Path(folder) / "begins").touch()
    STAGES[stage](settings(Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
