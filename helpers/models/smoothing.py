"""Smoothing over the citation graph: where training starts, and how far the trained vectors reach.

A step replaces each row by the sum of its contexts' rows, normalised. Random rows smoothed a few times are the tables that training
starts from (warm, the default): papers which cite or are cited together start close. A cold SGNS needs many epochs to get there, the
more the larger the graph. Published relatives: RandNE (Zhang et al. 2018), FastRP (Chen et al. 2019), ProNE (Zhang et al. 2019).
Trained rows smoothed afterwards (`smooth_trained`) tell of wider topics: 0 steps find missing references, 16 to 32 map fields. Columns are
smoothed in blocks, each as a table of its own: memory stays bounded, and lengths in a block of random directions stand for the rows'.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from helpers.memory import columns_at_a_time
from helpers.prefetch import prefetch_row
from helpers.rows.bfloat16 import rounded, to_float32

THREADS = os.cpu_count() or 1  # what comes out does not depend on it
LEAF_WEIGHT = 0.05  # a context of one paper alone ties it to no other: it counts only where there is nothing else
HUB_POWER = 0.5  # what cites, or is cited by, everything says little of each
AHEAD = 16  # rows prefetched ahead
WARM_STARTS = {3: (1.0, 2.0, 1.0), 4: (0.0, 1.0, 1.0, 1.0), 5: (0.0, 1.0, 1.0, 1.0, 1.0)}


@numba.njit(nogil=True, fastmath=True, cache=True)
def _smoothing_step(indptr, contexts, context_weights, rows, out, total, weight, first, last):
    """total[t] += weight * s, out[t] = context_weights[t] * s, s the normalised sum of rows[c] over the contexts c of t; t in first..last.

    rows (already times their weights), out, total: float32 (N, D). A target without contexts gets 0.
    """
    D, P = rows.shape[1], len(contexts)
    base, row_bytes = rows.ctypes.data, rows.shape[1] * 4
    smoothed = np.empty(D, np.float32)
    for t in range(first, last):
        smoothed[:] = 0
        for p in range(indptr[t], indptr[t + 1]):
            if p + AHEAD < P:
                prefetch_row(base, contexts[p + AHEAD], row_bytes)
            c = contexts[p]
            for j in range(D):
                smoothed[j] += rows[c, j]
        scale = _inverse_length(smoothed)
        for j in range(D):
            value = smoothed[j] * scale
            total[t, j] += weight * value
            out[t, j] = context_weights[t] * value


@numba.njit(nogil=True, fastmath=True, cache=True, inline="always")
def _inverse_length(row):
    """1 / |row|, 0 for a row of length 0."""
    square = np.float32(0)
    for j in range(len(row)):
        square += row[j] * row[j]
    return np.float32(1 / np.sqrt(square)) if square > 0 else np.float32(0)


@numba.njit(nogil=True, fastmath=True, cache=True)
def _normalise(rows, total, weight, context_weights, first, last):
    """rows[t] to length context_weights[t], total[t] = weight * the row at length 1."""
    for t in range(first, last):
        scale = _inverse_length(rows[t])
        for j in range(rows.shape[1]):
            value = rows[t, j] * scale
            total[t, j] = weight * value
            rows[t, j] = context_weights[t] * value


def weigh(degree: np.ndarray) -> np.ndarray:
    """How much a context of this training degree d counts: max(1 - 1/d, LEAF_WEIGHT) / d ** HUB_POWER, float (N,)."""
    return np.maximum(1 - 1 / degree, LEAF_WEIGHT) / degree**HUB_POWER


def smooth(indptr: np.ndarray, contexts: np.ndarray, rows: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Weighted sum of the rows after k = 0, 1, ... smoothing steps, normalised; `weigh` says how much a context counts in a step.

    indptr: int64 (N+1,), contexts: int32 (P,); rows: float32 (N, D), overwritten; weights: one for each k. Returns float32 (N, D).
    """
    N, degree = len(rows), np.maximum(np.diff(indptr), 1)
    context_weights = weigh(degree).astype(np.float32)
    middle = np.searchsorted(indptr, np.linspace(0, len(contexts), THREADS + 1)[1:-1])  # an equal share of the pairs a thread
    bounds = [0, *np.minimum(middle, N).tolist(), N]
    with ThreadPoolExecutor(THREADS) as pool:

        def run(kernel, *arguments):
            list(pool.map(lambda first, last: kernel(*arguments, first, last), bounds[:-1], bounds[1:]))

        total, out = np.empty_like(rows), np.empty_like(rows)
        run(_normalise, rows, total, np.float32(weights[0]), context_weights)
        for weight in weights[1:]:
            run(_smoothing_step, indptr, contexts, context_weights, rows, out, total, np.float32(weight))
            rows, out = out, rows
        run(_normalise, total, total, np.float32(1), np.ones(N, np.float32))
    return total


