"""The plan of a training, by a probe of this machine, and its loop: blocks, a log row each, a checkpoint every few minutes."""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.artefacts import new_file, sentences_for_disk_errors
from helpers.config import RATES, TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError, TrainingError
from helpers.memory import Training, available_ram
from helpers.models.smoothing import choose_warm_start
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs
from helpers.pairs.noise import alias_table
from helpers.pairs.shards import pair_source
from helpers.progress import progress
from helpers.rows.files import ROW_TYPES, Float32Rows, as_stored
from helpers.training.checkpoint import Checkpoint, Checkpoints, Keep, newest_checkpoint, position
from helpers.training.engines import KernelEngine, SampleLoss, extended_tables, new_tables, pairs_with_new
from helpers.training.torch_engine import TorchEngine, gpu_room, pick_device, state_bytes

LOG_COLUMNS = ("epoch", "block", "pairs", "seconds", "pairs_per_s", "learning_rate", "loss", "mrr", "pip_loss", "engine")
ALARM_PAIRS = 200_000  # a run that has seen so many pairs and is still at chance does not learn
MOST_PAPERS, MOST_PAIRS = 2_000_000, 30_000_000  # of the probe: a few seconds, on tables beyond any cache
RUN = 1 << 8  # neighbouring papers that are probed together
PROBE_SECONDS = 3.0

Evaluate = Callable[[np.ndarray, np.ndarray], dict[str, float]] | None


