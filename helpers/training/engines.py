"""The two ways to train a block of pairs: numba kernels on CPU cores, and torch in batches through tables in spans (on any device)."""

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from helpers.config import Config
from helpers.errors import ArtefactError, ConfigError, TrainingError, in_a_line
from helpers.memory import TABLES, available_gpu, batch_bytes, hot_rows
from helpers.models import kernels
from helpers.models.sgns import sgns_loss, shared_gradients
from helpers.models.smoothing import fill_start
from helpers.pairs import noise
from helpers.pairs.blocks import LOSS, PairBlocks, PairSource, check_csr
from helpers.pairs.shards import pair_source
from helpers.prefetch import read_ahead
from helpers.rows.bfloat16 import as_stored, as_tensor
from helpers.rows.files import empty_table
from helpers.rows.optimizers import STOCK, new_state
from helpers.rows.parts import HeldPart
from helpers.rows.tables import Table, Working

SHARES = 16  # parts of a block that threads take in turn; what a part holds does not depend on how many threads there are
CHUNK = 4096  # pairs that share their negatives, at most
LEAST_PAIRS, LEAST_STEPS = 1024, 256  # of a batch, and batches an epoch: a small graph is trained in smaller ones
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

    target, context: torch (N, D) on the CPU, changed in place; state: what the optimiser keeps, float32 (N,) or (N, D), by table and name
    ("target_sums"), or None to start anew; source: where the pairs come from, None for what config.pairs_from makes of this CSR.
    """

    def __init__(self, config, indptr, contexts, noise_table, target, context, state=None, source=None):
        check_inputs(config, indptr, contexts, noise_table, target, context)
        self.config, self.noise, self.target, self.context = config, noise_table, target, context
        new = [(table, name, values) for table in TABLES for name, values in new_state(config.optimizer, *target.shape).items()]
        self.state = {f"{table}_{name}": values for table, name, values in new} if state is None else state
        self.blocks: PairSource = source or pair_source(config, indptr, contexts)

    def flush(self) -> None:
        """Bring target, context and their state up to date: before a checkpoint or an evaluation."""


class KernelEngine(Engine):
    """Trains on CPU cores by `models/kernels.py`: the same bits every time in one thread, not in several, which share tables unlocked."""

    def __init__(self, config, indptr, *tables, **given):
        super().__init__(config, indptr, *tables, **given)
        self.threads = config.threads or os.cpu_count()
        self._rooms = [None] * self.threads
        self._tables = as_stored(self.target), as_stored(self.context)
        self._sums = [self.state[f"{table}_sums"].numpy() if self.state else np.empty(0, np.float32) for table in TABLES]
        self._held = None  # the part of the contexts that is in memory, where they are trained in parts
        if self.blocks.parts > 1:
            self._held, self._degree = HeldPart(self._tables[1], self._sums[1], self.blocks.parts), np.diff(indptr)

    def flush(self) -> None:
        """Bring target, context and their state up to date."""
        if self._held:
            self._held.flush()

    def look_up(self, table: str, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids` (int64, any shape) as they are now, float32 (*shape, D); table: target or context."""
        rows = as_tensor(self._held[ids.numpy()]) if self._held and table == "context" else getattr(self, table)[ids]
        return rows.float()

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


class Batch(NamedTuple):
    """Some pairs, their negatives, and the rows of them all: targets, contexts int64 (B,), negatives int64 (n, S), places in those rows."""

    targets: torch.Tensor
    contexts: torch.Tensor
    negatives: torch.Tensor
    rows: tuple[Working, Working]


