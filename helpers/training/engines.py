"""What trains a block of pairs: what engines share, and the one of numba kernels on CPU cores (torch_engine.py has the other)."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from helpers.config import Config
from helpers.errors import ArtefactError
from helpers.memory import TABLES
from helpers.models import kernels
from helpers.models.sgns import sgns_loss
from helpers.models.smoothing import fill_start
from helpers.pairs import noise
from helpers.pairs.blocks import LOSS, PairBlocks, PairSource, check_csr
from helpers.pairs.shards import pair_source
from helpers.prefetch import read_ahead
from helpers.rows.bfloat16 import as_stored, as_tensor
from helpers.rows.files import empty_table
from helpers.rows.optimizers import new_state

SHARES = 16  # parts of a block that threads take in turn; what a part holds does not depend on how many threads there are
LOSS_PAIRS = 2048  # the loss is measured on so many training pairs, always the same


def new_tables(config: Config, indptr: np.ndarray, contexts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The (target, context) tables that training starts from, (N, D) on the CPU, bfloat16 or float32 by config.row_type."""
    target, context = (empty_table(config, name, len(indptr) - 1) for name in TABLES)
    folder = config.folder("tables") if config.tables_on_disk else None
    fill_start(indptr, contexts, target, context, config.warm_start, config.start_scale, np.random.default_rng(config.seed), folder)
    return as_tensor(target), as_tensor(context)


def _check_inputs(config: Config, indptr: np.ndarray, contexts: np.ndarray, noise_table: np.ndarray, *tables: torch.Tensor) -> None:
    # Everything the kernels take for granted: they check no bounds. Raises ArtefactError in one sentence
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
        _check_inputs(config, indptr, contexts, noise_table, target, context)
        self.config, self.noise, self.target, self.context = config, noise_table, target, context
        new = [(table, name, values) for table in TABLES for name, values in new_state(config.optimizer, *target.shape).items()]
        self.state = {f"{table}_{name}": values for table, name, values in new} if state is None else state
        self.blocks: PairSource = source or pair_source(config, indptr, contexts)
        self.tables = ()  # what holds rows of target and context elsewhere

    def flush(self) -> None:
        """Bring target, context and their state up to date: before a checkpoint or an evaluation."""
        for table in self.tables:
            table.flush()


class KernelEngine(Engine):
    """Trains on CPU cores by `models/kernels.py`: the same bits every time in one thread, not in several, which share tables unlocked."""

    def __init__(self, config, indptr, *tables, **given):
        super().__init__(config, indptr, *tables, **given)
        self.threads = config.threads or os.cpu_count()
        self._rooms = [None] * self.threads
        self._stored = as_stored(self.target), as_stored(self.context)
        self._sums = [self.state[f"{table}_sums"].numpy() if self.state else np.empty(0, np.float32) for table in TABLES]

    def look_up(self, table: str, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids` (int64, any shape) as they are now, float32 (*shape, D); table: target or context."""
        return getattr(self, table)[ids].float()

    def train_block(self, epoch: int, block: int, learning_rate: float, progress=lambda pairs: None) -> int:
        """Train the block's pairs once; returns how many they are. progress: called with the number of pairs when some are done."""
        papers, targets, indptr, contexts = self.blocks.by_target(epoch, block)
        if self.config.tables_on_disk:
            read_ahead(self._stored[0], np.sort(targets if papers is None else papers))
        done = np.cumsum(indptr[targets + 1] - indptr[targets])
        pairs = int(done[-1]) if len(done) else 0
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
            steps = kernels.lay_out(own, indptr, contexts, K, self.noise, keys[share], *room)
            if papers is not None:
                np.take(papers, room[0][:steps], out=room[0][:steps], mode="clip")
            kernels.train_steps(steps, *room, K, *self._stored, *self._sums, adagrad, rate, words)
            self._rooms.append(room)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(train_share, range(SHARES)))
        progress(pairs)
        return pairs


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
        of_contexts = (engine.look_up("context", ids) for ids in (self.contexts, self.negatives))
        return float(sgns_loss(engine.look_up("target", self.targets), *of_contexts)) / max(len(self.targets), 1)
