"""Training by several processes: real ranks on this machine, their tables against one process on the same joint batches."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from helpers.artefacts import read_manifest
from helpers.config import ROOT, Config
from helpers.corpus.build import build_corpus
from helpers.errors import ConfigError
from helpers.memory import TABLES
from helpers.models.sgns import PlainSGNS
from helpers.pairs.build import Pairs, build_pairs
from helpers.rows.files import RowFiles
from helpers.rows.optimizers import FIRST_SUM, update
from helpers.training import distributed
from helpers.training.checkpoint import trained_checkpoint
from helpers.training.engines import new_tables
from helpers.training.loop import rate_of

D, BATCH = 8, 60
SETTINGS = ("--preset", "cs", "--dimensions", str(D), "--batch-pairs", str(BATCH), "--shared-negatives", "12")
MODULE = "helpers.training.distributed"
try:
    distributed._torchrec()
    MISSING = None
except ConfigError as missing:
    MISSING = str(missing)
needs_torchrec = pytest.mark.skipif(MISSING is not None, reason=f"sharded tables: {MISSING}")
WAY = ("--replicas",) if MISSING else ()


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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(rank: int, ranks: int, port: int, run: Path, *arguments: str) -> subprocess.Popen:
    """One rank, started as torchrun does."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment = os.environ | where | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", MODULE, "--out", str(run), *SETTINGS, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def trained(run: Path, ranks: int, *arguments: str) -> list[np.ndarray]:
    """Both tables and their sums after so many ranks have trained."""
    port = free_port()
    started = [start(rank, ranks, port, run, *arguments) for rank in range(ranks)]
    told = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * ranks, told
    return tables(run)


def tables(run: Path) -> list[np.ndarray]:
    path = max((run / "distributed" / "checkpoints").iterdir())
    read_manifest(path, "", verify=True)
    return [RowFiles(path, name)[:] for name in (*TABLES, "target_sums", "context_sums")]


def config_of(run: Path, epochs: int) -> Config:
    settings = {"dimensions": D, "batch_pairs": BATCH, "shared_negatives": 12, "epochs": epochs, "row_type": "float32"}
    return Config.of_preset("cs", out=run, **settings)


