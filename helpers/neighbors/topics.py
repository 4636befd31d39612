"""What vectors know of topics: neighbours and classes by labels that are known, and what another run's vectors agree with."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression

from helpers.errors import UserError
from helpers.neighbors.search import nearest, normalised

FEWEST = 20  # papers of a label
MOST_ASKED = 2000  # papers whose neighbours are looked at
MOST_TAUGHT = 10_000  # papers that a classifier is taught by and tried on
DECAYS = tuple(10.0**power for power in range(-6, 1))  # weight decays, of mean cross entropy, tried on the validation papers


def labels_of(papers: pa.Table, fewest: int = FEWEST) -> tuple[np.ndarray, list[str]]:
    """(label of each paper, int64 (N,), -1 for none; names): the first of its `fields`, where so many papers have it, commonest first."""
    labels = np.full(len(papers), -1)
    if "fields" not in papers.column_names:
        return labels, []
    lists = papers["fields"].combine_chunks()
    holders, first = np.unique(pc.list_parent_indices(lists).to_numpy(), return_index=True)
    encoded = pc.list_flatten(lists).take(pa.array(first)).dictionary_encode()
    codes, counts = encoded.indices.to_numpy(), np.bincount(encoded.indices, minlength=len(encoded.dictionary))
    order = np.argsort(-counts, kind="stable")
    labels[holders] = np.where(counts >= fewest, np.argsort(order), -1)[codes]
    return labels, encoded.dictionary.take(order[: (counts >= fewest).sum()]).to_pylist()


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
    parts, found = [(normalised(vectors[rows]), labels[rows]) for rows in (train, validation, test)], []
    for decay in DECAYS:
        model = LogisticRegression(C=1 / (decay * len(train)), solver="newton-cg", max_iter=1000).fit(*parts[0])
        found.append([model.score(*part) for part in parts[1:]])
    commonest = np.bincount(labels[train]).argmax()
    return {"accuracy": max(found, key=lambda pair: pair[0])[1], "commonest label": float((labels[test] == commonest).mean())}


def agreement(first: np.ndarray, second: np.ndarray, k: int = 10, seed: int = 0) -> float:
    """The share of a paper's k nearest that two tables agree on, mean of MOST_ASKED papers: two seeds of one training say how far to trust.

    first, second: float (N, D1) and (N, D2), the same papers in the same rows; UserError where there are more of one.
    """
    if len(first) != len(second):
        raise UserError(f"{len(first):,} papers cannot be compared with {len(second):,}: both runs must be of the same corpus.")
    asked = np.sort(np.random.default_rng(seed).permutation(len(first))[:MOST_ASKED])
    rows = [nearest(vectors, asked, k)[0] for vectors in (first, second)]
    return float(np.mean([len(np.intersect1d(*of_one)) / k for of_one in zip(*rows, strict=True)]))
