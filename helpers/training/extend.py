"""A finished run extended with a newer dump: known papers keep their rows, new ones start between theirs, their pairs are trained."""

import numpy as np

from helpers.config import Config
from helpers.corpus.build import known_rows, older_run
from helpers.corpus.citations import row_ranges
from helpers.errors import ArtefactError
from helpers.memory import TABLES
from helpers.pairs.build import Pairs
from helpers.rows.bfloat16 import as_tensor, rounded, to_float32
from helpers.rows.files import PIECE, RowFiles, empty_table, pieces
from helpers.rows.optimizers import new_state
from helpers.training.checkpoint import trained_checkpoint

# SHARE: of their contexts' mean, the length of new rows: Adagrad's steps are as long for all rows, so a short one
# turns faster. Validation MRR on cit-HepTh, two seeds (retrained .491): share 1 .435, 0.5 and 0.25 .447 (rate 0.1); all pairs trained
# instead of the new ones, as many steps, .412 against .441 (rate 0.15, share 1). Crossed tables (targets from context rows) start with a
# loss above chance (6.3), as each table has a mean of its own; with the means moved they are on a par with these.
SHARE = np.float32(0.5)


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
    ones', or starts cold. Raises ArtefactError where that run is not there or does not fit.
    """
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
            old_rows.expect(np.sort(there))
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
