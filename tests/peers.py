"""What the benchmarks compare training with: gensim's Word2Vec at its fastest, and torch's sparse embeddings, on the same pairs.

gensim is fed sentences of two words, one a citation: with window 1 it trains both directions, so a pass over the sentences is one over
the pairs. Sentences are lists made before the clock starts (gensim's own corpus_file mode is as fast, but its word counts are not exact).
Rates are pairs per second if two cores were free: 2 x pairs / CPU-seconds, Python's share of the work included.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec
from scipy.sparse.linalg import svds

from helpers.models.sgns import PlainSGNS
from helpers.pairs.noise import draw

WORKERS = 2
OnEpoch = Callable[[int, float, np.ndarray, np.ndarray], None]  # (epoch from 1, CPU-seconds so far, target, context)


@dataclasses.dataclass(frozen=True)
class Rate:
    """Pairs a second by the CPU clock, as if two cores were free, and by the wall clock; how many pairs the clock saw."""

    cpu: float
    wall: float
    pairs: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """Tables float32 (N, D) in the order of our ids (0 for a paper without training pairs) and the CPU-seconds of each epoch."""

    target: np.ndarray
    context: np.ndarray
    epoch_seconds: list[float]


def clocks() -> np.ndarray:
    """(CPU-seconds of this process with all its threads, wall seconds), float64 (2,)."""
    return np.array([time.process_time(), time.perf_counter()])


def citations(pairs, generator: np.random.Generator) -> np.ndarray:
    """The training citations int32 (E, 2), each once, shuffled. pairs: anything with indptr and contexts of both directions."""
    targets = np.repeat(np.arange(len(pairs.indptr) - 1, dtype=np.int32), np.diff(pairs.indptr))
    once = targets < pairs.contexts
    return generator.permutation(np.stack([targets[once], pairs.contexts[once]], axis=1))


def sentences(citations: np.ndarray) -> list[list[str]]:
    """Citations int32 (n, 2) as sentences of two words; the strings of a paper are one object."""
    used, places = np.unique(citations, return_inverse=True)
    words = np.array([str(paper) for paper in used.tolist()], object)[places.reshape(citations.shape)]
    return words.tolist()


def gensim_model(
    pairs, D: int, negatives: int = 5, alpha: float = 0.25, initial_scale: float = 1, noise_power: float = 0.75, seed: int = 0
) -> Word2Vec:
    """A model with its vocabulary, not trained: words are our ids, in our order; papers without training pairs are left out."""
    degree = np.diff(pairs.indptr)
    model = Word2Vec(
        vector_size=D, window=1, sg=1, hs=0, negative=negatives, ns_exponent=noise_power, sample=0, min_count=1, sorted_vocab=0,
        alpha=alpha, min_alpha=alpha / 10, workers=WORKERS, seed=seed + 1,
    )  # fmt: skip
    model.build_vocab_from_freq({str(paper): int(degree[paper]) for paper in np.flatnonzero(degree)})
    model.wv.vectors *= np.float32(initial_scale)
    return model


def train_checked(model: Word2Vec, corpus: list[list[str]], epochs: int = 1, callbacks=()) -> None:
    """model.train, and RuntimeError where it did not train on every word: gensim drops words in silence."""
    raw, trained = model.train(corpus, total_examples=len(corpus), epochs=epochs, callbacks=callbacks)[::-1]
    if not raw == trained == 2 * len(corpus) * epochs:
        raise RuntimeError(f"gensim was given {2 * len(corpus) * epochs:,} words, read {raw:,} and trained on {trained:,}")


def gensim_rate(pairs, D: int, negatives: int = 5, noise_power: float = 0.75, fed: tuple[int, int] = (100_000, 600_000)) -> Rate:
    """gensim's marginal rate: train() pays a fixed cost a call, so the time of `fed[0]` sentences is taken from that of `fed[1]`."""
    model = gensim_model(pairs, D, negatives, noise_power=noise_power)
    every = citations(pairs, np.random.default_rng(0))
    few, many = (sentences(every[:size]) for size in fed)
    train_checked(model, few)  # the first call also touches fresh memory
    times = []
    for corpus in (few, many):
        start = clocks()
        train_checked(model, corpus)
        times.append(clocks() - start)
    cpu, wall = times[1] - times[0]
    marginal = 2 * (len(many) - len(few))
    return Rate(2 * marginal / cpu, marginal / wall, marginal)


