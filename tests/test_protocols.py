"""The quality benchmark's protocols against slow, obvious versions, on small invented graphs."""

import gzip

import numpy as np
import pytest

from tests import protocols, real_data
from tests.csr import csr
from tests.peers import sppmi_svd


def distinct_pairs(N: int, edges: int) -> tuple[np.ndarray, np.ndarray]:
    """(indptr, contexts) of random citations, each once, both directions."""
    drawn = np.sort(np.random.default_rng(0).integers(0, N, (edges, 2)), axis=1)
    ends = np.unique(drawn[drawn[:, 0] != drawn[:, 1]], axis=0)
    return csr(ends.T.ravel(), ends[:, ::-1].T.ravel(), N)


def random_split(generator, N=30, edges=120) -> protocols.Split:
    """Random citations of earlier papers, three of ten asked."""
    dates = generator.integers(1990, 1996, N).astype(float)
    citations = np.unique(generator.integers(0, N, (edges, 2)), axis=0)
    citations = generator.permutation(citations[citations[:, 0] != citations[:, 1]])
    asked = len(citations) * 3 // 10
    return protocols.split_of([str(i) for i in range(N)], dates, citations[asked:], citations[:asked])


@pytest.mark.parametrize("seed", range(3))
def test_ranks_and_rivals_of_hidden_citations(seed):
    generator = np.random.default_rng(seed)
    split = random_split(generator)
    scores = generator.integers(0, 5, (split.papers, split.papers)).astype(float)  # few values: many ties
    found = protocols.ranks(split, lambda papers: {"drawn": scores[np.ix_(papers, split.candidates)]})["drawn"]
    of = protocols.rivals(split)
    known = {(citing, cited) for citing, cited in [*split.train.tolist(), *split.questions.tolist()]}
    assert len(split.questions) > 5
    auc = []
    for (citing, cited), rank, number in zip(split.questions.tolist(), found, of, strict=True):
        others = [
            paper for paper in split.candidates.tolist()
            if paper not in (citing, cited) and split.dates[paper] <= split.dates[citing] and (citing, paper) not in known
        ]  # fmt: skip
        own = scores[citing, cited]
        assert number == len(others)
        assert rank == 1 + sum((scores[citing, paper] > own) + 0.5 * (scores[citing, paper] == own) for paper in others)
        auc.append(np.mean([(scores[citing, paper] < own) + 0.5 * (scores[citing, paper] == own) for paper in others] or [1.0]))
    assert protocols.summary(found, of)["auc"] == pytest.approx(np.mean(auc))


def test_similar_works_by_hand():
    """Twelve works of a review and one of another, of which the nearest are told by their number."""
    n, review = 13, np.zeros((13, 2), bool)
    review[:12, 0], review[12, 1] = True, True
    included = np.zeros((n, 2), bool)
    included[:6, 0] = True
    similar = -np.abs(np.arange(n)[:, None] - np.arange(n)).astype(np.float32)
    figures = protocols.similarity_figures(similar.copy(), protocols.Reviews(np.arange(n), review, included))
    same = [len([j for j in sorted(set(range(n)) - {i}, key=lambda j: abs(i - j))[:10] if (i < 12) == (j < 12)]) for i in range(n)]
    assert figures["same_review_at_10"] == pytest.approx(10 * np.mean(same))
    assert figures["included_chance"] == pytest.approx(100 / 7)  # one included work is left among seven
    expected = []
    for draw in range(20):
        asked = np.random.default_rng([draw, 0]).choice(6, 5, replace=False)
        (left,) = set(range(6)) - set(asked.tolist())
        sums = {paper: similar[paper, asked].sum() for paper in [left, *range(6, 12)]}
        at_least = sum(value >= sums[left] for value in sums.values())  # ties are taken together
        expected.append(100 / at_least)
    assert figures["included_ap"] == pytest.approx(np.mean(expected))


