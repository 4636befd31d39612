"""Evaluation and search, each against the slow obvious way."""

import types

import numpy as np
import pyarrow as pa
import pytest

from helpers.errors import UserError
from helpers.neighbors import evaluate as evaluation
from helpers.neighbors import search
from helpers.neighbors.evaluate import Questions, baselines, evaluate, readings, splits, summary, verdict
from helpers.neighbors.search import SIMILARITIES, Search, find_papers, link, nearest, top_k
from tests.conftest import random_pairs


@pytest.fixture
def pairs():
    """Pairs of a random graph of 400 papers with 60 held-out citations."""
    generator = np.random.default_rng(3)
    indptr, contexts = random_pairs(generator, 400, 1500)
    heldout = generator.integers(0, 400, (60, 2)).astype(np.int32)
    heldout = heldout[heldout[:, 0] != heldout[:, 1]]
    return types.SimpleNamespace(indptr=indptr, contexts=contexts, heldout=heldout, papers=400)


def neighbours_of(pairs, paper: int) -> set[int]:
    return set(pairs.contexts[pairs.indptr[paper] : pairs.indptr[paper + 1]].tolist())


def test_ranks_equal_a_sort_by_hand(pairs, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", 5000)  # several chunks
    generator = np.random.default_rng(0)
    target, context = generator.standard_normal((2, 400, 6)).astype(np.float32)
    questions = Questions(pairs, pairs.heldout, seed=1)
    by_hand = {
        "target.context": lambda a, b: target[a] @ context[b],
        "context.target": lambda a, b: context[a] @ target[b],
        "target.context + context.target": lambda a, b: target[a] @ context[b] + context[a] @ target[b],
        "target-target cosine": lambda a, b: target[a] @ target[b] / np.linalg.norm(target[a]) / np.linalg.norm(target[b]),
    }
    every = questions.ranks(readings(target, context), 6)
    assert set(every) == set(by_hand)
    for name, ranks in every.items():
        for i, (query, answer) in enumerate(pairs.heldout.tolist()):
            others = [c for c in questions.candidates[i].tolist() if c not in neighbours_of(pairs, query) | {query, answer}]
            better = sum(by_hand[name](query, other) > by_hand[name](query, answer) + 1e-6 for other in others)
            assert abs(ranks[i] - 1 - better) <= 1, (name, i)  # equal scores aside, which rounding may order


def test_ties_count_half_and_a_constant_score_ranks_in_the_middle(pairs):
    questions = Questions(pairs, pairs.heldout)
    ranks = questions.ranks(lambda queries, papers: {"none": np.zeros(papers.shape)})["none"]
    assert np.array_equal(ranks, 1 + 0.5 * (~questions.excluded).sum(axis=1))


def test_candidates_are_half_uniform_half_by_degree(pairs):
    questions = Questions(pairs, np.repeat(pairs.heldout, 20, axis=0))
    half = evaluation.CANDIDATES // 2
    degree = np.diff(pairs.indptr)
    uniform, by_degree = (
        np.bincount(part.ravel(), minlength=400) for part in (questions.candidates[:, :half], questions.candidates[:, half:])
    )
    assert np.abs(uniform / uniform.sum() - 1 / 400).max() < 5e-4
    assert np.abs(by_degree / by_degree.sum() - degree / degree.sum()).max() < 1e-3


def test_candidates_of_large_graphs_come_from_a_pool(pairs, monkeypatch):
    monkeypatch.setattr(evaluation, "LARGE", 100)
    monkeypatch.setattr(evaluation, "POOL", 30)
    half, degree = evaluation.CANDIDATES // 2, np.diff(pairs.indptr)
    seen = []
    for seed in range(400):
        candidates = Questions(pairs, pairs.heldout, seed).candidates
        pools = [np.unique(part) for part in (candidates[:, :half], candidates[:, half:])]
        assert all(10 < len(pool) <= 30 for pool in pools)
        seen.append([np.bincount(part.ravel(), minlength=400) for part in (candidates[:, :half], candidates[:, half:])])
    uniform, by_degree = np.sum(seen, axis=0)
    assert np.abs(uniform / uniform.sum() - 1 / 400).max() < 2.5e-3  # five standard deviations of 12,000 draws
    assert np.abs(by_degree / by_degree.sum() - degree / degree.sum()).max() < 5e-3


def test_baselines(pairs):
    queries, papers = np.array([0, 7]), np.array([[1, 2, 3], [7, 8, 9]])
    scores = baselines(pairs)(queries, papers)
    for i, query in enumerate(queries):
        for j, paper in enumerate(papers[i]):
            contexts = pairs.contexts[pairs.indptr[paper] : pairs.indptr[paper + 1]].tolist()
            assert scores["common neighbours"][i, j] == sum(context in neighbours_of(pairs, query) for context in contexts)
            assert scores["popularity"][i, j] == len(contexts)
    assert scores["random"].shape == (2, 3)


def test_random_is_near_chance(pairs):
    questions = Questions(pairs, np.repeat(pairs.heldout, 40, axis=0))
    mrr = summary(questions.ranks(baselines(pairs))["random"])["mrr"]
    assert 0.5 * 0.0075 < mrr < 2 * 0.0075  # H(1000) / 1000


def test_summary_by_hand():
    scores = summary(np.array([1.0, 2.0, 20.0, 100.0]))
    assert scores["mrr"] == pytest.approx((1 + 0.5 + 0.05 + 0.01) / 4)
    assert (scores["hits@1"], scores["hits@10"], scores["hits@50"]) == (0.25, 0.5, 0.75)
    assert scores["mrr_low"] <= scores["mrr"] <= scores["mrr_high"]


def test_the_reading_is_chosen_on_validation_and_reported_on_test(pairs):
    """A context table that knows the validation answers only: chosen there, no use on the test split."""
    validation, test = splits(pairs.heldout)
    assert len(validation) + len(test) == len(pairs.heldout)
    target, context = np.eye(400, dtype=np.float32), np.zeros((400, 400), np.float32)
    for query, answer in validation:
        context[answer, query] = 1
    metrics = evaluate(pairs, target, context)
    assert metrics["chosen_reading"] == "target.context"
    assert metrics["readings"]["target.context"]["validation_mrr"] > 0.9 > 0.5 > metrics["mrr"]
    assert metrics["mrr"] == metrics["readings"]["target.context"]["mrr"]
    assert set(metrics["baselines"]) == {"random", "popularity", "common neighbours"} and len(metrics["readings"]) == 4
    assert verdict(metrics, epochs=0).startswith("Nothing was trained (0 epochs)")
    assert "target.context" in verdict(metrics) and verdict(metrics).startswith("It ")


def test_nothing_held_out():
    assert evaluate(types.SimpleNamespace(heldout=np.empty((0, 2), np.int32)), np.zeros((1, 1)), np.zeros((1, 1))) == {}
    assert "Nothing was held out" in verdict({})


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nearest_equals_a_full_sort(dtype, monkeypatch):
    monkeypatch.setattr(search, "CHUNK_VALUES", 64 * 8)
    generator = np.random.default_rng(0)
    vectors, allowed = generator.standard_normal((500, 8)).astype(dtype), generator.random(500) < 0.7
    queries = np.array([0, 63, 64, 499])
    rows, cosines = nearest(vectors, queries, 12, allowed)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    for i, query in enumerate(queries):
        expected = sorted((other for other in np.flatnonzero(allowed) if other != query), key=lambda other: -(unit[query] @ unit[other]))
        assert rows[i].tolist() == expected[:12]
        assert np.allclose(cosines[i], unit[rows[i]] @ unit[query], atol=1e-5)


@pytest.fixture
def papers() -> pa.Table:
    titles = ["Deep (learning)", "A deep sea", None, "Übergänge", "Deep work"]
    numbers = pa.array([9, 5, 4, 2, 1], pa.int32())
    return pa.table({
        "paper_id": ["W1", "W2", "W3", "W4", "W5"], "title": titles, "year": pa.array([2000, None, 1999, 2001, 2002], pa.int32()),
        "degree": numbers,
    })  # fmt: skip


def test_find_papers(papers):
    assert find_papers(papers, "W3").tolist() == [2]
    assert find_papers(papers, "dEEp").tolist() == [0, 1, 4]  # most cited first
    assert find_papers(papers, "deep (").tolist() == [0]  # no pattern language
    assert find_papers(papers, "übergänge").tolist() == [3]
    assert find_papers(papers, "", most=2).tolist() == [0, 1]
    with pytest.raises(UserError, match="No paper has the id 'quantum' or a title that contains it"):
        find_papers(papers, "quantum")


def test_near_misses_of_a_title_and_the_number_of_hits(papers, capsys):
    with pytest.raises(UserError, match=r"a title that contains it; near: 'Deep \(learning\)'; 'A deep sea'; 'Deep work'\."):
        find_papers(papers, "deep learning for the sea")
    assert find_papers(papers, "e", most=2).tolist() == [0, 1]
    assert "4 titles contain 'e'; here are the 2 most cited." in capsys.readouterr().out


VECTORS = np.array([[1, 0], [1, 0.1], [1, 0.05], [0, 1], [-1, 0]], np.float16)


def test_only_papers_with_a_title_are_answers(papers):
    table = Search(papers, VECTORS, VECTORS).near(0, k=3)
    assert table["paper_id"].tolist() == ["W2", "W4", "W5"] and table["rank"].tolist() == [1, 2, 3]
    assert table["year"].tolist() == [None, 2001, 2002] and table["few citations"].tolist() == [False, True, True]
    assert table["link"].tolist() == [f"https://openalex.org/{name}" for name in ("W2", "W4", "W5")] and (table["why"] == "").all()


def test_more_neighbours_than_papers(papers):
    with pytest.raises(UserError, match="10 neighbours were asked for, but only 4 papers can be answers"):
        nearest(np.ones((5, 2), np.float16), np.array([0]), 10)
    assert len(Search(papers, np.ones((5, 2), np.float16), VECTORS).near(0)) == 3
    with pytest.raises(
        UserError, match="1 neighbours were asked for, but only 0 papers can be answers; ask for fewer or loosen the filters"
    ):
        Search(papers, VECTORS, VECTORS).near(0, years=(2010, None))


def test_a_corpus_without_titles_shows_ids(papers):
    bare = papers.set_column(1, "title", pa.nulls(5, pa.string()))
    assert find_papers(bare, "").tolist() == [0, 1, 2, 3, 4]
    table = Search(bare, VECTORS, VECTORS).near(0, k=2)
    assert table["paper_id"].tolist() == ["W3", "W2"] and table["title"].isna().all()


@pytest.fixture
def corpus() -> Search:
    """300 papers with random vectors, citations, years, fields and venues."""
    generator = np.random.default_rng(5)
    N = 300
    cited = [np.sort(generator.permutation(N)[: generator.integers(0, 12)]) for _ in range(N)]
    indptr = np.concatenate([[0], np.cumsum(list(map(len, cited)))])
    papers = pa.table({
        "paper_id": [f"W{i}" for i in range(N)], "title": [f"paper {i}" for i in range(N)],
        "year": pa.array([None if i % 10 == 9 else 1990 + i % 30 for i in range(N)], pa.int32()),
        "degree": pa.array(np.arange(N)[::-1], pa.int32()), "venue": [("Nature Physics", "Cell", None)[i % 3] for i in range(N)],
        "fields": [[["biology"], ["biology", "physics"], []][i % 3] for i in range(N)],
    })  # fmt: skip
    return Search(papers, *generator.standard_normal((2, N, 16)).astype(np.float32), (indptr, np.concatenate(cited).astype(np.int32)))


def by_hand(search: Search, rows: list[int], name: str) -> np.ndarray:
    """The scores of every paper by a similarity, from its definition."""
    unit = lambda table: table / np.linalg.norm(table, axis=1, keepdims=True)  # noqa: E731
    total = 0
    for asked, answers in SIMILARITIES[name]:
        query, table = unit(getattr(search, asked)[rows]).sum(axis=0), getattr(search, answers)
        query = query / np.linalg.norm(query)
        total = total + (unit(table) if "cosine" in name else table) @ query
    total[rows] = -np.inf
    return total


@pytest.mark.parametrize("rows", [[7], [7, 40, 299]])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_of_one_paper_and_of_several(corpus, name, rows):
    table, scores = corpus.near(rows, 8, name), by_hand(corpus, rows, name)
    assert table["paper_id"].tolist() == [f"W{i}" for i in np.argsort(-scores)[:8]]
    assert np.allclose(table["score"], np.sort(scores)[::-1][:8], atol=1e-5)
    lower = [(scores[np.isfinite(scores)] < score).mean() * 100 for score in table["score"]]
    assert np.allclose(table["percentile"], lower, atol=2)  # here the strangers are all papers, the queries among them


def test_merged_answers_keep_the_best_rank_of_each_paper(corpus):
    table = corpus.near([7], 10, "merged")
    alone = {name: corpus.near([7], 10, name)["paper_id"].tolist() for name in SIMILARITIES}
    best = [min(found.index(paper) for found in alone.values() if paper in found) for paper in table["paper_id"]]
    assert best == sorted(best) and table["paper_id"].is_unique and table["rank"].tolist() == list(range(1, 11))
    assert all(paper in alone[name] for paper, name in zip(table["paper_id"], table["by"], strict=True))
    assert {found[0] for found in alone.values()} <= set(table["paper_id"])


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"years": (2000, 2005)}, lambda i: i % 10 != 9 and 10 <= i % 30 <= 15),
        ({"years": (None, 1995)}, lambda i: i % 10 != 9 and i % 30 <= 5),
        ({"field": "physics"}, lambda i: i % 3 == 1),
        ({"venue": "nature"}, lambda i: i % 3 == 0),
        ({"min_degree": 250}, lambda i: i < 50),
        ({"leave_out": [1, 2], "field": "biology"}, lambda i: i % 3 != 2 and i not in (1, 2)),
    ],
)
def test_filters(corpus, filters, kept):
    assert np.flatnonzero(corpus.allowed(**filters)).tolist() == [i for i in range(300) if kept(i)]
    assert all(kept(int(paper[1:])) for paper in corpus.near([7], 20, **filters)["paper_id"])


