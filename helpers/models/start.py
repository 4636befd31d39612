"""The tables that training starts from.

Warm (the default): random rows averaged a few times over the citation graph, so that papers which cite or are cited together start
close. A cold SGNS needs many epochs to get there, the more the larger the graph. Published relatives: RandNE (Zhang et al. 2018),
FastRP (Chen et al. 2019), ProNE (Zhang et al. 2019). Cold: word2vec's uniform target rows and zero context rows.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

THREADS = 2  # Colab's free runtime has two cores
LEAF_WEIGHT = 0.05  # a context of one paper alone ties it to no other: it counts only where there is nothing else


@numba.njit(nogil=True, fastmath=True, cache=True)
def _smoothing_step(indptr, contexts, context_weights, rows, out, total, weight, first, last):
    """out[t] = normalised sum of context_weights[c] * rows[c] over the contexts c of t; total[t] += weight * out[t]; t in first..last.

    rows, out, total: float32 (N, D). A target without contexts gets 0.
    """
    D = rows.shape[1]
    for t in range(first, last):
        out[t] = 0
        for p in range(indptr[t], indptr[t + 1]):
            c = contexts[p]
            for j in range(D):
                out[t, j] += context_weights[c] * rows[c, j]
        _normalise(out, t)
        for j in range(D):
            total[t, j] += weight * out[t, j]


@numba.njit(nogil=True, fastmath=True, cache=True, inline="always")
def _normalise(rows, t):
    """rows[t] /= |rows[t]|; a row of length 0 stays."""
    square = np.float32(0)
    for j in range(rows.shape[1]):
        square += rows[t, j] * rows[t, j]
    if square > 0:
        scale = np.float32(1 / np.sqrt(square))
        for j in range(rows.shape[1]):
            rows[t, j] *= scale


@numba.njit(nogil=True, fastmath=True, cache=True)
def _normalise_rows(rows, first, last):
    for t in range(first, last):
        _normalise(rows, t)


def smooth(indptr: np.ndarray, contexts: np.ndarray, rows: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Weighted sum of the rows after k = 0, 1, ... smoothing steps, normalised; a step replaces each row by the sum of its contexts' rows.

    Rows are normalised at each step and summed with weights max(1 - 1/d, LEAF_WEIGHT) of the context's degree d.
    indptr: int64 (N+1,), contexts: int32 (P,); rows: float32 (N, D), overwritten; weights: one for each k. Returns float32 (N, D).
    """
    N, degree = len(rows), np.maximum(np.diff(indptr), 1)
    context_weights = np.maximum(1 - 1 / degree, LEAF_WEIGHT).astype(np.float32)
    middle = np.searchsorted(indptr, np.linspace(0, len(contexts), THREADS + 1)[1:-1])  # an equal share of the pairs a thread
    bounds = [0, *np.minimum(middle, N).tolist(), N]
    with ThreadPoolExecutor(THREADS) as pool:

        def run(kernel, *arguments):
            list(pool.map(lambda first, last: kernel(*arguments, first, last), bounds[:-1], bounds[1:]))

        run(_normalise_rows, rows)
        total, out = rows * np.float32(weights[0]), np.empty_like(rows)
        for weight in weights[1:]:
            run(_smoothing_step, indptr, contexts, context_weights, rows, out, total, np.float32(weight))
            rows, out = out, rows
        run(_normalise_rows, total)
    return total


def start_tables(indptr: np.ndarray, contexts: np.ndarray, D: int, warm_start: tuple[float, ...], generator: np.random.Generator):
    """(target, context) rows to start from, float32 (N, D) each. warm_start: weights of 1, 2, ... smoothing steps, () for a cold start."""
    N = len(indptr) - 1
    if not any(warm_start):
        return (generator.random((N, D), dtype=np.float32) - 0.5) / D, np.zeros((N, D), np.float32)
    target = smooth(indptr, contexts, generator.standard_normal((N, D), dtype=np.float32), (0, *warm_start))
    return target, target.copy()
