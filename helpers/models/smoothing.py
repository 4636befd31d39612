"""Smoothing over the citation graph: where training starts, and how far the trained vectors reach."""

# A step replaces each row by the sum of its contexts' rows, normalised. Random rows smoothed a few times are the warm start: papers that
# cite or are cited together begin close, where a cold SGNS needs many epochs to get. Published relatives: RandNE (Zhang et al. 2018),
# FastRP (Chen et al. 2019), ProNE (Zhang et al. 2019). Trained rows smoothed afterwards tell of wider topics. Columns are smoothed in
# blocks, each as a table of its own: memory stays bounded, and lengths in a block of random directions stand for the rows'.

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

from helpers.artefacts import new_array
from helpers.memory import START_COLUMNS, columns_at_a_time
from helpers.models.simd import add_row, dot_row, train_row
from helpers.prefetch import prefetch_row
from helpers.progress import progress
from helpers.rows.files import pieces, rounded, to_float32

THREADS = os.cpu_count() or 1  # what comes out does not depend on it
LEAF_WEIGHT = 0.05  # a context of one paper alone ties it to no other: it counts only where there is nothing else
HUB_POWER = 0.5  # what cites, or is cited by, everything says little of each
AHEAD = 16  # rows prefetched ahead
# A far row is degree ** this long, and half of it (by its square) is the same for all papers: its cosine tells topics, its dot product also
# how much both papers are cited, which tells best whether they are linked.
FAR_POWER = 0.15
# Found on four real sets and planted graphs (tests/benchmarks/RESULTS.md): deep smoothing helps large graphs and blurs small ones.
WARM_STARTS = {3: (1.0, 2.0, 1.0), 4: (0.0, 1.0, 1.0, 1.0), 5: (0.0, 1.0, 1.0, 1.0, 1.0)}


@numba.njit(nogil=True, fastmath=True, cache=True)
def smoothing_step(indptr, contexts, context_weights, rows, out, total, weight, half, first, last):
    """total[t] += weight * s, out[t] = context_weights[t] * s, s the normalised sum (0 of none) of rows[c] over the contexts c of each t.

    rows (times their weights), out, total, perhaps columns of a wider table: float32 or uint16 (N, D); half: uint32 (D,), all 32768."""
    D, P, like = rows.shape[1], len(contexts), rows[0, 0]
    base, out_base, total_base = rows.ctypes.data, out.ctypes.data, total.ctypes.data
    row_bytes, total_bytes = rows.strides[0], total.strides[0]
    smoothed, nothing = np.empty(D, np.float32), np.zeros(D, np.float32)
    local = smoothed.ctypes.data
    for t in range(first, last):
        smoothed[:] = 0
        for p in range(indptr[t], indptr[t + 1]):
            if p + AHEAD < P:
                prefetch_row(base, contexts[p + AHEAD], row_bytes)
            add_row(base + contexts[p] * row_bytes, like, D, local)
        square = dot_row(local, local, np.float32(0), D)
        scale = np.float32(1 / np.sqrt(square)) if square > 0 else np.float32(0)
        out[t, :] = 0
        for row, size in ((out_base + t * row_bytes, scale * context_weights[t]), (total_base + t * total_bytes, weight * scale)):
            train_row(local, row, like, D, np.float32(0), nothing.ctypes.data, size, half.ctypes.data)


def weigh(degree: np.ndarray) -> np.ndarray:
    """How much a context of this training degree d counts: max(1 - 1/d, LEAF_WEIGHT) / d ** HUB_POWER, float (N,)."""
    return np.maximum(1 - 1 / degree, LEAF_WEIGHT) / degree**HUB_POWER


