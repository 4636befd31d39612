"""The two ways to train a block of pairs: numba kernels on CPU cores, and torch in batches through off-loaded tables (on any device)."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from helpers.config import Config
from helpers.errors import ArtefactError, ConfigError, TrainingError
from helpers.models import kernels
from helpers.models.sgns import sgns_loss
from helpers.models.smoothing import fill_start
from helpers.pairs import noise
from helpers.pairs.blocks import LOSS, PairBlocks, PairSource, check_csr
from helpers.pairs.shards import pair_source
from helpers.prefetch import read_ahead
from helpers.rows.bfloat16 import as_stored, as_tensor
from helpers.rows.files import empty_table
from helpers.rows.optimizers import new_sums
from helpers.rows.parts import HeldPart
from helpers.rows.tables import OffloadedTable

SHARES = 16  # parts of a block that threads take in turn; what a part holds does not depend on how many threads there are
LOSS_PAIRS = 2048  # the loss is measured on so many training pairs, always the same


def new_tables(config: Config, indptr: np.ndarray, contexts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The (target, context) tables that training starts from, (N, D) on the CPU, bfloat16 or float32 by config.row_type."""
    target, context = (empty_table(config, name, len(indptr) - 1) for name in ("target", "context"))
    folder = config.folder("tables") if config.tables_on_disk else None
    fill_start(indptr, contexts, target, context, config.warm_start, config.start_scale, np.random.default_rng(config.seed), folder)
    return as_tensor(target), as_tensor(context)


def check_inputs(config: Config, indptr: np.ndarray, contexts: np.ndarray, noise_table: np.ndarray, *tables: torch.Tensor) -> None:
    """Everything the kernels take for granted: they check no bounds. Raises ArtefactError in one sentence."""
    check_csr(indptr, contexts)
    N = len(indptr) - 1
    if len(noise_table) != N or not (0 <= noise_table["alias"].min() and noise_table["alias"].max() < N):
        found = f"{len(noise_table):,} papers, not {N:,}"
        raise ArtefactError(f"pairs/noise.npy is of another corpus ({found}); run notebook 02_build_pairs again.")
    for table in tables:
        if tuple(table.shape) != (N, config.dimensions) or table.dtype != getattr(torch, config.row_type):
            found, expected = f"{str(table.dtype).split('.')[-1]} {tuple(table.shape)}", f"{config.row_type} ({N}, {config.dimensions})"
            advice = "delete the checkpoint it is from, or choose another OUT"
            raise ArtefactError(f"A table is {found}, but {expected} is expected; {advice}.")


