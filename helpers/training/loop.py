"""The training loop: blocks in, batches through the off-loaded tables, a log row a block, a checkpoint an epoch."""

import csv
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from helpers.artefacts import new_file
from helpers.config import TRAINING_SETTINGS, Config
from helpers.errors import TrainingError
from helpers.models.sgns import sgns_loss
from helpers.models.start import start_tables
from helpers.pairs import noise
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.build import Pairs
from helpers.progress import progress
from helpers.rows.tables import OffloadedTable
from helpers.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

LOG_COLUMNS = ("epoch", "block", "pairs", "seconds", "pairs_per_s", "learning_rate", "loss", "mrr")
ALARM_PAIRS = 200_000  # a run that has seen so many pairs and is still at chance does not learn
ALARM_MARGIN = 0.01  # how far below chance the loss must have come by then

Evaluate = Callable[[np.ndarray, np.ndarray], float | None]


def chance_loss(negatives: int) -> float:
    """The loss a pair of a model that knows nothing: (1 + K) ln 2."""
    return (1 + negatives) * math.log(2)


def pick_device(config: Config) -> torch.device:
    """The compute device: the setting, or the GPU where there is one."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device = 'cuda', but this machine has no GPU that torch can use; choose a GPU runtime, or device 'cpu'.")
    return torch.device(config.device)


def train(config: Config, pairs: Pairs, evaluate: Evaluate | None = None) -> Checkpoint:
    """Train from the newest checkpoint, or from the start, to `config.epochs`; writes checkpoints, log.csv and TensorBoard events in `out`.

    evaluate(target float32 (N, D), context float32 (N, D)) -> held-out MRR or None, called before the first epoch and after each.
    Raises TrainingError where the loss stays at chance or is no longer a number, ArtefactError for another run's checkpoints.
    """
    device = pick_device(config)
    found = newest_checkpoint(config, pairs.fingerprint)
    if found:
        print(f"Going on from checkpoint {found.path}: {found.epoch} epochs are done, {max(config.epochs - found.epoch, 0)} to do.")
        target = OffloadedTable(found.target, config.optimizer, device, found.target_sums)
        context = OffloadedTable(found.context, config.optimizer, device, found.context_sums)
        first, log, path = found.epoch, found.log, found.path
    else:
        tables = start_tables(pairs.indptr, pairs.contexts, config.dimensions, config.warm_start, np.random.default_rng(config.seed))
        target, context = (OffloadedTable(torch.from_numpy(table), config.optimizer, device) for table in tables)
        mrr = _number(evaluate, target, context)  # row 0 of the log: what the start tables know
        first, log, path = 0, [{**dict.fromkeys(LOG_COLUMNS, ""), "epoch": 0, "block": 0, "pairs": 0, "seconds": 0.0, "mrr": mrr}], None
    blocks = PairBlocks(pairs.indptr, pairs.contexts, config.seed, config.block_pairs)
    total = config.epochs * blocks.pairs
    events = _Events(config, log)
    with progress(title="Training", unit=" pairs", total=total, initial=first * blocks.pairs) as bar:
        for epoch in range(first, config.epochs):
            for block in range(blocks.blocks):
                log.append(_train_block(config, blocks, pairs.noise, target, context, epoch, block, log[-1], total, bar))
                _check_learning(config, log)
                if block == blocks.blocks - 1:
                    log[-1]["mrr"] = _number(evaluate, target, context)
                events.add(log[-1])
            write_log(config, log)
            path = save_checkpoint(config, pairs.fingerprint, target, context, epoch + 1, log)
    events.close()
    write_log(config, log)
    path = path or save_checkpoint(config, pairs.fingerprint, target, context, 0, log)
    print(_advice(log))
    return Checkpoint(target.rows, context.rows, target.sums, context.sums, log[-1]["epoch"], log, config.part(TRAINING_SETTINGS), path)


def _number(evaluate: Evaluate | None, target: OffloadedTable, context: OffloadedTable) -> float | str:
    score = evaluate(target.rows.numpy(), context.rows.numpy()) if evaluate else None
    return "" if score is None else score


def _train_block(config, blocks, noise_table, target, context, epoch, block, last, total, bar) -> dict:
    """Train one block and return its row of the log; `last` is the row before."""
    targets, contexts = blocks.block(epoch, block)
    generator = blocks.generator(epoch, block)
    shuffled = generator.permutation(len(targets))  # a block is grouped by target: a batch should not be one hub alone
    targets, contexts = targets[shuffled].astype(np.int64), contexts[shuffled].astype(np.int64)
    rate = config.learning_rate * (1 - 0.9 * last["pairs"] / total)
    start, loss = time.perf_counter(), 0.0
    for first in range(0, len(targets), config.batch_pairs):
        batch = slice(first, first + config.batch_pairs)
        B = len(targets[batch])
        negatives = noise.draw(noise_table, (B, config.negatives), generator)
        loss += train_batch(target, context, *(torch.from_numpy(ids) for ids in (targets[batch], contexts[batch], negatives)), rate)
        bar.update(B)
    bar.set_postfix(loss=f"{loss / max(len(targets), 1):.3f}", chance=f"{chance_loss(config.negatives):.3f}", refresh=False)
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch + 1,
        "block": block + 1,
        "pairs": last["pairs"] + len(targets),
        "seconds": last["seconds"] + seconds,
        "pairs_per_s": len(targets) / seconds,
        "learning_rate": rate,
        "loss": loss / max(len(targets), 1),
        "mrr": "",
    }


def train_batch(target: OffloadedTable, context: OffloadedTable, targets, contexts, negatives, learning_rate: float) -> float:
    """One step on pairs targets int64 (B,), contexts int64 (B,) with negatives int64 (B, K), all on the CPU; returns the summed loss."""
    B = len(targets)
    of_targets = target.gather(targets)
    of_contexts = context.gather(torch.cat([contexts, negatives.flatten()]))  # once: a paper may be context and negative of one batch
    looked_up = of_contexts.looked_up()
    loss = sgns_loss(of_targets.looked_up(), looked_up[:B], looked_up[B:].view(*negatives.shape, -1))
    loss.backward()
    target.update(of_targets, learning_rate)
    context.update(of_contexts, learning_rate)
    return loss.item()


def estimated_seconds(config: Config, pairs: Pairs, batches: int = 4) -> float:
    """How long the training will take, from a few batches on throw-away tables of this run's shape (at most 100,000 rows), in seconds."""
    N = min(pairs.papers, 100_000)
    generator = np.random.default_rng(0)
    tables = [OffloadedTable(torch.randn(N, config.dimensions) * 0.1, config.optimizer, pick_device(config)) for _ in range(2)]
    for batch in range(batches + 1):
        if batch == 1:  # the first one warms up
            start = time.perf_counter()
        sizes = (config.batch_pairs,), (config.batch_pairs,), (config.batch_pairs, config.negatives)
        train_batch(*tables, *(torch.from_numpy(generator.integers(0, N, size)) for size in sizes), 0.01)
    return (time.perf_counter() - start) / (batches * config.batch_pairs) * config.epochs * len(pairs.contexts)


