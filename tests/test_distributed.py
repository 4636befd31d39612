"""Training by several processes: real ranks on this machine, their tables against one process on the same joint batches."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
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
from helpers.corpus.text import build_vocabulary
from helpers.errors import ConfigError
from helpers.pairs.build import Pairs, build_pairs
from helpers.training import distributed
from helpers.training.checkpoint import trained_checkpoint
from helpers.training.engines import new_tables
from tests import ranks as real
from tests.ranks import MODULE, free_port, largest_difference, tables

D, BATCH = 8, 60
SETTINGS = ("--preset", "cs", "--dimensions", str(D), "--batch-pairs", str(BATCH), "--shared-negatives", "12")
MISSING = real.missing()
needs_torchrec = pytest.mark.skipif(bool(MISSING), reason=MISSING)
WAY = ("--replicas",) if MISSING else ()


def trained(run: Path, ranks: int, *arguments: str) -> list[np.ndarray]:
    return real.trained(run, ranks, *SETTINGS, *arguments)


def by_one_process(run: Path, ranks: int, epochs: int) -> tuple[list[np.ndarray], int]:
    return real.by_one_process(config_of(run, epochs), ranks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, community_edges) -> Path:
    """A run that has its pairs: 300 papers, 3,652 pairs."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "edges.csv").write_text("\n".join(["citing,cited", *map(",".join, community_edges)]) + "\n")
    config = Config.of_preset("cs", subset="all", dumps=[folder / "edges.csv"], out=folder / "run", dimensions=D)
    build_corpus(config)
    build_pairs(config)
    return folder / "run"


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


