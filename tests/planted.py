"""A planted citation graph: topics in topics in topics, any number of papers, and citations held out, to train on and to ask about.

Papers lie in leaves of about LEAF papers, a cube root of all leaves forms a middle topic, and so do middle topics a large one. A paper
cites CITATIONS others on average: LEVELS of them from its leaf, its middle and its large topic, the rest from anywhere, each drawn by a
fitness of Pareto's law (the exponent FITNESS makes the top 1 % of papers hold about 14 % of the degree). Ids are in descending degree.
LEVELS was set so that averaging random rows over the graph scores as on the graph of the project's first measurements: MRR .44 where
those had .45 (N = 200,000), .575 where those had .60 (N = 2,150,127), with D = 128 and four steps of equal weight.

`python -m tests.planted [N]` prints what such a graph holds.
"""

import dataclasses
import sys
import time

import numba
import numpy as np

from helpers.pairs.noise import alias_table

LEAF = 120  # papers
CITATIONS = 8
LEVELS = (0.55, 0.23, 0.12)  # of leaf, middle, large topic; the other 10 % go anywhere
FITNESS = 1.16
RETRIES = 4  # a citation that repeats another of its paper is drawn again, so many times


@dataclasses.dataclass(frozen=True)
class Planted:
    """Training pairs of a planted graph, with the fields of helpers.pairs.build.Pairs that training and evaluation read."""

    indptr: np.ndarray  # int64 (N+1,)
    contexts: np.ndarray  # int32 (P,), ascending within a target
    heldout: np.ndarray  # int32 (n, 2), citing and cited, in no pair of either direction
    validation: np.ndarray  # int32 (m, 2), likewise, none of them in heldout: for choosing settings
    noise: np.ndarray  # helpers.pairs.noise.ALIAS (N,)
    leaf: np.ndarray  # int32 (N,), the leaf of each paper
    papers: int  # N

    def with_noise(self, power: float) -> "Planted":
        """The same pairs with negatives drawn by degree ** power."""
        return dataclasses.replace(self, noise=alias_table(np.diff(self.indptr), power))