class Engine:
    """What both share: two tables, up to date after `flush`, and pairs, whose negatives are drawn from (seed, epoch, block) alone.

    target, context: torch (N, D) on the CPU, changed in place; sums: their optimiser state float32 (N,), or None to start anew; source:
    where the pairs come from, None for what config.pairs_from makes of this CSR.
    """

    def __init__(self, config, indptr, contexts, noise_table, target, context, target_sums=None, context_sums=None, source=None):
        check_inputs(config, indptr, contexts, noise_table, target, context)
        self.config, self.noise, self.target, self.context = config, noise_table, target, context
        sums = [new_sums(config.optimizer, len(target)) if given is None else given for given in (target_sums, context_sums)]
        self.target_sums, self.context_sums = sums
        self.blocks: PairSource = source or pair_source(config, indptr, contexts)
        self._held = None  # the part of the contexts that is in memory, where they are trained in parts

    def flush(self) -> None:
        """Bring target, context and their sums up to date: before a checkpoint or an evaluation."""
        if self._held:
            self._held.flush()

    def context_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The context rows of `ids` (int64, any shape) as they are now, (*shape, D)."""
        return as_tensor(self._held[ids.numpy()]) if self._held else self.context[ids]


class KernelEngine(Engine):
    """Trains on CPU cores by `models/kernels.py`: the same bits every time in one thread, not in several, which share tables unlocked."""

    def __init__(self, config, indptr, *tables, **given):
        super().__init__(config, indptr, *tables, **given)
        self.threads = config.threads or os.cpu_count()
        self._rooms = [None] * self.threads
        self._tables = as_stored(self.target), as_stored(self.context)
        self._sums = [np.empty(0, np.float32) if sums is None else sums.numpy() for sums in (self.target_sums, self.context_sums)]
        if self.blocks.parts > 1:
            self._held, self._degree = HeldPart(self._tables[1], self._sums[1], self.blocks.parts), np.diff(indptr)

    def _contexts(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, sums, noise) of the contexts that a block is trained on, and draws its negatives from: all, or those of its part."""
        if not self._held:
            return self._tables[1], self._sums[1], self.noise
        if (part := self.blocks.part(epoch, block)) != self._held.part:
            self._held.hold(part)
            self._part_noise = noise.alias_table(self._degree[self._held.ids], self.config.noise_power)
        return self._held.rows, self._held.sums, self._part_noise

    def train_block(self, epoch: int, block: int, learning_rate: float, progress=lambda pairs: None) -> int:
        """Train the block's pairs once; returns how many they are. progress: called with the number of pairs when some are done."""
        papers, targets, indptr, contexts = self.blocks.by_target(epoch, block)
        if self.config.tables_on_disk:
            read_ahead(self._tables[0], np.sort(targets if papers is None else papers))
        done = np.cumsum(indptr[targets + 1] - indptr[targets])
        pairs = int(done[-1]) if len(done) else 0
        context, context_sums, noise_table = self._contexts(epoch, block)
        bounds = [0, *np.searchsorted(done, np.arange(1, SHARES) * pairs // SHARES, side="right").tolist(), len(targets)]
        generator, rate = self.blocks.generator(epoch, block), np.float32(learning_rate)
        keys = generator.integers(0, 2**64, SHARES, dtype=np.uint64)
        words = generator.integers(0, 1 << 16, kernels.NOISE_WORDS + self.config.dimensions, dtype=np.uint32)

        def train_share(share: int) -> None:
            own = targets[bounds[share] : bounds[share + 1]]
            size = int((indptr[own + 1] - indptr[own]).sum())
            room, K, adagrad = self._rooms.pop(), self.config.negatives, self.config.optimizer == "rowwise_adagrad"
            if room is None or len(room[0]) < size:
                room = kernels.room(size + size // 4, K)
            steps = kernels.lay_out(own, indptr, contexts, K, noise_table, keys[share], *room)
            if papers is not None:
                np.take(papers, room[0][:steps], out=room[0][:steps], mode="clip")
            kernels.train_steps(steps, *room, K, self._tables[0], context, self._sums[0], context_sums, adagrad, rate, words)
            self._rooms.append(room)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(train_share, range(SHARES)))
        progress(pairs)
        return pairs


class TorchEngine(Engine):
    """Trains by torch in batches of config.batch_pairs, through off-loaded tables: the way to a GPU."""

    def __init__(self, config, *tables, **given):
        super().__init__(config, *tables, **given)
        kept = (self.target, self.target_sums), (self.context, self.context_sums)
        self.tables = [OffloadedTable(rows, config.optimizer, pick_device(config), sums) for rows, sums in kept]
        (self.target, self.target_sums), (self.context, self.context_sums) = ((table.rows, table.sums) for table in self.tables)

    def train_block(self, epoch: int, block: int, learning_rate: float, progress=lambda pairs: None) -> int:
        """Train the block's pairs once, in a random order; returns how many they are."""
        targets, contexts = self.blocks.block(epoch, block)
        generator = self.blocks.generator(epoch, block)
        shuffled = generator.permutation(len(targets))  # a block is grouped by target: a batch should not be one hub alone
        targets, contexts = targets[shuffled].astype(np.int64), contexts[shuffled].astype(np.int64)
        torch.manual_seed(int(generator.integers(2**63)))  # of stochastic rounding
        for first in range(0, len(targets), self.config.batch_pairs):
            batch = slice(first, first + self.config.batch_pairs)
            negatives = noise.draw(self.noise, (len(targets[batch]), self.config.negatives), generator)
            train_batch(*self.tables, *(torch.from_numpy(ids) for ids in (targets[batch], contexts[batch], negatives)), learning_rate)
            progress(len(targets[batch]))
        return len(targets)


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


def pick_device(config: Config) -> torch.device:
    """The compute device: the setting, or the GPU where there is one."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise TrainingError("device = 'cuda', but this machine has no GPU that torch can use; choose a GPU runtime, or device 'cpu'.")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def engine_class(config: Config) -> type:
    """KernelEngine on a CPU, TorchEngine on a GPU or where config.engine asks for it; ConfigError where it has to be the other."""
    by_torch = config.engine == "torch" or pick_device(config).type == "cuda"
    if by_torch and config.context_parts > 1:
        raise ConfigError(f"context_parts = {config.context_parts} is trained by kernels alone: choose engine 'kernel' and device 'cpu'.")
    return TorchEngine if by_torch else KernelEngine


class SampleLoss:
    """The loss a pair on LOSS_PAIRS citations with K negatives each, drawn once from the seed: comparable over the run and between runs."""

    def __init__(self, blocks: PairBlocks, noise_table: np.ndarray, negatives: int):
        generator = blocks.generator(0, purpose=LOSS)
        places = np.sort(generator.integers(0, max(blocks.pairs, 1), LOSS_PAIRS if blocks.pairs else 0))
        self.targets = torch.from_numpy(np.searchsorted(blocks.indptr, places, side="right") - 1)
        self.contexts = torch.from_numpy(np.asarray(blocks.contexts[places]).astype(np.int64))
        self.negatives = torch.from_numpy(noise.draw(noise_table, (len(places), negatives), generator))

    def __call__(self, engine: Engine) -> float:
        """The loss a pair with the rows of an engine as they are now."""
        rows = engine.target[self.targets].float(), *(engine.context_rows(ids).float() for ids in (self.contexts, self.negatives))
        return float(sgns_loss(*rows)) / max(len(self.targets), 1)
