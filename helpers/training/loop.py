"""The training loop: blocks through an engine, a log row a block, a checkpoint every few minutes."""

import contextlib
import csv
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.artefacts import new_file, sentences_for_disk_errors
from helpers.config import TRAINING_SETTINGS, Config
from helpers.errors import ArtefactError, TrainingError
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs
from helpers.pairs.shards import pair_source
from helpers.progress import progress
from helpers.rows.bfloat16 import Float32Rows, as_stored
from helpers.training.checkpoint import Checkpoint, Checkpoints, Keep, newest_checkpoint, position
from helpers.training.engines import SampleLoss, new_tables
from helpers.training.extend import extended_tables, pairs_with_new
from helpers.training.plan import choose_engine, placed

LOG_COLUMNS = ("epoch", "block", "pairs", "seconds", "pairs_per_s", "learning_rate", "loss", "mrr", "pip_loss", "engine")
ALARM_PAIRS = 200_000  # a run that has seen so many pairs and is still at chance does not learn
EVENTS_ROOM = 1 << 20  # bytes
ALARM_MARGIN = 0.01  # how far below chance the loss must have come by then

Evaluate = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def chance_loss(negatives: int) -> float:
    """The loss a pair of a model that knows nothing: (1 + K) ln 2."""
    return (1 + negatives) * math.log(2)


def train(
    config: Config, pairs: Pairs, evaluate: Evaluate | None = None, keep: Keep | None = None, elsewhere: Path | None = None
) -> Checkpoint:
    """Train from the newest checkpoint, or from the start, to `config.epochs`; writes checkpoints, log.csv and TensorBoard events in `out`.

    evaluate(target float32 (N, D), context float32 (N, D)) -> {"mrr": ..., "pip_loss": ...}, called before the first epoch and after each;
    keep(checkpoint's folder): copies it to a safe place, called beside the training; elsewhere: such a place, whose checkpoints count too.
    Raises ConfigError for tables too large, TrainingError where nothing is learned, ArtefactError for another run's checkpoints.
    """
    config = placed(config, pairs)
    Engine, data = choose_engine(config)[0], (config, pairs.indptr, pairs.contexts, pairs.noise)
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
    engine = Engine(*data, *tables, source=source)
    loss = SampleLoss(PairBlocks(pairs.indptr, pairs.contexts, config.seed, config.block_pairs), pairs.noise, config.negatives)
    log = (
        found.log if found else [{**log_row(0, 0, 0, 0.0, "", "", loss(engine), ""), **_scores(evaluate, engine)}]
    )  # what the start tables know
    first, events = (found.epoch, found.block) if found else (0, 0), _Events(config, log)
    checkpoints = Checkpoints(config, fingerprint, source.blocks, found, keep)
    with contextlib.closing(events), contextlib.closing(checkpoints):
        with progress(title="Training", unit=" pairs", total=total, initial=log[-1]["pairs"]) as bar:
            for epoch in range(first[0], config.epochs):
                for block in range(first[1] if epoch == first[0] else 0, source.blocks):
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


def _scores(evaluate: Evaluate | None, engine) -> dict:
    engine.flush()
    return (evaluate and evaluate(*(Float32Rows(as_stored(rows)) for rows in (engine.target, engine.context)))) or {}


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
    """Raise TrainingError where the loss is no number, or was never below chance after ALARM_PAIRS pairs."""
    losses, chance = [row["loss"] for row in log if row["loss"] != ""], chance_loss(config.negatives)
    if not math.isfinite(losses[-1]):
        raise TrainingError(
            f"The loss is {losses[-1]} after {log[-1]['pairs']:,} pairs: the rows have grown without bound; lower the learning rate "
            f"({config.learning_rate}) or batch_pairs ({config.batch_pairs}); the last checkpoint is untouched."
        )
    if log[-1]["pairs"] >= ALARM_PAIRS and min(losses) > (1 - ALARM_MARGIN) * chance:
        raise TrainingError(
            f"The loss stays at chance ({min(losses):.3f}, chance {chance:.3f}) after {log[-1]['pairs']:,} pairs: nothing is learned; "
            f"try a higher learning rate (now {config.learning_rate}), a warm start, or look at the pairs in notebook 02_build_pairs."
        )


def write_log(config: Config, log: list[dict]) -> None:
    """Write `out/log.csv`, whole: one row a block, columns LOG_COLUMNS; seconds of training, pairs since the start, loss a pair."""
    with new_file(config.folder("log.csv")) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writeheader()
        writer.writerows(log)


class _Events:
    # TensorBoard events of the log's rows in `out/tensorboard`; none where the package is missing (Colab's TPU runtime)

    def __init__(self, config: Config, log: list[dict]):
        self._folder, self._writer = config.folder("tensorboard"), None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("TensorBoard is not installed: the curves are in log.csv alone.")
            return
        with sentences_for_disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if self._has_room():
            # events after the checkpoint, left by a run that was cut off, are void
            self._writer = SummaryWriter(self._folder, purge_step=log[-1]["pairs"] + 1)

    def _has_room(self) -> bool:
        # on a disk that is full its thread would end in a traceback, and the next event would end the training
        return shutil.disk_usage(self._folder).free > EVENTS_ROOM

    def add(self, row: dict) -> None:
        if self._writer and not self._has_room():
            self.close()
        for name in ("loss", "mrr", "pip_loss", "pairs_per_s", "learning_rate"):
            if self._writer and row.get(name, "") != "":
                self._writer.add_scalar(name, row[name], row["pairs"])

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
