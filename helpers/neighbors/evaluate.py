"""How good are vectors: do held-out citations rank high among 1,000 candidates, what do they know of topics, what do two runs agree on?"""

# Protocol: of each held-out citation (query, answer) the answer is ranked among CANDIDATES papers, half drawn uniformly from all papers,
# half by degree (as the ends of random training citations), with replacement, so that few papers come more than once; of LARGE graphs the
# candidates come from a pool that was drawn so. Candidates that are the query, the answer, or known neighbours of the query do not count.
# Ties count half. MRR is the mean of 1 / rank, hits@k the share of ranks up to k. The first half of the held-out citations is the
# validation split, on which a reading is chosen; the second half is the test split, which is reported.

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegressionCV

from helpers.errors import UserError
from helpers.neighbors.baselines import Scores, baselines, pip_loss
from helpers.neighbors.search import CHUNK_VALUES, SIMILARITIES, nearest, normalised, tables_of
from helpers.pairs.build import Pairs
from helpers.rows.files import pieces

CANDIDATES = 1000
MOST_QUERIES = 5000  # a split: more would narrow the interval by little and take minutes
LARGE, POOL = 1 << 20, 1 << 16  # of more papers, all candidates are drawn from 2 x POOL: a table on a disk is read for these alone
FEWEST = 20  # papers of a label
MOST_ASKED = 2000  # papers whose neighbours are looked at