class _EachEpoch(CallbackAny2Vec):
    """Notes the CPU-seconds of each epoch and hands out the tables; the time that `on_epoch` takes does not count."""

    def __init__(self, tables: Callable, on_epoch: OnEpoch | None):
        self.tables, self.on_epoch, self.seconds = tables, on_epoch, []

    def on_train_begin(self, model):
        self.start = time.process_time()

    def on_epoch_end(self, model):
        self.seconds.append(time.process_time() - self.start)
        if self.on_epoch:
            self.on_epoch(len(self.seconds), sum(self.seconds), *self.tables(model))
        self.start = time.process_time()


def gensim_train(
    pairs,
    D: int,
    epochs: int = 5,
    alpha: float = 0.25,
    initial_scale: float = 1,
    noise_power: float = 0.75,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    negatives: int = 5,
) -> Trained:
    """gensim trained for some epochs, its rate falling linearly from alpha to a tenth; the clock sees train() alone, not the vocabulary."""
    model = gensim_model(pairs, D, negatives, alpha, initial_scale, noise_power, seed)
    known, N = np.flatnonzero(np.diff(pairs.indptr)), len(pairs.indptr) - 1

    def tables(model):
        found = np.zeros((2, N, D), np.float32)
        found[0, known], found[1, known] = model.wv.vectors, model.syn1neg
        return found

    clock = _EachEpoch(tables, on_epoch)
    train_checked(model, sentences(citations(pairs, np.random.default_rng(seed))), epochs, [clock])
    return Trained(*tables(model), clock.seconds)


def sppmi_svd(pairs, D: int) -> tuple[np.ndarray, np.ndarray]:
    """(target, context) float32 (N, D): the truncated SVD of the pairs' positive pointwise mutual information, sqrt(S) on either side.

    Levy and Goldberg 2014, for one negative a pair drawn by degree: ln(pairs / (d x e)), 0 where there is no pair or that is negative.
    """
    degree, N = np.diff(pairs.indptr), len(pairs.indptr) - 1
    ends = np.repeat(np.arange(N), degree), np.asarray(pairs.contexts)
    information = np.log(len(pairs.contexts) / (degree[ends[0]].astype(np.float64) * degree[ends[1]]))
    matrix = sp.csr_matrix((np.maximum(information, 0), ends), shape=(N, N))
    U, S, V = svds(matrix, k=D, random_state=0)
    return (U * np.sqrt(S)).astype(np.float32), (V.T * np.sqrt(S)).astype(np.float32)


TORCH_OPTIMISERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.25),
    "SparseAdam": lambda parameters: torch.optim.SparseAdam(parameters, lr=0.001),
}


class SparseSGNS(PlainSGNS):
    """The plain model with sparse gradients: torch's own way to train large embeddings."""

    def __init__(self, N: int, D: int):
        super().__init__(torch.rand(N, D).sub_(0.5).div_(D), torch.zeros(N, D))
        self.target.sparse = self.context.sparse = True


def torch_rate(pairs, D: int, optimiser: str, negatives: int = 5, batch_pairs: int = 4096, batches: int = 12) -> Rate:
    """Rate of torch's `nn.Embedding(sparse=True)` with an optimiser of TORCH_OPTIMISERS; negatives are drawn before the clock starts."""
    generator, B = np.random.default_rng(0), batch_pairs
    model = SparseSGNS(len(pairs.indptr) - 1, D)
    steps = TORCH_OPTIMISERS[optimiser](list(model.parameters()))
    drawn = []
    for _ in range(batches + 2):
        places = generator.integers(0, len(pairs.contexts), B)
        targets = np.searchsorted(pairs.indptr, places, side="right") - 1
        ids = targets, pairs.contexts[places].astype(np.int64), draw(pairs.noise, (B, negatives), generator)
        drawn.append([torch.from_numpy(part) for part in ids])
    for step, batch in enumerate(drawn):
        if step == 2:  # the first two warm up
            start = clocks()
        steps.zero_grad()
        model(*batch).backward()
        steps.step()
    cpu, wall = clocks() - start
    return Rate(2 * B * batches / cpu, B * batches / wall, B * batches)