def test_works_without_company_are_not_asked(tmp_path, monkeypatch):
    """Works: 0 and 1 share a reference, 2 cites 3, 4 cites what nobody else cites; 5 is of two reviews and shares that with 0."""
    names = ["w0", "w1", "w2", "w3", "w4", "w5"]
    (tmp_path / "synergy").mkdir()
    with gzip.open(tmp_path / "synergy" / "nodes.tsv.gz", "wt") as file:
        file.write("openalex_id\tpmid\tdoi\tyear\ttitle\tjournal\treviews\tincluded\n")
        for i, name in enumerate([*names, "unknown"]):
            file.write(f"{name}\t\t\t2000\tt\tj\t{'A|B' if i == 5 else 'A'}\t{'0|1' if i == 5 else int(i < 2)}\n")
    monkeypatch.setattr(real_data, "paper_data", lambda: tmp_path)
    citing, cited = np.array([0, 1, 2, 4, 5]), np.array([6, 6, 3, 7, 6])
    indptr, contexts = csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), 8)
    found = protocols.reviews(indptr, contexts, {name: i for i, name in enumerate(names)})
    assert found.rows.tolist() == [0, 1, 2, 3, 5]
    assert found.members.tolist() == [[True, False]] * 4 + [[True, True]]
    assert found.included.tolist() == [[True, False]] * 2 + [[False, False]] * 2 + [[False, True]]


def test_neighbourhood_cosines_equal_those_of_dense_rows():
    indptr, contexts = distinct_pairs(20, 60)
    dense = np.zeros((20, 20))
    for row in range(20):
        dense[row, contexts[indptr[row] : indptr[row + 1]]] = 1
    rows = np.array([3, 0, 7, 19])
    unit = protocols.unit(dense)[rows]
    assert np.allclose(protocols.neighbourhood_cosines(indptr, contexts, rows), unit @ unit.T, atol=1e-6)


def test_link_figures_count_couples_and_put_the_untrained_at_the_median():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((10, 4)).astype(np.float32)
    pairs, positive = generator.integers(0, 10, (40, 2)), generator.random(40) < 0.5
    train = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])  # not 8 and 9
    of = protocols.Links(10, train, (pairs[:20], positive[:20]), (pairs[20:], positive[20:]))
    for reading, table in (("", rows), ("_cosine", protocols.unit(rows))):
        scores = [float(table[a] @ table[b]) for a, b in pairs[20:]]
        trained = [max(a, b) < 8 for a, b in pairs[20:]]
        assert not all(trained)
        median = np.median([score for score, known in zip(scores, trained, strict=True) if known])
        scores = [score if known else median for score, known in zip(scores, trained, strict=True)]
        couples = [
            (p > q) + 0.5 * (p == q)
            for p, yes in zip(scores, positive[20:], strict=True) for q, other in zip(scores, positive[20:], strict=True)
            if yes and not other
        ]  # fmt: skip
        assert protocols.link_figures(rows, None, of)[f"auc{reading}"] == pytest.approx(100 * np.mean(couples), abs=1e-3)


def test_logistic_regression_is_at_its_minimum():
    """The loss is not lower a small step away, in any of many directions."""
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((30, 5)), np.arange(30) % 3
    weights, bias = protocols._logistic_regression(features, labels, 0.01)

    def loss(weights, bias):
        logits = features @ weights + bias
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(chances[np.arange(30), labels]).mean() + 0.005 * (weights**2).sum()

    least = loss(weights, bias)
    for _ in range(50):
        step, of_bias = 0.1 * generator.standard_normal(weights.shape), 0.1 * generator.standard_normal(3)
        assert loss(weights + step, bias + of_bias) > least


def test_svd_of_sppmi_equals_the_dense_one():
    indptr, contexts = distinct_pairs(40, 100)
    pairs = type("Pairs", (), {"indptr": indptr, "contexts": contexts})
    degree, expected = np.diff(indptr), np.zeros((40, 40))
    for a in range(40):
        for b in contexts[indptr[a] : indptr[a + 1]]:
            expected[a, b] = max(0.0, np.log(len(contexts) / (degree[a] * degree[b])))
    U, S, V = np.linalg.svd(expected)
    target, context = sppmi_svd(pairs, 5)
    assert np.allclose(target @ context.T, (U[:, :5] * S[:5]) @ V[:5], atol=1e-4)