def column_blocks(N: int, D: int) -> list[slice]:
    """How D columns of N rows are cut into blocks of bounded size: 16 to 64 columns each."""
    width = columns_at_a_time(N)
    return [slice(first, min(first + width, D)) for first in range(0, D, width)]


def choose_warm_start(N: int) -> tuple[float, ...]:
    """Weights of 1, 2, ... smoothing steps for N papers: 3 steps below 100,000, 4 below a million, 5 from there on.

    A rule found on four real sets and planted graphs (tests/benchmarks/RESULTS.md): deep smoothing helps large graphs and blurs small ones.
    """
    return WARM_STARTS[min(5, max(3, len(str(N)) - 2))]


def fill_start(indptr, contexts, target: np.ndarray, context: np.ndarray, warm_start, scale: float, generator: np.random.Generator) -> None:
    """Fill the tables that training starts from: warm, rows of length `scale` in both; cold, word2vec's (uniform targets, no contexts).

    indptr: int64 (N+1,), contexts: int32 (P,); target, context: (N, D) float32 or uint16 (bfloat16), perhaps memory-mapped;
    warm_start: weights of 1, 2, ... smoothing steps, None for those of `choose_warm_start`, () for a cold start.
    """
    N, D = target.shape
    warm_start = choose_warm_start(N) if warm_start is None else warm_start
    for columns in column_blocks(N, D):
        shape = (N, columns.stop - columns.start)
        if any(warm_start):
            rows = smooth(indptr, contexts, generator.standard_normal(shape, dtype=np.float32), (0, *warm_start))
            rows *= np.float32(scale * np.sqrt(shape[1] / D))
            context[:, columns] = rounded(rows, context.dtype)
        else:
            rows = (generator.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(scale / D)
            context[:, columns] = 0
        target[:, columns] = rounded(rows, target.dtype)


def smooth_trained(indptr: np.ndarray, contexts: np.ndarray, rows, reach: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Trained rows with a longer reach: the normalised sum of 0 to `reach` smoothing steps, as (columns, float32 (N, width)) blocks.

    The mean row is subtracted before and after: smoothing multiplies what all rows share, which tells of no topic.
    rows: anything that reads as float (N, D), perhaps memory-mapped; indptr, contexts: the training pairs by target. A paper without
    pairs keeps its row's direction if it has one, and a row of zeros otherwise.
    """
    N, D = rows.shape
    paired = np.diff(indptr)[:, None] > 0

    def centre(block):
        np.subtract(block, block.mean(axis=0, where=paired, dtype=np.float64), out=block, where=paired, casting="same_kind")

    for columns in column_blocks(N, D):
        block = np.array(to_float32(rows[:, columns]), np.float32, order="C")  # a copy: `smooth` overwrites it
        centre(block)
        block = smooth(indptr, contexts, block, (1,) * (reach + 1))
        centre(block)
        yield columns, block * np.float32(np.sqrt(block.shape[1] / D))