def smooth(indptr, contexts, rows: np.ndarray, weights: tuple[float, ...], total: np.ndarray, length: float = 1) -> np.ndarray:
    """Fill `total` with the weighted sum of the rows after k = 0, 1, ... smoothing steps, at this length; `weigh` says how contexts count.

    indptr: int64 (N+1,), contexts: int32 (P,); rows, overwritten, and total, returned: (N, D) float32 or uint16 (bfloat16)."""
    N, half = len(rows), np.full(rows.shape[1], 1 << 15, np.uint32)
    context_weights = weigh(np.maximum(np.diff(indptr), 1)).astype(np.float32)
    middle = np.searchsorted(indptr, np.linspace(0, len(contexts), THREADS + 1)[1:-1])  # an equal share of the pairs a thread
    bounds = [0, *np.minimum(middle, N).tolist(), N]
    itself = np.arange(N + 1), np.arange(N, dtype=np.int32)  # a graph in which a step does nothing but normalise
    total[:], out = 0, np.empty_like(rows)
    with ThreadPoolExecutor(THREADS) as pool:

        def step(*arguments):
            list(pool.map(lambda first, last: smoothing_step(*arguments, half, first, last), bounds[:-1], bounds[1:]))

        for k, weight in enumerate(weights):
            step(*((indptr, contexts) if k else itself), context_weights, rows, out, total, np.float32(weight))
            rows, out = out, rows
        step(*itself, np.full(N, length, np.float32), total, total, out, np.float32(0))
    return total


def choose_warm_start(N: int) -> tuple[float, ...]:
    """Weights of 1, 2, ... smoothing steps for N papers: 3 steps below 100,000, 4 below a million, 5 from there on."""
    return WARM_STARTS[min(5, max(3, len(str(N)) - 2))]


def fill_start(indptr, contexts, target, context, warm_start, scale, generator: np.random.Generator, folder: Path | None = None) -> None:
    """Fill the tables that training starts from: warm, rows of length `scale` in both; cold, word2vec's (uniform targets, no contexts).

    indptr: int64 (N+1,), contexts: int32 (P,); target, context: (N, D) float32 or uint16 (bfloat16); warm_start: weights of 1, 2, ...
    smoothing steps, None: those of `choose_warm_start`, (): a cold start; folder: where columns wait until they are rows of a file."""
    N, D = target.shape
    warm_start, waiting = choose_warm_start(N) if warm_start is None else warm_start, []
    for columns in pieces(D, START_COLUMNS):
        rows = np.empty((N, columns.stop - columns.start), target.dtype)
        for piece in pieces(N):
            values = generator.random(rows[piece].shape, dtype=np.float32) - np.float32(0.5)
            rows[piece] = rounded(values if any(warm_start) else values * np.float32(scale / D), rows.dtype)
        waiting.append(new_array(folder / f"columns-{columns.start}.npy", rows.dtype, rows.shape) if folder else target[:, columns])
        if any(warm_start):
            smooth(indptr, contexts, rows, (0, *warm_start), waiting[-1], scale * np.sqrt(rows.shape[1] / D))
        else:
            waiting[-1][:] = rows
        del rows  # before the next ones are made
    for piece in pieces(N):  # only now are the contexts touched: memory for them may be taken late
        if folder:
            target[piece] = np.concatenate([values[piece] for values in waiting], axis=1)
        context[piece] = target[piece] if any(warm_start) else 0
    for path in folder.glob("columns-*.npy") if folder else ():
        path.unlink()


def smooth_trained(indptr: np.ndarray, contexts: np.ndarray, rows, reach: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Trained rows with a longer reach: the normalised sum of 0 to `reach` smoothing steps, as (columns, float32 (N, width)) blocks.

    rows: anything that reads as float (N, D), perhaps memory-mapped; indptr, contexts: the training pairs by target. FAR_POWER: lengths."""
    # A paper without pairs keeps about its row's direction if it has one, and a row of zeros otherwise
    (N, D), degree = rows.shape, np.diff(indptr)[:, None].astype(np.float32)
    sizes = np.maximum(degree, 1) ** np.float32(FAR_POWER) / np.float32(np.sqrt(D))

    def centred(block):  # without what all rows share, which smoothing multiplies and tells of no topic, and what a row's columns share
        block = block - block.mean(axis=1, keepdims=True)
        return np.subtract(block, block.mean(axis=0, where=degree > 0, dtype=np.float64), out=block, where=degree > 0, casting="same_kind")

    for columns in progress(pieces(D, columns_at_a_time(N)), title=f"Reach {reach}", unit=" blocks"):
        block = centred(np.asarray(to_float32(rows[:, columns]), np.float32))  # a copy: `smooth` overwrites it
        block = centred(smooth(indptr, contexts, block, (1,) * (reach + 1), np.empty_like(block)))
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block) / block.shape[1])[:, None]
        yield columns, (block / np.maximum(lengths, 1e-12) + (degree > 0)) * sizes