@pytest.fixture(scope="module")
def replicas(finished, tmp_path_factory) -> Path:
    """That run, trained for an epoch by two ranks with replicas."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("replicas") / "run")
    trained(folder, 2, "--epochs", "1", "--replicas")
    return folder


def config_of(run: Path, epochs: int) -> Config:
    settings = {"dimensions": D, "batch_pairs": BATCH, "shared_negatives": 12, "epochs": epochs, "row_type": "float32"}
    return Config.of_preset("cs", out=run, **settings)


def opens_as_any_run(run: Path) -> None:
    """Pairs, tables and log of what ranks have trained for an epoch."""
    config = dataclasses.replace(config_of(run, 1), out=str(run / "distributed"))
    pairs = Pairs(config)
    opened = trained_checkpoint(config, pairs.fingerprint)
    assert (opened.epoch, opened.block) == (1, 0) and opened.target.shape == (pairs.papers, D)
    with open(run / "distributed" / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["pairs"]) == len(pairs.contexts) and all(0 < float(row["loss"]) < 6 for row in rows[1:])


def test_two_ranks_of_replicas_equal_one_process_on_the_same_joint_batches(replicas, tmp_path):
    """After more than 50 steps; and one rank goes on from their checkpoint with the same tables."""
    expected, steps = by_one_process(replicas, 2, 1)
    first = tables(replicas)
    assert steps >= 50 and largest_difference(first, expected) < 1e-5
    opens_as_any_run(replicas)
    run = shutil.copytree(replicas, tmp_path / "run", symlinks=True)
    shutil.rmtree(run / "distributed" / "checkpoints")
    assert largest_difference(trained(run, 1, "--epochs", "1", "--replicas"), first) == 0, "nothing is trained: right after loading"


@needs_torchrec
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_with_shards_equal_one_process_on_the_same_joint_batches(run_folder, ranks):
    """Also with a last round that has fewer blocks than ranks; one rank and three take the tables of two up as they are."""
    expected, steps = by_one_process(run_folder, ranks, 1)
    first = trained(run_folder, ranks, "--epochs", "1")
    assert steps >= 50 and largest_difference(first, expected) < 1e-5
    opens_as_any_run(run_folder)
    for others in (1, 3) if ranks == 2 else ():
        shutil.rmtree(run_folder / "distributed" / "checkpoints")
        assert largest_difference(trained(run_folder, others, "--epochs", "1"), first) == 0, "nothing is trained: right after loading"


def test_replicas_that_train_alone_stay_near_joint_steps(run_folder):
    """Local SGD: the mean every four steps; not the same as joint steps, but near, and what both ranks have seen is in it."""
    alone = trained(run_folder, 2, "--epochs", "1", "--replicas", "--average-every", "4")
    joint, _ = by_one_process(run_folder, 2, 1)
    config = config_of(run_folder, 1)
    before = [table.numpy() for table in new_tables(config, *(getattr(Pairs(config), name) for name in ("indptr", "contexts")))]
    for now, then, start_row in zip(alone, joint, before, strict=False):
        moved = (now - start_row).ravel() @ (then - start_row).ravel()
        assert moved / np.linalg.norm(now - start_row) / np.linalg.norm(then - start_row) > 0.8
    assert largest_difference(alone, joint) > 1e-4


def test_ranks_train_the_windows_of_a_text(tmp_path):
    """Which lie in the run's own corpus; what is recorded is the optimiser that trained."""
    words = np.random.default_rng(0).integers(0, 30, 6000)
    (tmp_path / "text.txt").write_text(" ".join("word" + chr(97 + word // 26) + chr(97 + word % 26) for word in words))
    config = Config.of_preset("words", dumps=[tmp_path / "text.txt"], out=tmp_path / "run", heldout=0.01, subsample=0)
    build_vocabulary(config)
    build_pairs(config)
    real.trained(tmp_path / "run", 1, "--preset", "words", "--dimensions", "8", "--epochs", "1", "--subsample", "0", "--replicas")
    opened = trained_checkpoint(dataclasses.replace(config, out=str(tmp_path / "run" / "distributed")), Pairs(config).fingerprint)
    assert opened.epoch == 1 and opened.target.shape == (30, 8) and opened.settings["optimizer"] == "rowwise_adagrad"


def ranks_of(group: subprocess.Popen) -> list[psutil.Process]:
    """The ranks that a torchrun has now; any may end while it is looked at."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(group.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [child] if MODULE in " ".join(child.cmdline()) else []
    return found


def test_a_killed_rank_brings_the_group_back_from_its_last_checkpoint(run_folder, tmp_path):
    """By torchrun --max-restarts: to the tables of a run that nothing broke."""
    arguments = ["--epochs", "6", "--checkpoint-minutes", "0", *WAY]
    launcher = ("--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.1", "--master-port", free_port())
    with open(tmp_path / "told", "w") as told:
        group = real.launch(run_folder, *SETTINGS, *arguments, launcher=launcher, told=told)
    until, killed, seen = time.monotonic() + real.SECONDS, None, set()
    while group.poll() is None and time.monotonic() < until:
        kept = list((run_folder / "distributed").glob("sharded/*/run.json"))
        ranks = ranks_of(group)
        seen |= {rank.pid for rank in ranks}
        if not killed and len(kept) == 2 and len(ranks) == 2:
            killed = max(int(path.parent.name) for path in kept)  # pairs done
            ranks[1].send_signal(signal.SIGKILL)
        time.sleep(0.02)
    text = (tmp_path / "told").read_text()
    assert group.wait(timeout=real.SECONDS) == 0, text
    assert 0 < killed < 6 * len(Pairs(config_of(run_folder, 1)).contexts)
    assert len(seen) >= 4, "both ranks were started again"  # torchrun tells of -9, or of the other rank, which then ends too
    assert text.count("is trained: notebook 04") == 1 and largest_difference(tables(run_folder), by_one_process(run_folder, 2, 6)[0]) < 1e-5


def test_two_nodes_on_one_machine_as_documented(run_folder):
    """Each node is a torchrun of its own; the address is the loopback's."""
    address = "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port()
    nodes = [("--nnodes", "2", "--node-rank", str(node), *address) for node in range(2)]
    real.wait_for([real.launch(run_folder, *SETTINGS, "--epochs", "1", *WAY, launcher=node) for node in nodes])
    assert largest_difference(tables(run_folder), by_one_process(run_folder, 2, 1)[0]) < 1e-5


def sentence_of(process: subprocess.Popen) -> str:
    """The one sentence that a rank ends with, exit code 2."""
    told = process.communicate(timeout=real.SECONDS)[1]
    assert process.returncode == 2 and "Traceback" not in told, told
    (line,) = [line for line in told.splitlines() if line.startswith(MODULE)]
    return line


def test_a_rank_that_never_comes_up(run_folder):
    told = sentence_of(real.start(0, 2, free_port(), run_folder, *SETTINGS, "--replicas", "--timeout", "3"))
    assert "rank 0: Another rank did not come up, or was lost" in told and "within 3 s" in told


def test_ranks_with_different_settings(run_folder):
    port = free_port()
    started = [real.start(rank, 2, port, run_folder, *SETTINGS, "--replicas", "--epochs", str(1 + rank)) for rank in range(2)]
    assert all("Rank 1 was not started as rank 0 was (epochs 1 there, 2 here)" in sentence_of(process) for process in started)
    assert not (run_folder / "distributed" / "log.csv").exists()


def test_a_rank_ends_at_once():
    """What it has told is told, but its interpreter does not wind up: torch aborts then where gloo's threads still hold tensors."""
    code = f"import atexit, runpy; atexit.register(print, 'wound up'); print('told'); runpy.run_module('{MODULE}', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-c", code, "--out", "nowhere"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=real.SECONDS)
    assert (ended.returncode, ended.stdout) == (2, "told\n") and "Ranks are started by torchrun" in ended.stderr


def test_a_checkpoint_of_another_training(replicas, tmp_path):
    """Of another N and D: refused, and untouched."""
    run = shutil.copytree(replicas, tmp_path / "run", symlinks=True)
    path = max((run / "distributed").glob("sharded/*/run.json"))
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"facts": kept["facts"] | {"papers": 299}}))
    told = sentence_of(real.start(0, 1, free_port(), run, *SETTINGS, "--replicas", "--epochs", "2", "--dimensions", "16"))
    assert "is a checkpoint of another training (papers 299 there, 300 here; dimensions 8 there, 16 here)" in told
    assert largest_difference(tables(run), tables(replicas)) == 0


def test_what_is_missing_or_of_another_version_is_told_in_a_sentence(run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "PINS", tmp_path / "requirements-distributed.txt")
    for pins, told in (("numpy==0.1\n", f"numpy is {np.__version__}, not 0.1"), ("no-such-thing==1\n", "no-such-thing")):
        distributed.PINS.write_text("# words\n" + pins)
        with pytest.raises(ConfigError) as refusal:
            distributed._torchrec()
        assert told in str(refusal.value) and "pip install --no-deps -r requirements-distributed.txt" in str(refusal.value)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.main(["--out", str(run_folder)]) == 2
    assert "Ranks are started by torchrun" in capsys.readouterr().err
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert distributed.main(["--out", str(run_folder), "--average-every", "8"]) == 2
    assert "--average-every is for replicas" in capsys.readouterr().err and not (run_folder / "distributed").exists()


@needs_torchrec
def test_it_is_pinned_exactly():
    lines = [line for line in (ROOT / "requirements-distributed.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines and all(len(line.split("==")) == 2 for line in lines)
    assert {"fbgemm-gpu-cpu", "torchrec", "torchmetrics", "tensordict", "pyre-extensions"} <= {line.split("==")[0] for line in lines}
