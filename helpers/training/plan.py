"""The plan of a training, told before anything is allocated: where the tables go, and how long it takes by a probe of this machine."""

import dataclasses
import math
import time

import numpy as np
import torch

from helpers.config import Config
from helpers.memory import Training, available_ram
from helpers.models.smoothing import choose_warm_start
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs
from helpers.pairs.noise import alias_table
from helpers.pairs.shards import pair_source
from helpers.rows.bfloat16 import ROW_TYPES
from helpers.rows.optimizers import STOCK
from helpers.training.engines import KernelEngine, SampleLoss
from helpers.training.torch_engine import TorchEngine, gpu_room, pick_device, state_bytes

MOST_PAPERS, MOST_PAIRS = 2_000_000, 30_000_000  # of the probe: a few seconds, on tables beyond any cache
RUN = 1 << 8  # neighbouring papers that are probed together
MOST_OF_RAM = 0.25  # that the probe's tables may take: nothing is planned yet
PROBE_SECONDS = 3.0


def choose_engine(config: Config) -> tuple[type, str]:
    """(Engine, where it works): TorchEngine on a GPU, for optimisers of torch.optim, or if asked for, else KernelEngine; ConfigError."""
    on_gpu = config.engine != "kernel" and pick_device(config).type == "cuda"
    if config.engine == "kernel" or not (on_gpu or config.optimizer in STOCK or config.engine == "torch"):
        return KernelEngine, "numba kernels on CPU cores"
    return TorchEngine, f"torch in batches on {torch.cuda.get_device_name() if on_gpu else 'CPU cores'}"


def training_of(config: Config, pairs: Pairs) -> Training:
    """What decides the memory, disk and time of this run's training."""
    warm_start = choose_warm_start(pairs.papers) if config.warm_start is None else config.warm_start
    steps = len(warm_start) if any(warm_start) and not config.extends else 0
    P = pair_source(config, pairs.indptr, pairs.contexts, pairs.fingerprint).pairs
    gpu = gpu_room(config, pairs.papers, P) if choose_engine(config)[0] is TorchEngine else 0
    how = ROW_TYPES[config.row_type].itemsize, config.epochs, steps, state_bytes(config), gpu
    return Training(pairs.papers, P, config.dimensions, *how, config.tables_on_disk)


def placed(config: Config, pairs: Pairs) -> Config:
    """The config with tables_on_disk decided by the RAM there is; raises ConfigError, with what would fit, where none is enough."""
    plan = training_of(config, pairs).placed(available_ram())
    return dataclasses.replace(config, tables_on_disk=plan.on_disk, contexts_on_disk=bool(plan.on_disk and plan.gpu))


def thinned(pairs: Pairs, D: int) -> tuple[np.ndarray, np.ndarray]:
    """A graph to probe D with (indptr int64 (n+1,), contexts int32 (p,)): all, or every so manieth run of targets, ids divided alike."""
    indptr, contexts = pairs.indptr, pairs.contexts
    fit = MOST_OF_RAM * available_ram() / (2 * 4 * D)  # of rows in two tables, float32 at most
    thin = max(1, math.ceil(pairs.papers / min(MOST_PAPERS, fit)), math.ceil(len(contexts) / MOST_PAIRS))
    firsts = np.arange(RUN * (min(thin, (pairs.papers - 1) // RUN + 1) // 2), pairs.papers, RUN * thin)  # the first run has the hubs
    lasts = np.minimum(firsts + RUN, pairs.papers)
    counts = np.concatenate([np.diff(indptr[first : last + 1]) for first, last in zip(firsts, lasts, strict=True)])
    taken = np.concatenate([contexts[indptr[first] : indptr[last]] for first, last in zip(firsts, lasts, strict=True)])
    return np.concatenate([[0], np.cumsum(counts)]), (taken.astype(np.int64) * len(counts) // pairs.papers).astype(np.int32)


def probe(config: Config, pairs: Pairs) -> float:
    """How many pairs this machine trains a second, by ten seconds on a thinned graph and throw-away tables."""
    return trained_a_second(config, *thinned(pairs, config.dimensions))


def trained_a_second(config: Config, indptr: np.ndarray, contexts: np.ndarray, with_loss: bool = True) -> float:
    """Pairs a second, the loss after each block counted in or not, on throw-away tables in memory, measured for PROBE_SECONDS at most."""
    Engine, noise = choose_engine(config)[0], alias_table(np.maximum(np.diff(indptr), 1), config.noise_power)
    few = {"block_pairs": 8 * config.batch_pairs} if Engine is TorchEngine else {}
    trial = dataclasses.replace(config, tables_on_disk=False, pairs_from="citations", extends="", **few)
    tables = (torch.full((len(indptr) - 1, config.dimensions), 0.01, dtype=getattr(torch, config.row_type)) for _ in range(2))
    engine = Engine(trial, indptr, contexts, noise, *tables)
    loss = SampleLoss(PairBlocks(indptr, contexts, 0, trial.block_pairs), noise, trial.negatives)
    engine.train_block(0, 0, 1e-9)  # compiles
    trained, blocks, start = 0, 0, time.perf_counter()
    while blocks < 2 or (trained < len(contexts) and time.perf_counter() - start < PROBE_SECONDS):
        blocks += 1
        trained += engine.train_block(*divmod(blocks, engine.blocks.blocks), 1e-9)
        with_loss and loss(engine)
    return trained / (time.perf_counter() - start)
