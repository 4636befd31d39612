"""What vectors know of topics: neighbours and classes by labels that are known, and what another run's vectors agree with."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from helpers.errors import UserError
from helpers.neighbors.search import nearest, normalised

FEWEST = 20  # papers of a label
MOST_ASKED = 2000  # papers whose neighbours are looked at
MOST_TAUGHT = 10_000  # papers that a classifier is taught by and tried on
DECAYS = tuple(10.0**power for power in range(-6, 1))  # weight decays tried on the validation papers


def labels_of(papers: pa.Table) -> tuple[np.ndarray, list[str]]:
    """(label of each paper, int64 (N,), -1 for none; names): the first of its `fields`, where FEWEST papers have it."""
    labels = np.full(len(papers), -1)
    if "fields" not in papers.column_names:
        return labels, []
    lists = papers["fields"].combine_chunks()
    holders, first = np.unique(pc.list_parent_indices(lists).to_numpy(), return_index=True)
    encoded = pc.list_flatten(lists).take(pa.array(first)).dictionary_encode()
    codes = encoded.indices.to_numpy()
    kept = np.bincount(codes, minlength=len(encoded.dictionary)) >= FEWEST
    labels[holders] = np.where(kept, np.cumsum(kept) - 1, -1)[codes]
    return labels, encoded.dictionary.filter(pa.array(kept)).to_pylist()


def topic_scores(vectors: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """`same_label` and `classification`, MOST_TAUGHT labelled papers cut into half, a tenth and four tenths; {} for one label."""
    known = np.random.default_rng(seed).permutation(np.flatnonzero(labels >= 0))[:MOST_TAUGHT]
    if len(known) < 3 * FEWEST or labels.max() < 1:
        return {}
    parts = np.split(known, [len(known) // 2, len(known) * 6 // 10])
    return same_label(vectors, labels, seed=seed) | classification(vectors, labels, *parts)


def same_label(vectors: np.ndarray, labels: np.ndarray, k: int = 10, seed: int = 0) -> dict[str, float]:
    """Of the k nearest labelled papers by cosine, the share with the paper's own label: mean of MOST_ASKED papers, beside chance."""
    # vectors: float (N, D); labels: int (N,), -1 for none. UserError where fewer than k have one
    known = np.flatnonzero(labels >= 0)
    asked = np.sort(np.random.default_rng(seed).permutation(known)[:MOST_ASKED])
    rows, _ = nearest(vectors, asked, k, labels >= 0)
    shares = np.bincount(labels[known]) / len(known)
    return {"same label": float((labels[rows] == labels[asked, None]).mean()), "chance": float((shares**2).sum())}


def classification(vectors: np.ndarray, labels: np.ndarray, train, validation, test) -> dict[str, float]:
    """Accuracy on `test` (rows, int) of logistic regression on vectors of length 1, beside always the commonest label; from 0 to 1.

    vectors: float (N, D); labels: int64 (N,); the weight decay, of DECAYS, is the one that is best on `validation`.
    """
    parts = [torch.from_numpy(normalised(vectors[rows]).astype(np.float64)) for rows in (train, validation, test)]
    answers = [torch.from_numpy(labels[rows]) for rows in (train, validation, test)]
    best = (-1.0, 0.0)
    for decay in DECAYS:
        weights = _logistic_regression(parts[0], answers[0], decay, int(labels.max()) + 1)
        guesses = [(part @ weights[:-1] + weights[-1]).argmax(dim=1) for part in parts[1:]]
        right = [float((guess == of).double().mean()) for guess, of in zip(guesses, answers[1:], strict=True)]
        best = max(best, tuple(right), key=lambda pair: pair[0])
    return {"accuracy": best[1], "commonest label": float((answers[2] == answers[0].mode().values).double().mean())}


def _logistic_regression(features: torch.Tensor, labels: torch.Tensor, decay: float, classes: int) -> torch.Tensor:
    # (D + 1, classes), the last row the bias: least mean cross entropy + decay / 2 x squared weights; features: float64 (n, D)
    weights = torch.zeros(features.shape[1] + 1, classes, dtype=features.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(features @ weights[:-1] + weights[-1], labels) + decay / 2 * (weights[:-1] ** 2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


def agreement(first: np.ndarray, second: np.ndarray, k: int = 10, seed: int = 0) -> float:
    """The share of a paper's k nearest that two tables agree on, mean of MOST_ASKED papers: two seeds of one training say how far to trust.

    first, second: float (N, D1) and (N, D2), the same papers in the same rows; UserError where there are more of one.
    """
    if len(first) != len(second):
        raise UserError(f"{len(first):,} papers cannot be compared with {len(second):,}: both runs must be of the same corpus.")
    asked = np.sort(np.random.default_rng(seed).permutation(len(first))[:MOST_ASKED])
    rows = [nearest(vectors, asked, k)[0] for vectors in (first, second)]
    return float(np.mean([len(np.intersect1d(*of_one)) / k for of_one in zip(*rows, strict=True)]))
