"""What vectors know of topics: neighbours and classes by labels that are known, and what another run's vectors agree with."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegressionCV

from helpers.errors import UserError
from helpers.neighbors.search import nearest, normalised

FEWEST = 20  # papers of a label
MOST_ASKED = 2000  # papers whose neighbours are looked at
MOST_TAUGHT = 10_000  # papers that a classifier is taught by and tried on


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
    """`same_label` and `classification`, taught by one half of MOST_TAUGHT labelled papers, asked the other; {} for one label."""
    known = np.random.default_rng(seed).permutation(np.flatnonzero(labels >= 0))[:MOST_TAUGHT]
    if len(known) < 3 * FEWEST or labels.max() < 1:
        return {}
    return same_label(vectors, labels, seed=seed) | classification(vectors, labels, *np.array_split(known, 2))


def same_label(vectors: np.ndarray, labels: np.ndarray, k: int = 10, seed: int = 0) -> dict[str, float]:
    """Of the k nearest labelled papers by cosine, the share with the paper's own label: mean of MOST_ASKED papers, beside chance."""
    # vectors: float (N, D); labels: int (N,), -1 for none. UserError where fewer than k have one
    known = np.flatnonzero(labels >= 0)
    asked = np.sort(np.random.default_rng(seed).permutation(known)[:MOST_ASKED])
    rows, _ = nearest(vectors, asked, k, labels >= 0)
    shares = np.bincount(labels[known]) / len(known)
    return {"same label": float((labels[rows] == labels[asked, None]).mean()), "chance": float((shares**2).sum())}


def classification(vectors: np.ndarray, labels: np.ndarray, taught: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Accuracy on rows `asked` of logistic regression on vectors of length 1, beside always the commonest label; from 0 to 1.

    vectors: float (N, D); labels: int64 (N,); taught, asked: rows, int (n,); the weight decay is chosen by cross-validation.
    """
    model = LogisticRegressionCV(Cs=5, cv=3, solver="newton-cg", max_iter=1000).fit(normalised(vectors[taught]), labels[taught])
    commonest = np.bincount(labels[taught]).argmax()
    right = {"accuracy": model.predict(normalised(vectors[asked])) == labels[asked], "commonest label": labels[asked] == commonest}
    return {name: float(of_all.mean()) for name, of_all in right.items()}


def agreement(first: np.ndarray, second: np.ndarray, k: int = 10, seed: int = 0) -> float:
    """The share of a paper's k nearest that two tables agree on, mean of MOST_ASKED papers: two seeds of one training say how far to trust.

    first, second: float (N, D1) and (N, D2), the same papers in the same rows; UserError where there are more of one.
    """
    if len(first) != len(second):
        raise UserError(f"{len(first):,} papers cannot be compared with {len(second):,}: both runs must be of the same corpus.")
    asked = np.sort(np.random.default_rng(seed).permutation(len(first))[:MOST_ASKED])
    rows = [nearest(vectors, asked, k)[0] for vectors in (first, second)]
    return float(np.mean([len(np.intersect1d(*of_one)) / k for of_one in zip(*rows, strict=True)]))
