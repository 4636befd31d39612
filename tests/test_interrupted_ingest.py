"""kill -9 in the middle of a dump of 20 shards, and run again: the unbroken run's result, and what was read is not read again."""

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus

SHARDS, RECORDS = 20, 1000
RUN = """
import sys, time
from helpers.config import Config
from helpers.corpus import citations, shards
from helpers.corpus.build import build_corpus
from helpers.errors import UserError
shards.WORTH_A_PROCESS = 0
if "stay" in sys.argv:
    citations.by_citing = lambda *arguments: time.sleep(600)
try:
    build_corpus(Config.of_preset("cs", subset="all", out=sys.argv[2], dumps=[sys.argv[1]]))
except UserError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    """A folder of 20 gzip files whose records cite each other across files; some ids come twice, some are named by citations only."""
    folder, generator = tmp_path_factory.mktemp("dump"), np.random.default_rng(0)
    papers = SHARDS * RECORDS
    for shard in range(SHARDS):
        numbers = generator.integers(0, papers, RECORDS) if shard % 5 == 4 else range(shard * RECORDS, (shard + 1) * RECORDS)
        lines = [
            json.dumps(
                {
                    "id": f"{number * 7919:040x}",
                    "title": f"Paper {number} of shard {shard}",
                    "year": 1990 + number % 30,
                    "outCitations": [f"{cited * 7919:040x}" for cited in generator.integers(0, papers * 1.1, 8).tolist()],
                    "inCitations": [f"{citing * 7919:040x}" for citing in generator.integers(0, papers, 2).tolist()],
                }
            )
            for number in map(int, numbers)
        ]
        (folder / f"part_{shard:03d}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    return folder


@pytest.fixture(scope="module")
def unbroken(dump, tmp_path_factory) -> dict:
    """SHA-256 of what one process makes of the dump without a break."""
    return build_corpus(Config.of_preset("cs", subset="all", out=str(tmp_path_factory.mktemp("unbroken") / "run"), dumps=[dump]))["sha256"]


def start(dump: Path, out: Path, *stay: str) -> subprocess.Popen:
    """A second process that builds the corpus, or stays in the middle of putting it together."""
    return subprocess.Popen([sys.executable, "-c", RUN, dump, out, *stay], cwd=ROOT, stdout=-1, stderr=-1, text=True)


def wait_for(what, process: subprocess.Popen):
    while not (found := what()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return found


def finished(out: Path) -> dict[str, tuple]:
    """The finished shards of a run, with what would change if one were written again."""
    return {
        path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (out / "shards").glob("*/report.json")
        if not path.parent.name.startswith(".")
    }


def test_kill_9_costs_only_the_files_that_were_being_read(dump, unbroken, tmp_path):
    out, before = tmp_path / "killed", {}
    for more in (random.randint(1, 5), random.randint(1, 5), None):  # files that are read before the process is killed; None: all
        process = start(dump, out, "stay")
        wait_for(lambda: len(finished(out)) >= len(before) + more if more else list(out.glob(".corpus.new-*/*/edges.tmp")), process)  # noqa: B023
        time.sleep(random.random() * 0.05)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0]
        assert not psutil.wait_procs(workers, timeout=300)[1], "no worker outlives its parent"
        assert (f"{len(before)} of {SHARDS} files were read before and are not read again" in printed) == bool(before)
        now = finished(out)
        assert before.items() <= now.items(), "a finished shard was written again"
        before = now
    assert len(before) == SHARDS and not (out / "corpus").exists()
    process = start(dump, out)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"{SHARDS} of {SHARDS} files were read before" in printed
    assert json.loads((out / "corpus" / "report.json").read_text())["sha256"] == unbroken
    assert [path.name for path in out.iterdir()] == ["corpus"], "nothing of the killed runs is left"


def test_a_run_started_while_a_killed_one_s_workers_still_live(dump, unbroken, tmp_path):
    out = tmp_path / "killed"
    process = start(dump, out)
    wait_for(lambda: finished(out), process)
    process.kill()
    again = start(dump, out)
    process.communicate()
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert json.loads((out / "corpus" / "report.json").read_text())["sha256"] == unbroken


def test_a_worker_that_is_killed_is_told_in_a_sentence(dump, tmp_path):
    out = tmp_path / "killed"
    process = start(dump, out)
    wait_for(lambda: finished(out), process)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.strip() == (
        "ArtefactError: A process that read the dump was killed, most likely for want of memory; run this again: it goes on after the "
        "files that were read whole."
    )
    assert not psutil.wait_procs(workers, timeout=300)[1] and 0 < len(finished(out)) <= SHARDS
