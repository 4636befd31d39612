"""The plan of a training, told before anything is allocated: where the tables go, and how long it takes by a probe of this machine."""

import dataclasses
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers.artefacts import sentences_for_disk_errors, sha256
from helpers.config import Config
from helpers.memory import START_COLUMNS, Rates, Training, available_ram
from helpers.models.smoothing import choose_warm_start, fill_start
from helpers.pairs.blocks import PART_RUN, part_rows
from helpers.pairs.build import Pairs
from helpers.pairs.noise import alias_table
from helpers.pairs.shards import pair_source
from helpers.rows.bfloat16 import ROW_TYPES, as_tensor, rounded
from helpers.training.engines import TorchEngine, engine_class

MOST_PAPERS, MOST_PAIRS = 2_000_000, 30_000_000  # of the probe: a few seconds, on tables beyond any cache
PROBE_SECONDS, PROBE_BYTES = 3.0, 1 << 28


def training_of(config: Config, pairs: Pairs) -> Training:
    """What decides the memory, disk and time of this run's training."""
    warm_start = choose_warm_start(pairs.papers) if config.warm_start is None else config.warm_start
    steps = len(warm_start) if any(warm_start) and not config.extends else 0
    P = pair_source(config, pairs.indptr, pairs.contexts, pairs.fingerprint).pairs
    how = ROW_TYPES[config.row_type].itemsize, config.epochs, steps, config.context_parts, config.tables_on_disk
    return Training(pairs.papers, P, config.dimensions, *how)


def placed(config: Config, pairs: Pairs) -> Config:
    """The config with tables_on_disk decided by the RAM there is; raises ConfigError, with what would fit, where none is enough."""
    return dataclasses.replace(config, tables_on_disk=training_of(config, pairs).placed(available_ram()).on_disk)


def thinned(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """A graph to probe with (indptr int64 (n+1,), contexts int32 (p,)): all, or every so manieth run of targets, ids divided alike."""
    indptr, contexts = pairs.indptr, pairs.contexts
    thin = max(1, math.ceil(pairs.papers / MOST_PAPERS), math.ceil(len(contexts) / MOST_PAIRS))
    papers = part_rows(len(indptr) - 1, thin, thin // 2)  # the first part has the hubs
    ends = np.minimum(papers[::PART_RUN] + PART_RUN, len(indptr) - 1)
    taken = np.concatenate([contexts[indptr[first] : indptr[last]] for first, last in zip(papers[::PART_RUN], ends, strict=True)])
    counts = indptr[papers + 1] - indptr[papers]
    return np.concatenate([[0], np.cumsum(counts)]), (taken.astype(np.int64) * len(papers) // (len(indptr) - 1)).astype(np.int32)


def probe(config: Config, pairs: Pairs) -> Rates:
    """How fast this machine trains, by ten seconds on a thinned graph and throw-away tables; ArtefactError if `out` cannot be written."""
    graph = thinned(pairs)
    return Rates(trained_a_second(config, *graph), *_smoothed_a_second(config, *graph), _written_a_second(Path(config.out)))


def _tables(config: Config, N: int, D: int) -> list[np.ndarray]:
    """Throw-away tables, as they are stored; their values do not matter."""
    return [np.full((N, D), rounded(np.array([0.01], np.float32), ROW_TYPES[config.row_type])[0]) for _ in range(2)]


def trained_a_second(config: Config, indptr: np.ndarray, contexts: np.ndarray) -> float:
    """Pairs a second by this config on throw-away tables in memory, measured for PROBE_SECONDS at most, compilation not counted."""
    Engine, noise = engine_class(config), alias_table(np.maximum(np.diff(indptr), 1), config.noise_power)
    few = {"block_pairs": 8 * config.batch_pairs} if Engine is TorchEngine else {}
    trial = dataclasses.replace(config, tables_on_disk=False, context_parts=1, pairs_from="citations", extends="", **few)
    engine = Engine(trial, indptr, contexts, noise, *map(as_tensor, _tables(config, len(indptr) - 1, config.dimensions)))
    engine.train_block(0, 0, 1e-9)  # compiles
    trained, blocks, start = 0, 0, time.perf_counter()
    while blocks < 2 or (trained < len(contexts) and time.perf_counter() - start < PROBE_SECONDS):
        blocks += 1
        trained += engine.train_block(*divmod(blocks, engine.blocks.blocks), 1e-9)
    return trained / (time.perf_counter() - start)


def _smoothed_a_second(config: Config, indptr: np.ndarray, contexts: np.ndarray) -> tuple[float, float]:
    # Rates.smoothed and Rates.drawn
    N, seconds = len(indptr) - 1, []
    tables = _tables(config, N, START_COLUMNS)
    for weights in ((1,), (1,), (1, 1, 1)):  # the first compiles
        start = time.perf_counter()
        fill_start(indptr, contexts, *tables, weights, 1.0, np.random.default_rng(0))
        seconds.append(time.perf_counter() - start)
    step = max((seconds[2] - seconds[1]) / 2, seconds[2] / 20)  # of small graphs the clock tells little
    return START_COLUMNS * len(contexts) / step, START_COLUMNS * N / max(seconds[1] - step, seconds[1] / 20)


def _written_a_second(folder: Path) -> float:
    # a checkpoint is written, flushed and hashed
    with sentences_for_disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        file.write(bytes(PROBE_BYTES))
        os.fsync(file.fileno())
        sha256(file.name)
        return PROBE_BYTES / (time.perf_counter() - start)