def planted(
    N: int, seed: int = 0, heldout: int = 10_000, validation: int = 10_000, noise_power: float = 0.75, citations: float = CITATIONS
) -> Planted:
    """The planted graph of N papers; heldout, validation: how many citations to hide (a tenth of all each at most)."""
    generator = np.random.default_rng(seed)
    citing, cited = planted_citations(N, generator, citations)
    degree = np.bincount(citing, minlength=N) + np.bincount(cited, minlength=N)
    order = np.argsort(-degree, kind="stable")
    number = np.empty(N, np.int32)
    number[order] = np.arange(N, dtype=np.int32)
    citing, cited = number[citing], number[cited]
    hidden = [min(heldout, len(citing) // 10), min(validation, len(citing) // 10)]
    first, second = hidden[0], sum(hidden)  # `_once` has shuffled the citations
    edges = np.stack([citing[:second], cited[:second]], axis=1)
    indptr, contexts = _both_directions(citing[second:], cited[second:], N)
    return Planted(
        indptr, contexts, edges[:first], edges[first:], alias_table(np.diff(indptr), noise_power), (order // LEAF).astype(np.int32), N
    )


def planted_citations(
    N: int, generator: np.random.Generator, citations: float = CITATIONS, tail: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(citing, cited) int32 (E,) each, shuffled, papers in the order of their topics: paper i lies in leaf i // LEAF.

    citations: how many a paper makes on average; tail: the shape of the gamma distribution that they spread by (the smaller, the more
    papers have few or none); None for Poisson's law.
    """
    fitness = np.concatenate([[0], np.cumsum(1 + generator.pareto(FITNESS, N))])
    made = generator.poisson(citations * (generator.gamma(tail, 1 / tail, N) if tail else np.ones(N))).astype(np.int32)
    citing, cited = np.repeat(np.arange(N, dtype=np.int32), made), np.empty(made.sum(), np.int32)
    _cite(fitness, np.concatenate([[0], np.cumsum(made)]), _topic_sizes(N), np.array(LEVELS), generator, cited)
    return _once(citing, cited, N, generator)


def degree_share(pairs: Planted, top: float = 0.01) -> float:
    """Share of all citations' ends that the top papers by degree hold (ids are in descending degree)."""
    return float(pairs.indptr[max(1, round(top * pairs.papers))] / pairs.indptr[-1])


def _topic_sizes(N: int) -> np.ndarray:
    """Papers in a leaf, a middle and a large topic, int64 (3,)."""
    branching = max(2, round((N / LEAF) ** (1 / 3)))
    return np.array([LEAF, LEAF * branching, LEAF * branching**2])


@numba.njit(cache=True)
def _cite(fitness, first, topic_sizes, levels, generator, cited):
    """Fill cited int32 (E,): citations first[i]..first[i + 1] are those of paper i. fitness: float64 (N+1,) summed up, 0 at the start."""
    N = len(fitness) - 1
    for paper in range(N):
        for place in range(first[paper], first[paper + 1]):
            for _ in range(1 + RETRIES):
                level, left = 0, generator.random()
                while level < len(levels) and left >= levels[level]:
                    left -= levels[level]
                    level += 1
                low, high = 0, N
                if level < len(levels):
                    low = paper // topic_sizes[level] * topic_sizes[level]
                    high = min(N, low + topic_sizes[level])
                wanted = fitness[low] + generator.random() * (fitness[high] - fitness[low])
                while low + 1 < high:
                    middle = (low + high) // 2
                    if fitness[middle] <= wanted:
                        low = middle
                    else:
                        high = middle
                cited[place] = low
                if low != paper and not np.any(cited[first[paper] : place] == low):
                    break


def _once(citing: np.ndarray, cited: np.ndarray, N: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The citations shuffled, without those of a paper of itself and without doubles, of either direction; int32 (E,) each."""
    keys = _pack(citing, cited, N)
    keys.sort()
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:] >> 1, keys[:-1] >> 1, out=first[1:])
    keys = keys[first & (keys >= 0)]
    generator.shuffle(keys)
    return _unpack(keys, N)


@numba.njit(cache=True)
def _pack(citing, cited, N):
    """Keys int64 (E,): lesser id, greater id, and in the lowest bit whether the lesser cites the greater; -1 for a citation of itself."""
    keys = np.empty(len(citing), np.int64)
    for i in range(len(keys)):
        a, b = np.int64(citing[i]), np.int64(cited[i])
        keys[i] = 2 * (min(a, b) * N + max(a, b)) + (a < b) if a != b else -1
    return keys


@numba.njit(cache=True)
def _unpack(keys, N):
    citing, cited = np.empty(len(keys), np.int32), np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        low, high = keys[i] // 2 // N, keys[i] // 2 % N
        citing[i], cited[i] = (low, high) if keys[i] % 2 else (high, low)
    return citing, cited


def _both_directions(citing: np.ndarray, cited: np.ndarray, N: int) -> tuple[np.ndarray, np.ndarray]:
    """(indptr int64 (N+1,), contexts int32 (P,)): both directions of the citations as CSR by target, contexts ascending."""
    E, keys = len(citing), np.empty(2 * len(citing), np.int64)
    for part, targets, contexts in ((keys[:E], citing, cited), (keys[E:], cited, citing)):
        np.multiply(targets, N, out=part, dtype=np.int64)
        part += contexts
    keys.sort()
    indptr = np.concatenate([[0], np.cumsum(np.bincount(citing, minlength=N) + np.bincount(cited, minlength=N))])
    keys %= N
    return indptr, keys.astype(np.int32)


if __name__ == "__main__":
    N, start = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000, time.perf_counter()
    pairs = planted(N)
    degree = np.diff(pairs.indptr)
    hidden = f"{len(pairs.heldout):,} + {len(pairs.validation):,} citations held out"
    print(f"{N:,} papers, {len(pairs.contexts):,} training pairs, {hidden}; {time.perf_counter() - start:.1f} s")
    print(f"degree {degree.mean():.1f} on average, {degree.max():,} at most, {(degree == 0).sum():,} of 0")
    print(f"top 1 % of papers hold {degree_share(pairs):.1%} of the degree, the top 10 % {degree_share(pairs, 0.1):.1%}")
    assert 0.12 < degree_share(pairs) < 0.16
    assert np.all(np.diff(pairs.contexts)[np.setdiff1d(np.arange(len(pairs.contexts) - 1), pairs.indptr[1:-1] - 1)] > 0)