def by_one_process(run: Path, ranks: int, epochs: int) -> tuple[list[np.ndarray], int]:
    """What the plain model makes of the same joint batches (both tables and their sums), and the number of steps."""
    config = config_of(run, epochs)
    pairs, steps = Pairs(config), 0
    config = dataclasses.replace(config, block_pairs=len(pairs.contexts) // distributed.LEAST_BLOCKS)
    model = PlainSGNS(*new_tables(config, pairs.indptr, pairs.contexts))
    sums = [torch.full((pairs.papers,), FIRST_SUM) for _ in TABLES]
    source = distributed.pair_source(config, pairs.indptr, pairs.contexts)
    done, S = 0, config.shared_negatives
    for epoch in range(epochs):
        for first in range(0, source.blocks, ranks):
            rate, size = rate_of(config, done, epochs * source.pairs), BATCH // ranks
            parts = [distributed.batches(source, pairs.noise, config, epoch, first + rank, size) for rank in range(ranks)]
            for step in range(max(map(len, parts))):
                model.zero_grad()
                for targets, contexts, negatives in (part[step] for part in parts if step < len(part)):
                    model(targets, contexts, negatives.expand(len(targets), S), config.negatives / S).backward()
                    done += len(targets)
                with torch.no_grad():
                    for i, table in enumerate((model.target.weight, model.context.weight)):
                        update("rowwise_adagrad", table, table.grad, {"sums": sums[i]}, rate)
                steps += 1
    assert done == epochs * source.pairs
    return [part.detach().numpy() for part in (model.target.weight, model.context.weight, *sums)], steps


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [part.shape for part in found] == [part.shape for part in expected]
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


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
    """Also with a last round that has fewer blocks than ranks; others go on from their checkpoint with the same tables."""
    expected, steps = by_one_process(run_folder, ranks, 1)
    first = trained(run_folder, ranks, "--epochs", "1")
    assert steps >= 50 and largest_difference(first, expected) < 1e-5
    opens_as_any_run(run_folder)
    for others in {1, 2, 3} - {ranks}:
        shutil.rmtree(run_folder / "distributed" / "checkpoints")
        assert largest_difference(trained(run_folder, others, "--epochs", "1"), first) == 0, "nothing is trained: right after loading"
    further = trained(run_folder, 2, "--epochs", "2")
    assert 1e-3 < largest_difference(further, first) and all(np.isfinite(part).all() for part in further)


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


def test_a_killed_rank_brings_the_group_back_from_its_last_checkpoint(run_folder, tmp_path):
    """By torchrun --max-restarts: to the tables of a run that nothing broke."""
    arguments = ["--epochs", "6", "--checkpoint-minutes", "0", *WAY]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.1"]
    command += ["--master-port", str(free_port()), "-m", MODULE, "--out", str(run_folder), *SETTINGS, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(tmp_path / "told", "w") as told:
        group = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=told, stderr=told)
    until, killed = time.monotonic() + 240, None
    while group.poll() is None and time.monotonic() < until:
        kept = list((run_folder / "distributed").glob("sharded/*/run.json"))
        ranks = [child for child in psutil.Process(group.pid).children() if MODULE in " ".join(child.cmdline())]
        if not killed and len(kept) == 2 and len(ranks) == 2:
            killed = max(json.loads(path.read_text())["log"][-1]["pairs"] for path in kept)
            ranks[1].send_signal(signal.SIGKILL)
        time.sleep(0.02)
    text = (tmp_path / "told").read_text()
    assert group.wait(timeout=60) == 0, text
    assert 0 < killed < 6 * len(Pairs(config_of(run_folder, 1)).contexts) and "-9" in text
    assert text.count("is trained: notebook 04") == 1 and largest_difference(tables(run_folder), by_one_process(run_folder, 2, 6)[0]) < 1e-5


def test_two_nodes_on_one_machine_as_documented(run_folder):
    """Each node is a torchrun of its own; the address is the loopback's."""
    port, nodes = str(free_port()), []
    for node in range(2):
        where = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
        arguments = ["-m", MODULE, "--out", str(run_folder), *SETTINGS, "--epochs", "1", *WAY]
        command = [sys.executable, "-m", "torch.distributed.run", *where, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        nodes.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    told = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert largest_difference(tables(run_folder), by_one_process(run_folder, 2, 1)[0]) < 1e-5


def sentence_of(process: subprocess.Popen) -> str:
    """The one sentence that a rank ends with, exit code 2."""
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 2 and "Traceback" not in told, told
    (line,) = [line for line in told.splitlines() if line.startswith(MODULE)]
    return line


def test_a_rank_that_never_comes_up(run_folder):
    told = sentence_of(start(0, 2, free_port(), run_folder, "--replicas", "--timeout", "3"))
    assert "rank 0: Another rank did not come up, or was lost" in told and "within 3 s" in told


def test_ranks_with_different_settings(run_folder):
    port = free_port()
    started = [start(rank, 2, port, run_folder, "--replicas", "--epochs", str(1 + rank)) for rank in range(2)]
    assert all("Rank 1 was not started as rank 0 was (epochs 1 there, 2 here)" in sentence_of(process) for process in started)
    assert not (run_folder / "distributed" / "log.csv").exists()


def test_a_checkpoint_of_another_training(replicas, tmp_path):
    """Of another N and D: refused, and untouched."""
    run = shutil.copytree(replicas, tmp_path / "run", symlinks=True)
    path = max((run / "distributed").glob("sharded/*/run.json"))
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"facts": kept["facts"] | {"papers": 299}}))
    told = sentence_of(start(0, 1, free_port(), run, "--replicas", "--epochs", "2", "--dimensions", "16"))
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


@needs_torchrec
def test_it_is_pinned_exactly():
    lines = [line for line in (ROOT / "requirements-distributed.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines and all(len(line.split("==")) == 2 for line in lines)
    assert {"fbgemm-gpu-cpu", "torchrec", "torchmetrics", "tensordict", "pyre-extensions"} <= {line.split("==")[0] for line in lines}
