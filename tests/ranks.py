"""Real ranks on this machine: starting them, reading what they have trained, and what one process makes of the same joint batches."""

import dataclasses
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from helpers.artefacts import read_manifest
from helpers.config import ROOT, Config
from helpers.errors import ConfigError
from helpers.memory import TABLES
from helpers.models.sgns import PlainSGNS
from helpers.pairs.build import Pairs
from helpers.pairs.shards import pair_source
from helpers.rows.files import RowFiles
from helpers.rows.tables import FIRST_SUM, update
from helpers.training import distributed
from helpers.training.engines import new_tables
from helpers.training.loop import rate_of

MODULE = "helpers.training.distributed"
SECONDS = 600  # that ranks may take, on a busy machine


def missing() -> str:
    """Why tables cannot be in shards here; "" where they can."""
    with warnings.catch_warnings(action="ignore"):
        try:
            distributed._torchrec()
            return ""
        except ConfigError as error:
            return str(error)


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def launch(run: Path, *arguments: str, launcher: tuple[str, ...] = (), environment: dict | None = None, told=subprocess.PIPE):
    """A process of the module, or torchrun with `launcher` as its arguments."""
    torchrun = ("torch.distributed.run", *launcher, "-m") if launcher else ()
    command = [sys.executable, "-m", *torchrun, MODULE, "--out", str(run), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=told, stderr=told)


def start(rank: int, ranks: int, port: str, run: Path, *arguments: str) -> subprocess.Popen:
    """One rank, started as torchrun does."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    return launch(run, *arguments, environment=where | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)})


def wait_for(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What they have told, all having ended well."""
    told = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told
    return told


def trained(run: Path, ranks: int, *arguments: str) -> list[np.ndarray]:
    """Both tables (N, D) and their sums (N,) after so many ranks have trained."""
    port = free_port()
    wait_for([start(rank, ranks, port, run, *arguments) for rank in range(ranks)])
    return tables(run)


def tables(run: Path) -> list[np.ndarray]:
    """What is in the last checkpoint that notebook 04 opens: both tables and their sums."""
    path = max((run / "distributed" / "checkpoints").iterdir())
    read_manifest(path, "", verify=True)
    return [RowFiles(path, name)[:] for name in (*TABLES, "target_sums", "context_sums")]


def by_one_process(config: Config, ranks: int) -> tuple[list[np.ndarray], int]:
    """What the plain model makes of the joint batches of so many ranks (both tables and their sums), and the number of steps."""
    pairs = Pairs(config)
    config = dataclasses.replace(config, block_pairs=min(config.block_pairs, len(pairs.contexts) // distributed.LEAST_BLOCKS))
    model = PlainSGNS(*new_tables(config, pairs.indptr, pairs.contexts))
    sums = [torch.full((pairs.papers,), FIRST_SUM) for _ in TABLES]
    source, S = pair_source(config, pairs.indptr, pairs.contexts), config.shared_negatives
    size, done, steps = distributed.batch_size(config, source.pairs) // ranks, 0, 0
    for epoch in range(config.epochs):
        for first in range(0, source.blocks, ranks):
            rate = rate_of(config, done, config.epochs * source.pairs)
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
    assert done == config.epochs * source.pairs
    return [part.detach().numpy() for part in (model.target.weight, model.context.weight, *sums)], steps


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Of all values of arrays of the same shapes; of values above 1 (sums of squares), relative to them."""
    assert [part.shape for part in found] == [part.shape for part in expected]
    return max(float((np.abs(a - b) / np.maximum(np.abs(b), 1)).max()) for a, b in zip(found, expected, strict=True))
