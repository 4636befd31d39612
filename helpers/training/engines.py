"""What training starts from, new tables or a finished run's, extended; what engines share, and the one of numba kernels on CPU cores."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from helpers.config import Config
from helpers.corpus.build import known_rows, older_run
from helpers.corpus.citations import row_ranges
from helpers.errors import ArtefactError
from helpers.memory import TABLES
from helpers.models import kernels
from helpers.models.sgns import sgns_loss
from helpers.models.smoothing import fill_start
from helpers.pairs import noise
from helpers.pairs.blocks import LOSS, PairBlocks, PairSource, check_csr
from helpers.pairs.build import Pairs
from helpers.pairs.shards import pair_source
from helpers.prefetch import read_ahead
from helpers.rows.files import PIECE, RowFiles, as_stored, as_tensor, empty_table, pieces, rounded, to_float32
from helpers.rows.tables import new_state
from helpers.training.checkpoint import trained_checkpoint

SHARES = 16  # parts of a block that threads take in turn; what a part holds does not depend on how many threads there are
LOSS_PAIRS = 2048  # the loss is measured on so many training pairs, always the same
# SHARE: of their contexts' mean, the length of new rows: Adagrad's steps are as long for all rows, so a short one
# turns faster. Validation MRR on cit-HepTh, two seeds (retrained .491): share 1 .435, 0.5 and 0.25 .447 (rate 0.1); all pairs trained
# instead of the new ones, as many steps, .412 against .441 (rate 0.15, share 1). Crossed tables (targets from context rows) start with a
# loss above chance (6.3), as each table has a mean of its own; with the means moved they are on a par with these.
SHARE = np.float32(0.5)


def new_tables(config: Config, indptr: np.ndarray, contexts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The (target, context) tables that training starts from, (N, D) on the CPU, bfloat16 or float32 by config.row_type."""
    target, context = (empty_table(config, name, len(indptr) - 1) for name in TABLES)
    folder = config.folder("tables") if config.tables_on_disk else None
    fill_start(indptr, contexts, target, context, config.warm_start, config.start_scale, np.random.default_rng(config.seed), folder)
    return as_tensor(target), as_tensor(context)


def pairs_with_new(config: Config, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """The pairs with a new paper, as CSR by target (indptr int64 (N+1,), contexts int32 (P,)): all others are trained already."""
    new, counts, found = known_rows(config) < 0, np.zeros(pairs.papers + 1, np.int64), []
    for contexts, targets in _pieces(pairs):
        chosen = new[targets] | new[contexts]
        found.append(contexts[chosen])
        np.add.at(counts, targets[chosen] + 1, 1)
    return np.cumsum(counts), np.concatenate(found)


def extended_tables(config: Config, pairs: Pairs) -> tuple:
    """(target, context (N, D), the optimiser's state by name), torch, to train from: those of the run config.extends.

    Known papers keep rows and state; a new one's row is SHARE times the mean of its known contexts', else, in later passes, of its new
    ones', or starts cold. Raises ArtefactError where that run is not there or does not fit."""
    row_of, old = known_rows(config), older_run(config)
    if leaks := int((row_of[pairs.heldout] >= 0).all(axis=1).sum()):
        told = f"{old.out} knows both papers of {leaks:,} of the {len(pairs.heldout):,} held-out citations and may have trained on them"
        raise ArtefactError(f"{told}: run notebook 02_build_pairs with the same EXTENDS first.")
    trained = trained_checkpoint(old, Pairs(old).fingerprint)
    for name in ("dimensions", "row_type", "optimizer"):
        if (there := trained.settings[name]) != (here := getattr(config, name)):
            raise ArtefactError(f"{old.out} has {name} {there}, not {here}: it can be extended with the same only.")
    stored = [empty_table(config, name, len(row_of)) for name in TABLES]
    state = {f"{table}_{name}": new for table in TABLES for name, new in new_state(config.optimizer, *stored[0].shape).items()}
    kept = {**dict(zip(TABLES, stored, strict=True)), **state}
    filled, random, passes = row_of >= 0, np.random.default_rng(config.seed).random, []
    for rows in pieces(len(row_of)):
        cold = (random(stored[0][rows].shape, np.float32) - np.float32(0.5)) / np.float32(config.dimensions)
        stored[0][rows], stored[1][rows] = rounded(cold, stored[0].dtype), 0  # as word2vec does
        for name, new in kept.items():
            there, old_rows = row_of[rows][filled[rows]], RowFiles(trained.path, name)
            np.asarray(new)[rows][filled[rows]] = old_rows[there]
    while not passes or passes[-1]:
        passes.append(_fill_from_contexts(pairs, stored, filled, np.float32(1) if passes else SHARE))
    known, late, cold = (row_of >= 0).sum(), sum(passes[1:]), (~filled).sum()
    print(f"{known:,} papers are known, {passes[0]:,} new with known references, {late + cold:,} without ({cold:,} start cold): {old.out}")
    return *map(as_tensor, stored), state


def _pieces(pairs: Pairs):
    # (contexts, their targets), piece after piece
    for rows in row_ranges(pairs.indptr, PIECE):
        bounds = pairs.indptr[rows.start : rows.stop + 1]
        yield np.asarray(pairs.contexts[bounds[0] : bounds[-1]]), np.repeat(np.arange(rows.start, rows.stop), np.diff(bounds))


def _fill_from_contexts(pairs: Pairs, stored: list[np.ndarray], filled: np.ndarray, share: np.float32) -> int:
    # One pass: each paper that is not filled, but has contexts that are, gets `share` of their mean row in each table; how many they are
    before = filled.copy()
    for contexts, targets in _pieces(pairs):
        used = before[contexts] & ~before[targets]
        papers, starts, counts = np.unique(targets[used], return_index=True, return_counts=True)
        for rows in stored if len(papers) else ():
            sums = np.add.reduceat(to_float32(rows[contexts[used]]), starts, axis=0)
            rows[papers] = rounded(sums * (share / counts[:, None].astype(np.float32)), rows.dtype)
        filled[papers] = True
    return int(filled.sum() - before.sum())


class Engine:
    """What both share: two tables, up to date after `flush`, and pairs, whose negatives are drawn from (seed, epoch, block) alone.

    target, context: torch (N, D) on the CPU, changed in place; state: what the optimiser keeps, float32 (N,) or (N, D), by table and name
    ("target_sums"), or None to start anew; source: where the pairs come from, None for what config.pairs_from makes of this CSR."""

    def __init__(self, config, indptr, contexts, noise_table, target, context, state=None, source=None):
        # everything the kernels take for granted: they check no bounds
        check_csr(indptr, contexts)
        N = len(indptr) - 1
        fits = len(noise_table) == N or not noise_table["threshold"].any()  # a unigram table has any number of slots
        if not (fits and 0 <= noise_table["alias"].min() and noise_table["alias"].max() < N):
            raise ArtefactError(f"pairs/noise.npy is of another corpus ({len(noise_table):,} papers, not {N:,}); run notebook 02 again.")
        expected = f"{config.row_type} {(N, config.dimensions)}"
        for table in (target, context):
            if (found := f"{table.dtype} {tuple(table.shape)}".removeprefix("torch.")) != expected:
                raise ArtefactError(f"A table is {found}, but {expected} is expected; delete its checkpoint, or choose another OUT.")
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