class TorchEngine(Engine):
    """Trains by torch in batches, whose chunks share negatives, with any optimiser; the tables are in spans, on a GPU the hottest rows.

    config.shared_negatives (S) negatives a chunk of pairs, each weighing negatives / S; gpu: bytes of device memory for rows, None = what
    is free beside a batch; ahead: rows travel while others are trained, None = on a GPU; direct: kernels move them, None = if faster.
    """

    def __init__(self, config, indptr, *tables, gpu: int | None = None, ahead: bool | None = None, direct: bool | None = None, **given):
        super().__init__(config, indptr, *tables, **given)
        N, D = self.target.shape
        self.device = pick_device(config)
        on_gpu = self.device.type == "cuda"
        self.pairs = batch_size(config, self.blocks.pairs)
        room = gpu_room(config, N, self.blocks.pairs) if gpu is None else gpu
        self.hot = hot_rows(N, D * self.target.itemsize + state_bytes(config), room)
        self.ahead = on_gpu if ahead is None else ahead
        self.tables = []
        for table in TABLES:
            state = {name.removeprefix(f"{table}_"): values for name, values in self.state.items() if name.startswith(table)}
            mapped = bool(config.tables_on_disk) and table == "target"
            where = self.device, self.hot[table], self.ahead, mapped, direct
            self.tables.append(Table(getattr(self, table), config.optimizer, state, *where))
        self._threshold, self._alias = (torch.from_numpy(self.noise[name].copy()).to(self.device) for name in ("threshold", "alias"))
        self._compute = torch.float16 if on_gpu and self.target.dtype == torch.bfloat16 else torch.float32
        self._reader, self._read_ahead = ThreadPoolExecutor(1), {}

    def flush(self) -> None:
        """Bring target, context and their state up to date."""
        for table in self.tables:
            table.flush()

    def look_up(self, table: str, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids` (int64, any shape) as they are now, float32 (*shape, D) on the device; table: target or context."""
        return self.tables[TABLES.index(table)].read(ids)

    def train_block(self, epoch: int, block: int, learning_rate: float, progress=lambda pairs: None) -> int:
        """Train the block's pairs once, in a random order; returns how many they are. TrainingError where the GPU gives up."""
        with gpu_errors_told(self):
            targets, contexts = self._pairs(epoch, block)
            seed = int(self.blocks.generator(epoch, block).integers(1 << 30))
            generator = torch.Generator(self.device).manual_seed(seed)
            order = torch.randperm(len(targets), generator=generator, device=self.device)  # a batch should not be one hub alone
            parts = zip(targets[order].split(self.pairs), contexts[order].split(self.pairs), strict=True)
            before, batch, step = None, self._ask(next(parts, None), generator), 2 * seed
            while batch:
                following = self._ask(next(parts, None), generator, batch) if self.ahead else None
                self._train(batch, before, learning_rate, step)
                progress(len(batch.targets))
                before, batch = batch, following if self.ahead else self._ask(next(parts, None), generator)
                step = (step + 2) & 0x7FFFFFFF
        return len(targets)

    def _pairs(self, epoch: int, block: int) -> Iterator[torch.Tensor]:
        # a block's targets and contexts, int32 (B,), on the device; the next block is read beside the training of this one
        on_gpu = self.device.type == "cuda"

        def read(block):
            return [torch.from_numpy(ids).pin_memory() if on_gpu else torch.from_numpy(ids) for ids in self.blocks.block(epoch, block)]

        reading = self._read_ahead.pop((epoch, block), None) or self._reader.submit(read, block)
        if block + 1 < self.blocks.blocks:
            self._read_ahead = {(epoch, block + 1): self._reader.submit(read, block + 1)}
        return (ids.to(self.device, non_blocking=True) for ids in reading.result())

    def _ask(self, pairs: tuple | None, generator: torch.Generator, before: Batch | None = None) -> Batch | None:
        if pairs is None:
            return None
        size = -(-len(pairs[0]) // CHUNK), self.config.shared_negatives
        papers = torch.randint(len(self._alias), size, generator=generator, device=self.device)
        kept = torch.rand(size, generator=generator, device=self.device) < self._threshold[papers]
        negatives = torch.where(kept, papers, self._alias[papers].long())
        asked, places = [], []
        for i, ids in enumerate((pairs[0].long(), torch.cat([pairs[1].long(), negatives.flatten()]))):
            unique, index = torch.unique(ids, return_inverse=True)  # once: a paper may be context and negative of one batch
            asked.append(self.tables[i].ask(unique, before and before.rows[i]))
            places.append(index)
        B = len(pairs[0])
        return Batch(places[0], places[1][:B], places[1][B:].view(size), tuple(asked))

    def _train(self, batch: Batch, before: Batch | None, learning_rate: float, seed: int) -> None:
        B, chunks, D = len(batch.targets), len(batch.negatives), self.target.shape[1]
        more = -B % chunks  # that fill the chunks up, and count nothing
        rows = [table.arrive(batch.rows[i], before and before.rows[i]).to(self._compute) for i, table in enumerate(self.tables)]
        present = (torch.arange(B + more, device=self.device) < B).float().view(chunks, -1)
        looked_up = [of[torch.nn.functional.pad(ids, (0, more))].view(chunks, -1, D) for of, ids in zip(rows, batch[:2], strict=True)]
        weight = self.config.negatives / self.config.shared_negatives
        gradients = [part.view(-1, D).float() for part in shared_gradients(*looked_up, rows[1][batch.negatives], weight, present)]
        of_targets = torch.zeros(rows[0].shape, device=self.device).index_add_(0, batch.targets, gradients[0][:B])
        of_contexts = torch.zeros(rows[1].shape, device=self.device).index_add_(0, batch.contexts, gradients[1][:B])
        of_contexts.index_add_(0, batch.negatives.flatten(), gradients[2])
        for i, gradient in enumerate((of_targets, of_contexts)):
            self.tables[i].train(batch.rows[i], gradient, learning_rate, seed + i)


def batch_size(config: Config, P: int) -> int:
    """Pairs a step of the torch engine, of P pairs an epoch."""
    return min(config.batch_pairs, max(LEAST_PAIRS, P // LEAST_STEPS))


def state_bytes(config: Config) -> int:
    """Bytes that the optimiser keeps of a row."""
    return sum(values.nbytes for values in new_state(config.optimizer, 1, config.dimensions).values())


def gpu_room(config: Config, N: int, P: int) -> int:
    """Bytes of device memory for rows of N papers, beside a batch of the torch engine, P pairs being an epoch; 0 without a GPU."""
    if choose_engine(config)[0] is KernelEngine or pick_device(config).type != "cuda":
        return 0
    beside = batch_bytes(batch_size(config, P), N, config.dimensions, config.shared_negatives)
    return max(0, available_gpu(config.gpu_memory) - beside)


@contextlib.contextmanager
def gpu_errors_told(engine: TorchEngine) -> Iterator[None]:
    """Say in one sentence, as TrainingError, what a GPU says in a traceback, and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows = sum(hot * table.home["rows"][:1].nbytes for hot, table in zip(engine.hot.values(), engine.tables, strict=True)) / 1e9
        fits = f"gpu_memory = {max(0.5, 0.8 * torch.cuda.memory_allocated() / 1e9):.1f} or batch_pairs = {engine.pairs // 2}"
        told = f"GPU memory ran out ({rows:.1f} GB of rows there, batches of {engine.pairs:,} pairs)"
        raise TrainingError(f"{told}: run this again with {fits}; the last checkpoint is untouched.") from error
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        told = f"The GPU failed ({in_a_line(error)})"
        raise TrainingError(f"{told}: restart the runtime and run this again; the last checkpoint is untouched.") from error


def pick_device(config: Config) -> torch.device:
    """The compute device: the setting, or the GPU where there is one."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise TrainingError("device = 'cuda', but this machine has no GPU that torch can use; choose a GPU runtime, or device 'cpu'.")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def choose_engine(config: Config) -> tuple[type, str]:
    """The engine and why: TorchEngine on a GPU, for optimisers of torch.optim, or if asked for, else KernelEngine; ConfigError."""
    stock = config.optimizer in STOCK
    if config.engine == "kernel" and stock:
        raise ConfigError(f"optimizer = {config.optimizer!r} is trained by torch alone: choose engine 'torch' or 'auto'.")
    if config.engine == "kernel":
        return KernelEngine, "numba kernels on CPU cores, as asked for"
    why = "as asked for" if config.engine == "torch" else f"for optimizer {config.optimizer}" if stock else ""
    if pick_device(config).type == "cuda":
        why = f"on {torch.cuda.get_device_name()}"
    if why and config.context_parts > 1:
        raise ConfigError(f"context_parts = {config.context_parts} is trained by kernels alone: choose engine 'kernel' and device 'cpu'.")
    return (TorchEngine, f"torch in batches, {why}") if why else (KernelEngine, "numba kernels on CPU cores, as there is no GPU in use")


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
        rows = engine.look_up("target", self.targets), *(engine.look_up("context", ids) for ids in (self.contexts, self.negatives))
        return float(sgns_loss(*rows)) / max(len(self.targets), 1)
