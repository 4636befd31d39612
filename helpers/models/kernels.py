"""SGNS on CPU cores: numba kernels that equal the plain model step by step, and touch memory as little as they can."""

# A *step* is one target with some of its contexts and K negatives for each, MOST_TERMS rows at most. All gradients of a step are taken
# before any row changes and are summed by row, so a step is a batch of the plain model, duplicates included. What makes it fast: the
# target's row is held locally; the ids of coming terms lie in one sequence, so their rows are prefetched AHEAD of use; rows of bfloat16
# move half the bytes; threads share the tables without locks (Hogwild, Niu et al. 2011).

import numba
import numpy as np

from helpers.models.simd import add_row, dot_row, train_row
from helpers.prefetch import prefetch, prefetch_row

MOST_TERMS = 96  # 16 contexts at K = 5: their rows stay in the nearest caches while gradients are taken and applied
AHEAD = 16  # rows prefetched ahead: a random row costs a cache miss per 64 bytes
NOISE_WORDS = 1 << 11  # random words for stochastic rounding, for each row from another place on
WORD_STEP = 1301  # how far the places lie apart


@numba.njit(inline="always")
def _sigmoid(x):
    # The logistic function to 5e-5, without a branch: tanh's continued fraction (Lambert); 0 or 1 beyond +-9.9
    y = min(max(x * np.float32(0.5), np.float32(-4.97)), np.float32(4.97))
    s = y * y
    upper = y * (np.float32(135135) + s * (np.float32(17325) + s * (np.float32(378) + s)))
    lower = np.float32(135135) + s * (np.float32(62370) + s * (np.float32(3150) + s * np.float32(28)))
    return np.float32(0.5) + np.float32(0.5) * upper / lower


def room(pairs: int, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buffers (step_targets, step_contexts, terms) for that many pairs, to be used again and again: fresh pages cost more than the work."""
    return np.empty(pairs, np.int32), np.empty(pairs, np.int32), np.zeros(pairs * (1 + K), np.int32)


@numba.njit(nogil=True, cache=True)
def lay_out(targets, indptr, contexts, K, noise, key, step_targets, step_contexts, terms):
    """Lay out the steps of these targets, in the order given, in buffers that `room` made; returns how many steps.

    A step's terms are its contexts, then K negatives each from the alias table `noise`, by random numbers from `key` uint64 on.
    targets, contexts (P,): int32, indptr: int64 (N+1,); filled, int32: step_targets, step_contexts (how many), terms (of all steps)."""
    most, N = max(1, MOST_TERMS // (1 + K)), np.uint64(len(noise))
    step, place, noise_base, random = 0, 0, noise.ctypes.data, np.uint64(key)
    chances = np.empty(most * K, np.uint32)
    for t in targets:
        for first in range(indptr[t], indptr[t + 1], most):
            count = min(most, indptr[t + 1] - first)
            step_targets[step], step_contexts[step] = t, count
            step += 1
            for p in range(first, first + count):
                terms[place] = contexts[p]
                place += 1
            for k in range(place, place + count * K):  # a linear congruential generator (Knuth's MMIX): its upper half picks the paper
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                paper = ((random >> np.uint64(32)) * N) >> np.uint64(32)
                terms[k], chances[k - place] = paper, np.uint32(random) ^ np.uint32(random >> np.uint64(32))
                prefetch(noise_base + np.int64(paper) * 8)
            for k in range(place, place + count * K):
                drawn = noise[terms[k]]
                above = np.int64(chances[k - place]) - np.int64(drawn.threshold * 2.0**32)
                keep = above >> 63  # all bits or none: no branch to guess wrong
                terms[k] = drawn.alias ^ ((drawn.alias ^ terms[k]) & keep)
            place += count * K
    return step


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def train_steps(steps, step_targets, step_contexts, terms, K, target, context, target_sums, context_sums, adagrad, rate, words):
    """Train the steps that `lay_out` gave, in sequence, in place.

    target, context: float32 (N, D), or uint16 (N, D) bits of bfloat16; target_sums, context_sums: float32 (N,), row-wise Adagrad's state,
    or float32 (0,) for SGD; rate: float32; words: uint32 (NOISE_WORDS + D,), random numbers below 2**16 for rounding."""
    D, row_bytes, like = target.shape[1], target.shape[1] * target.itemsize, target[0, 0]
    target_base, context_base, sums_base = target.ctypes.data, context.ctypes.data, context_sums.ctypes.data
    h, gradient = np.empty(D, np.float32), np.empty(D, np.float32)
    most = max(1, MOST_TERMS // (1 + K)) * (1 + K)
    size = 1 << np.int64(np.ceil(np.log2(8 * most)))
    first_term = np.full(size, -1, np.int32)  # open addressing by id: which row of the step it is
    dots, slots = np.empty(most, np.float32), np.empty(most, np.int64)
    rows, row_g = np.empty(most, np.int64), np.empty(most, np.float32)
    place, word = 0, np.int64(0)
    for step in range(steps):
        t, positives = np.int64(step_targets[step]), step_contexts[step]
        count = positives * (1 + K)
        if step + 2 < steps:
            prefetch_row(target_base, step_targets[step + 2], row_bytes)
        h[:], gradient[:] = 0, 0
        add_row(target_base + t * row_bytes, like, D, h.ctypes.data)
        h_square = dot_row(h.ctypes.data, h.ctypes.data, np.float32(0), D) / np.float32(D)
        for i in range(count):  # what the model says now
            if place + i + AHEAD < len(terms):
                prefetch_row(context_base, terms[place + i + AHEAD], row_bytes)
                if adagrad:
                    prefetch(sums_base + np.int64(terms[place + i + AHEAD]) * 4)
            dots[i] = dot_row(h.ctypes.data, context_base + terms[place + i] * row_bytes, like, D)
        for i in range(count):  # the loss's gradient by the dot product, with its sign turned
            dots[i] = np.float32(i < positives) - _sigmoid(dots[i])
        U = 0
        for i in range(count):  # a row that comes twice has the sum of its gradients
            c = terms[place + i]
            slot = np.int64((np.uint32(c) * np.uint32(2654435769)) & np.uint32(size - 1))
            while first_term[slot] >= 0 and rows[first_term[slot]] != c:
                slot = (slot + 1) & (size - 1)
            if first_term[slot] < 0:
                first_term[slot], slots[U], rows[U], row_g[U] = U, slot, c, dots[i]
                U += 1
            else:
                row_g[first_term[slot]] += dots[i]
        for u in range(U):
            first_term[slots[u]] = -1
            g = row_g[u]
            dots[u] = rate * g
            if adagrad:
                total = context_sums[rows[u]] + g * g * h_square
                context_sums[rows[u]] = total
                dots[u] /= np.sqrt(total)
        for u in range(U):
            word = (word + WORD_STEP) & (NOISE_WORDS - 1)
            row, random = context_base + rows[u] * row_bytes, words.ctypes.data + 4 * word
            train_row(h.ctypes.data, row, like, D, row_g[u], gradient.ctypes.data, dots[u], random)
        length = rate
        if adagrad:
            target_sums[t] += dot_row(gradient.ctypes.data, gradient.ctypes.data, np.float32(0), D) / np.float32(D)
            length /= np.sqrt(target_sums[t])
        word = (word + WORD_STEP) & (NOISE_WORDS - 1)
        row, random = target_base + t * row_bytes, words.ctypes.data + 4 * word
        train_row(gradient.ctypes.data, row, like, D, np.float32(0), h.ctypes.data, length, random)
        place += count