def _advice(log: list[dict]) -> str:
    """One sentence on the validation MRR over the epochs: whether fewer would have been better."""
    scores = {row["epoch"]: row["mrr"] for row in log if row["mrr"] != ""}
    if not scores:
        return "Nothing was held out: there is no validation MRR to judge the number of epochs by."
    best, last = max(scores, key=scores.get), max(scores)
    if scores[last] >= 0.9 * scores[best]:
        return f"Validation MRR {scores[last]:.3f}, at best {scores[best]:.3f} (epoch {best})."
    return f"Validation MRR fell to {scores[last]:.3f} from {scores[best]:.3f}: EPOCHS = {best} in a new OUT would be better."


def _check_learning(config: Config, log: list[dict]) -> None:
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
    """TensorBoard events of the log's rows in `out/tensorboard`; none where the package is missing (Colab's TPU runtime)."""

    def __init__(self, config: Config, log: list[dict]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("TensorBoard is not installed: the curves are in log.csv alone.")
            self._writer = None
            return
        # events after the checkpoint, left by a run that was cut off, are void
        self._writer = SummaryWriter(config.folder("tensorboard"), purge_step=log[-1]["pairs"] + 1)

    def add(self, row: dict) -> None:
        for name in ("loss", "mrr", "pairs_per_s", "learning_rate"):
            if self._writer and row[name] != "":
                self._writer.add_scalar(name, row[name], row["pairs"])

    def close(self) -> None:
        if self._writer:
            self._writer.close()