def choose_engine(config: Config) -> tuple[type, str]:
    """(Engine, where it works): TorchEngine on a GPU, for optimisers of torch.optim, or if asked for, else KernelEngine; ConfigError."""
    on_gpu = config.engine != "kernel" and pick_device(config).type == "cuda"
    if config.engine == "kernel" or not (on_gpu or config.optimizer in RATES or config.engine == "torch"):
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
    fit = 0.25 * available_ram() / (2 * 4 * D)  # rows of two tables, float32 at most; all other RAM: nothing is planned yet
    thin = max(1, math.ceil(pairs.papers / min(MOST_PAPERS, fit)), math.ceil(len(contexts) / MOST_PAIRS))
    firsts = np.arange(RUN * (min(thin, (pairs.papers - 1) // RUN + 1) // 2), pairs.papers, RUN * thin)  # the first run has the hubs
    runs = [indptr[first : first + RUN + 1] for first in firsts.tolist()]
    counts, taken = np.concatenate([np.diff(run) for run in runs]), np.concatenate([contexts[run[0] : run[-1]] for run in runs])
    return np.concatenate([[0], np.cumsum(counts)]), (taken.astype(np.int64) * len(counts) // pairs.papers).astype(np.int32)


def probe(config: Config, indptr: np.ndarray, contexts: np.ndarray, with_loss: bool = True) -> float:
    """Pairs this machine trains a second, the losses counted in or not, on a `thinned` graph and throw-away tables, for PROBE_SECONDS."""
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


def chance_loss(negatives: int) -> float:
    """The loss a pair of a model that knows nothing: (1 + K) ln 2."""
    return (1 + negatives) * math.log(2)


def train(config: Config, pairs: Pairs, evaluate: Evaluate = None, keep: Keep = None, elsewhere: Path | None = None) -> Checkpoint:
    """Train from the newest checkpoint, or from the start, to `config.epochs`; writes checkpoints, log.csv and TensorBoard events in `out`.

    evaluate(target float32 (N, D), context float32 (N, D)) -> {"mrr": ..., "pip_loss": ...}, called before the first epoch and after each;
    keep(checkpoint's folder): copies it to a safe place, called beside the training; elsewhere: such a place, whose checkpoints count too.
    Raises ConfigError for tables too large, TrainingError where nothing is learned, ArtefactError for another run's checkpoints."""
    config = placed(config, pairs)
    trained_on = pairs_with_new(config, pairs) if config.extends else (pairs.indptr, pairs.contexts)
    source = pair_source(config, *trained_on, pairs.fingerprint)
    fingerprint = pairs.fingerprint | source.files
    found = newest_checkpoint(config, fingerprint, elsewhere=elsewhere)
    total = config.epochs * source.pairs
    if found:
        done = found.log[-1]["pairs"]
        left = f"{found.block} of {source.blocks} blocks are done, {done:,} pairs that are not trained again; {total - done:,} to do."
        left = f"Going on: {found.epoch} epochs and {left}" if total > done else f"All {found.epoch} epochs are done: nothing is trained."
        print(f"Checkpoint {found.path.name} of {found.path.parent}. {left}")
        tables = found.target, found.context, found.state
    else:
        tables = extended_tables(config, pairs) if config.extends else new_tables(config, pairs.indptr, pairs.contexts)
    engine = choose_engine(config)[0](config, pairs.indptr, pairs.contexts, pairs.noise, *tables, source=source)
    loss = SampleLoss(PairBlocks(pairs.indptr, pairs.contexts, config.seed, config.block_pairs), pairs.noise, config.negatives)
    # the first row tells what the start tables know
    log = found.log if found else [{**log_row(0, 0, 0, 0.0, "", "", loss(engine), ""), **_scores(evaluate, engine)}]
    events, checkpoints = _Events(config, log), Checkpoints(config, fingerprint, source.blocks, found, keep)
    with events, contextlib.closing(checkpoints):
        with progress(title="Training", unit=" pairs", total=total, initial=log[-1]["pairs"]) as bar:
            for place in range(found.epoch * source.blocks + found.block if found else 0, config.epochs * source.blocks):
                epoch, block = divmod(place, source.blocks)
                log.append(_train_block(config, engine, loss, epoch, block, log[-1], total, bar))
                check_learning(config, log)
                if last := block == source.blocks - 1:
                    log[-1] |= _scores(evaluate, engine)
                events.add(log[-1])
                if checkpoints.save_if_due(engine, log) or last:
                    with contextlib.suppress(ArtefactError):  # a full disk is told where the checkpoint or the last log is written
                        write_log(config, log)
        write_log(config, log)
        path = checkpoints.save_last(engine, log)
    shutil.rmtree(config.folder("tables"), ignore_errors=True)  # of tables_on_disk; the mapping keeps its pages until it is let go
    return Checkpoint(engine.target, engine.context, engine.state, *position(log, source.blocks), log, config.part(TRAINING_SETTINGS), path)


def rate_of(config: Config, pairs_done: int, total: int) -> float:
    """The learning rate after `pairs_done` of `total` pairs: a linear warm-up over config.warm_up of them, down to a tenth at the end."""
    part = pairs_done / max(total, 1)
    rise = min(1.0, (part + 1e-3) / config.warm_up) if config.warm_up else 1.0
    return config.learning_rate * rise * (1 - 0.9 * part)


def _scores(evaluate: Evaluate, engine) -> dict:
    engine.flush()
    tables = (Float32Rows(as_stored(rows), ahead=engine.config.tables_on_disk) for rows in (engine.target, engine.context))
    return (evaluate and evaluate(*tables)) or {}


def log_row(epoch, block, pairs, seconds, pairs_per_s, learning_rate, loss, engine) -> dict:
    """A row of log.csv, its scores still empty."""
    return dict(zip(LOG_COLUMNS, (epoch, block, pairs, seconds, pairs_per_s, learning_rate, loss, "", "", engine), strict=True))


def _train_block(config, engine, sample_loss, epoch, block, last, total, bar) -> dict:
    # Train one block and return its row of the log; `last` is the row before
    rate, start = rate_of(config, last["pairs"], total), time.perf_counter()
    pairs = engine.train_block(epoch, block, rate, bar.update)
    seconds = max(time.perf_counter() - start, 1e-9)
    loss = sample_loss(engine)
    bar.set_postfix(loss=f"{loss:.3f}", chance=f"{chance_loss(config.negatives):.3f}", refresh=False)
    pairs_done, seconds_done = last["pairs"] + pairs, last["seconds"] + seconds
    return log_row(epoch + 1, block + 1, pairs_done, seconds_done, pairs / seconds, rate, loss, type(engine).__name__)


def check_learning(config: Config, log: list[dict]) -> None:
    """Raise TrainingError where the loss is no number, or was never 1 % below chance after ALARM_PAIRS pairs."""
    losses, chance, rate = [row["loss"] for row in log if row["loss"] != ""], chance_loss(config.negatives), config.learning_rate
    if not math.isfinite(losses[-1]):
        advice = f"lower the learning rate ({rate}) or batch_pairs ({config.batch_pairs}); the last checkpoint is untouched"
        raise TrainingError(f"The loss is {losses[-1]} after {log[-1]['pairs']:,} pairs: {advice}.")
    if log[-1]["pairs"] >= ALARM_PAIRS and min(losses) > 0.99 * chance:
        found = f"The loss stays at chance ({min(losses):.3f}, chance {chance:.3f}) after {log[-1]['pairs']:,} pairs: nothing is learned"
        raise TrainingError(f"{found}; try a higher learning rate (now {rate}), a warm start, or look at the pairs of notebook 02.")


def write_log(config: Config, log: list[dict]) -> None:
    """Write `out/log.csv`, whole: one row a block, columns LOG_COLUMNS; seconds of training, pairs since the start, loss a pair."""
    with new_file(config.folder("log.csv")) as path:
        pd.DataFrame(log, columns=LOG_COLUMNS).to_csv(path, index=False)


class _Events(contextlib.ExitStack):
    # TensorBoard events of the log's rows in `out/tensorboard`; none where the package is missing or broken: the curves are in log.csv

    def __init__(self, config: Config, log: list[dict]):
        super().__init__()
        # what follows the log's last row, left by a run that was cut off, is void
        self._folder, self._void_from, self._kind, self._writer = config.folder("tensorboard"), log[-1]["pairs"] + 1, None, None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter  # here: it takes seconds to import

            self._kind = SummaryWriter
        with sentences_for_disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict) -> None:
        # on a disk that is full the writer's thread would end in a traceback, and the next event would end the training
        if self._kind and shutil.disk_usage(self._folder).free > 1 << 20:
            self._writer = self._writer or self.enter_context(self._kind(self._folder, purge_step=self._void_from))
            for name in ("loss", "mrr", "pip_loss", "pairs_per_s", "learning_rate"):
                if row.get(name, "") != "":
                    self._writer.add_scalar(name, row[name], row["pairs"])
            self._writer.flush()