def splits(heldout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(validation, test) halves of the held-out citations int32 (n, 2), at most MOST_QUERIES each."""
    return tuple(half[:MOST_QUERIES] for half in np.split(heldout, [len(heldout) // 2]))


class Questions:
    """Held-out citations (n, 2) with their candidates, drawn once from the seed, so that every score answers the same questions."""

    def __init__(self, pairs: Pairs, heldout: np.ndarray, seed: int = 0):
        generator = np.random.default_rng(seed)
        n, half = len(heldout), CANDIDATES // 2
        self.queries, self.answers = heldout[:, 0].astype(np.int64), heldout[:, 1].astype(np.int64)
        pool = POOL if pairs.papers > LARGE else n * half
        by_degree = np.asarray(pairs.contexts[np.sort(generator.integers(0, len(pairs.contexts), pool))])  # sorted: read once
        uniform = generator.integers(0, pairs.papers, (n, CANDIDATES - half))
        if pairs.papers > LARGE:
            by_degree = by_degree[generator.integers(0, pool, n * half)]
            uniform = generator.integers(0, pairs.papers, pool)[generator.integers(0, pool, uniform.shape)]
        self.candidates = np.concatenate([uniform, generator.permutation(by_degree).reshape(n, half)], axis=1).astype(np.int64)
        self.excluded = (self.candidates == self.queries[:, None]) | (self.candidates == self.answers[:, None])
        for query, papers, excluded in zip(self.queries, self.candidates, self.excluded, strict=True):
            excluded |= np.isin(papers, pairs.contexts[pairs.indptr[query] : pairs.indptr[query + 1]])

    def ranks(self, scores: Scores, values_per_paper: int = 1) -> dict[str, np.ndarray]:
        """The answers' ranks by each score, float64 (n,), from 1; `values_per_paper` bounds the memory of a chunk."""
        ranks = {}
        for chunk in pieces(len(self.queries), max(1, CHUNK_VALUES // ((CANDIDATES + 1) * values_per_paper))):
            papers = np.concatenate([self.answers[chunk, None], self.candidates[chunk]], axis=1)
            for name, of_papers in scores(self.queries[chunk], papers).items():
                candidates, answers = np.where(self.excluded[chunk], -np.inf, of_papers[:, 1:]), of_papers[:, :1]
                better, equal = (candidates > answers).sum(axis=1), (candidates == answers).sum(axis=1)
                ranks.setdefault(name, np.empty(len(self.queries)))[chunk] = 1 + better + 0.5 * equal
        return ranks

    def ranks_by_readings(self, target, context) -> dict[str, np.ndarray]:
        """The answers' ranks by each reading of two tables that read as float32 (N, D)."""
        return self.ranks(readings(target, context), target.shape[1])


def readings(target: np.ndarray, context: np.ndarray) -> Scores:
    """The ways to score pairs of papers from the two tables, float (N, D) each: search.SIMILARITIES."""
    tables = tables_of(target, context)

    def scores(queries, papers):
        asked, answers = ({name: table[rows] for name, table in tables.items()} for rows in (queries, papers))
        found = {}
        for name, parts in SIMILARITIES.items():
            found[name] = sum(np.matmul(answers[theirs], asked[own][:, :, None])[:, :, 0] for own, theirs in parts)
            if "cosine" in name:
                lengths = [np.linalg.norm(rows[parts[0][0]], axis=-1) for rows in (asked, answers)]
                found[name] /= np.maximum(lengths[0][:, None] * lengths[1], 1e-12)
        return found

    return scores


def summary(ranks: np.ndarray, seed: int = 0, resamples: int = 1000) -> dict:
    """MRR with its 95 % bootstrap interval (over questions) and hits@k of ranks float (n,), all between 0 and 1."""
    reciprocal, generator = 1 / ranks, np.random.default_rng(seed)
    means = [reciprocal[generator.integers(0, len(ranks), len(ranks))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    hits = {f"hits@{k}": float((ranks <= k).mean()) for k in (1, 10, 50)}
    return {"mrr": float(reciprocal.mean()), "mrr_low": float(low), "mrr_high": float(high), **hits}


def evaluate(pairs: Pairs, target: np.ndarray, context: np.ndarray, citations=None, seed: int = 0) -> dict:
    """Every reading of tables float32 (N, D), and baseline, on the test split, one chosen on validation; {} where nothing is held out.

    citations: (indptr, cited) by citing paper, for co-citation. Beside the scores: `pip_loss` of the targets."""
    validation, test = splits(pairs.heldout)
    if not len(validation):
        return {}
    of_validation, of_test = Questions(pairs, validation, seed), Questions(pairs, test, seed + 1)
    results = {"heldout": len(pairs.heldout), "validation": len(validation), "test": len(test), "candidates": CANDIDATES}
    results["test_with_an_untrained_end"] = int((np.diff(pairs.indptr)[test] == 0).any(axis=1).sum())
    ranked = {"readings": of_test.ranks_by_readings(target, context), "baselines": of_test.ranks(baselines(pairs, citations, seed=seed))}
    results |= {kind: {name: summary(ranks, seed) for name, ranks in scores.items()} for kind, scores in ranked.items()}
    for name, ranks in of_validation.ranks_by_readings(target, context).items():
        results["readings"][name]["validation_mrr"] = float((1 / ranks).mean())
    chosen = max(results["readings"], key=lambda name: results["readings"][name]["validation_mrr"])
    return {**results, "pip_loss": pip_loss(pairs, target), "chosen_reading": chosen, **results["readings"][chosen]}


def verdict(metrics: dict, epochs: int = 1) -> str:
    """Did it learn? In one sentence, from what `evaluate` returned; epochs: how many were trained."""
    if not metrics:
        return "Nothing was held out, so there is no score here; look at the neighbours."
    simple = {name: scores["mrr"] for name, scores in metrics["baselines"].items()}
    best, times = max(set(simple) - {"random"}, key=simple.get), metrics["mrr"] / max(simple["random"], simple["popularity"])
    learned = "It learned" if times >= 2 else "It did NOT learn (try more epochs, or look at the pairs in notebook 02)"
    learned = learned if epochs else "Nothing was trained (0 epochs), these are the tables that training starts from"
    interval = f"95 % interval {metrics['mrr_low']:.3f} to {metrics['mrr_high']:.3f}, of {metrics['test']:,} test citations"
    compared = f"{times:.0f} times that of random or popular papers; the best without training, {best}, {simple[best]:.3f}"
    return f"{learned}: held-out MRR {metrics['mrr']:.3f} ({interval}) read as {metrics['chosen_reading']}, {compared}."


def validation_scores(pairs: Pairs, most: int = 400, seed: int = 0) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """A function of (target, context) for the training loop: mrr, the best reading's on `most` validation citations, and pip_loss."""
    questions = Questions(pairs, splits(pairs.heldout)[0][:most], seed)

    def scores(target: np.ndarray, context: np.ndarray) -> dict[str, float]:
        mrrs = [float((1 / ranks).mean()) for ranks in questions.ranks_by_readings(target, context).values()]
        return {"pip_loss": pip_loss(pairs, target)} | ({"mrr": max(mrrs)} if len(mrrs) else {})

    return scores


def labels_of(papers: pa.Table, fewest: int = FEWEST) -> tuple[np.ndarray, list[str]]:
    """(label of each paper, int64 (N,), -1 for none; names): the first of its `fields`, where so many papers have it, commonest first."""
    labels = np.full(len(papers), -1)
    if "fields" not in papers.column_names:
        return labels, []
    first = pc.list_slice(papers["fields"].combine_chunks(), 0, 1)
    encoded = pc.list_flatten(first).dictionary_encode()
    codes, counts = encoded.indices.to_numpy(), np.bincount(encoded.indices, minlength=len(encoded.dictionary))
    order = np.argsort(-counts, kind="stable")
    labels[pc.list_parent_indices(first).to_numpy()] = np.where(counts >= fewest, np.argsort(order), -1)[codes]
    return labels, encoded.dictionary.take(order[: (counts >= fewest).sum()]).to_pylist()


def topic_scores(vectors: np.ndarray, labels: np.ndarray, k: int = 10, seed: int = 0) -> dict[str, float]:
    """What vectors float (N, D) know of labels int64 (N,), -1 for none: scores from 0 to 1, beside chance; {} where there is one label.

    same label: the share of the k nearest labelled papers by cosine, mean of MOST_ASKED papers; accuracy: of logistic regression, weight
    decay chosen by cross-validation, on vectors of length 1, taught by one half of 10,000 labelled papers, asked the other."""
    known = np.flatnonzero(labels >= 0)
    if len(known) < 3 * FEWEST or labels.max() < 1:
        return {}
    drawn, shares = np.random.default_rng(seed).permutation(known), np.bincount(labels[known]) / len(known)
    queries = np.sort(drawn[:MOST_ASKED])
    near, _ = nearest(vectors, queries, k, labels >= 0)
    taught, asked = np.array_split(drawn[:10_000], 2)
    model = LogisticRegressionCV(Cs=5, cv=3, solver="newton-cg", max_iter=1000).fit(normalised(vectors[taught]), labels[taught])
    right = {"same label": labels[near] == labels[queries, None], "chance": (shares**2).sum()}
    right["accuracy"] = model.predict(normalised(vectors[asked])) == labels[asked]
    right["commonest label"] = labels[asked] == np.bincount(labels[taught]).argmax()
    return {name: float(np.mean(of_all)) for name, of_all in right.items()}


def agreement(first: np.ndarray, second: np.ndarray, k: int = 10, seed: int = 0) -> float:
    """The share of a paper's k nearest that two tables agree on, mean of MOST_ASKED papers: of two seeds it says how far to trust them.

    first, second: float (N, D1) and (N, D2), the same papers in the same rows; UserError where there are more of one."""
    if len(first) != len(second):
        raise UserError(f"{len(first):,} papers cannot be compared with {len(second):,}: both runs must be of the same corpus.")
    asked = np.sort(np.random.default_rng(seed).permutation(len(first))[:MOST_ASKED])
    rows = [nearest(vectors, asked, k)[0] for vectors in (first, second)]
    return float(np.mean([len(np.intersect1d(*of_one)) / k for of_one in zip(*rows, strict=True)]))