def test_filters_by_what_is_not_known_are_refused(papers):
    with pytest.raises(UserError, match="These papers have no venue: filters by it need the run's own corpus"):
        Search(papers, VECTORS, VECTORS).near(0, venue="Nature")


def test_why_counts_what_ties_papers_together(corpus):
    indptr, cited = corpus.citations
    references = [set(cited[indptr[i] : indptr[i + 1]].tolist()) for i in range(300)]
    citers = [{i for i in range(300) if paper in references[i]} for paper in range(300)]
    query, told = [7, 40], []
    table = corpus.near(query, 250)
    for answer in (int(paper[1:]) for paper in table["paper_id"]):
        shared = len(references[answer] & (references[7] | references[40])), len(citers[answer] & (citers[7] | citers[40]))
        told.append(
            ["cites it"] * bool(references[answer] & set(query)) + ["cited by it"] * (answer in references[7] | references[40])
            + [f"{n} shared {what}{'s' * (n > 1)}" for n, what in zip(shared, ("reference", "citer"), strict=True) if n]
        )  # fmt: skip
    assert table["why"].tolist() == [", ".join(reasons) for reasons in told]
    assert {"cites it", "cited by it", "1 shared reference", "2 shared citers"} <= {reason for reasons in told for reason in reasons}


def test_vectors_that_are_no_numbers_are_told():
    vectors = np.ones((5, 2), np.float32)
    vectors[3, 1] = np.nan
    with pytest.raises(UserError, match="not a number"):
        top_k([(vectors[:1], vectors)], 2, False)


def test_links():
    assert link("W12") == "https://openalex.org/W12" and link("a" * 40) == f"https://www.semanticscholar.org/paper/{'a' * 40}"
    assert link("12345") == "" and link(None) == ""
