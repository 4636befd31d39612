"""Evaluation and search, each against the slow obvious way."""

import types

import numpy as np
import pyarrow as pa
import pytest

from helpers.errors import UserError
from helpers.neighbors import baselines as simple
from helpers.neighbors import evaluate as evaluation
from helpers.neighbors import evaluate as scoring
from helpers.neighbors import search
from helpers.neighbors.baselines import baselines
from helpers.neighbors.evaluate import Questions, evaluate, readings, splits, summary, validation_scores, verdict
from helpers.neighbors.search import COSINE, SIMILARITIES, Search, find_papers, find_references, link, nearest, tables_of, top_k
from tests.conftest import random_pairs
from tests.csr import csr


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
    target += np.float32([3, 0, 0, 0, 0, 0])  # that all rows share
    target[5] = 0
    known = np.arange(400) != 5
    centred = np.where(known[:, None], target - target[known].mean(axis=0), 0)
    unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)  # noqa: E731
    questions = Questions(pairs, pairs.heldout, seed=1)
    by_hand = {
        "target.context": lambda a, b: target[a] @ context[b],
        "context.target": lambda a, b: context[a] @ target[b],
        "target.context + context.target": lambda a, b: target[a] @ context[b] + context[a] @ target[b],
        "target-target cosine": lambda a, b: unit(target)[a] @ unit(target)[b],
        "context-context cosine": lambda a, b: unit(context)[a] @ unit(context)[b],
        COSINE: lambda a, b: unit(centred)[a] @ unit(centred)[b],
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
    """Against their definitions, on a graph whose citations, half of the directions of its pairs, hold the held-out ones, too."""
    generator, N = np.random.default_rng(1), pairs.papers
    targets = np.repeat(np.arange(N), np.diff(pairs.indptr))
    forward = targets < pairs.contexts
    cites = np.concatenate([np.stack([targets[forward], pairs.contexts[forward]], axis=1), pairs.heldout])
    cites = np.unique(np.where(generator.random(len(cites))[:, None] < 0.5, cites, cites[:, ::-1]), axis=0)
    citations = csr(*cites.T, N)
    trained = {(a, b) for a, b in cites.tolist() if b in neighbours_of(pairs, a)}
    assert len(trained) < len(cites)  # some are hidden
    refs = [{b for a, b in trained if a == paper} for paper in range(N)]
    citers = [{a for a, b in trained if b == paper} for paper in range(N)]
    queries = generator.integers(0, N, 6)
    papers = generator.integers(0, N, (6, 50))
    papers[:, :10] = [[*neighbours_of(pairs, 9)][:5] + [*neighbours_of(pairs, 11)][:5]] * 6
    queries[:2] = 9, 11
    scores = baselines(pairs, citations)(queries, papers)
    assert set(scores) == {"random", "popularity", "common neighbours", "Adamic-Adar", "co-citation kNN", "SVD of SPPMI"}
    found = 0
    for i, query in enumerate(queries.tolist()):
        for j, paper in enumerate(papers[i].tolist()):
            times = lambda middle, paper=paper: np.count_nonzero(pairs.contexts[pairs.indptr[paper] : pairs.indptr[paper + 1]] == middle)  # noqa: E731
            shared = {middle: times(middle) * times(middle, query) for middle in neighbours_of(pairs, query)}
            assert scores["common neighbours"][i, j] == sum(shared.values())
            degree = {middle: len(pairs.contexts[pairs.indptr[middle] : pairs.indptr[middle + 1]]) for middle in shared}
            assert scores["Adamic-Adar"][i, j] == pytest.approx(sum(n / np.log(max(degree[m], 2)) for m, n in shared.items()), rel=1e-5)
            co_cited = {r: len(citers[r] & citers[paper]) for r in refs[query]}
            expected = sum(n / np.sqrt(len(citers[r]) * len(citers[paper])) for r, n in co_cited.items() if n)
            assert scores["co-citation kNN"][i, j] == pytest.approx(expected, rel=1e-5)
            found += expected > 0
            assert scores["popularity"][i, j] == pairs.indptr[paper + 1] - pairs.indptr[paper]
    assert found > 10 and scores["random"].shape == papers.shape
    assert "co-citation kNN" not in baselines(pairs)(queries, papers)


@pytest.fixture
def dense(pairs) -> np.ndarray:
    """SPPMI of these pairs with K = 2, from its definition, float64 (N, N)."""
    counts = np.zeros((pairs.papers, pairs.papers))
    np.add.at(counts, (np.repeat(np.arange(pairs.papers), np.diff(pairs.indptr)), pairs.contexts), 1)
    degree = np.maximum(counts.sum(axis=1), 1)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(counts * counts.sum() / degree[:, None] / degree) - np.log(2), 0)


def test_sppmi_and_its_truncated_svd(pairs, dense):
    rows = np.array([3, 7, 399])
    of, columns, values = simple.sppmi(pairs, rows, negatives=2)
    sparse = np.zeros((3, pairs.papers))
    sparse[of, columns] = values
    assert np.allclose(sparse, dense[rows], atol=1e-5) and dense.any()
    S = np.linalg.svd(dense, compute_uv=False)
    left, right = simple.factorised(pairs, 300, negatives=2)
    assert np.linalg.norm(left @ right.T - dense) == pytest.approx(np.sqrt((S[300:] ** 2).sum()), rel=0.05)


def test_pip_loss_is_the_distance_of_inner_products(pairs, dense, monkeypatch):
    E = np.random.default_rng(0).standard_normal((pairs.papers, 5)).astype(np.float32)
    products = ((E - E.mean(axis=0)) @ (E - E.mean(axis=0)).T).astype(np.float64)
    scale = (products * dense).sum() / (products**2).sum()
    expected = np.linalg.norm(max(scale, 0) * products - dense) / np.linalg.norm(dense)
    assert simple.pip_loss(pairs, E, negatives=2) == pytest.approx(expected, abs=1e-5)
    assert simple.pip_loss(pairs, 3 - 7 * E, negatives=2) == pytest.approx(expected, abs=1e-5)
    values, vectors = np.linalg.eigh(dense)
    best = vectors[:, values > 0] * np.sqrt(values[values > 0])
    best += best.mean(axis=0)  # what all rows share is left free
    floor = np.sqrt((values[values < 0] ** 2).sum() / (values**2).sum())
    assert simple.pip_loss(pairs, best, negatives=2) == pytest.approx(floor, abs=0.03) and floor < expected
    monkeypatch.setattr(simple, "PIP_ROWS", 150)
    sampled = [simple.pip_loss(pairs, vectors[:, -40:] * np.sqrt(values[-40:]), negatives=2, seed=seed) for seed in range(30)]
    monkeypatch.undo()
    whole = simple.pip_loss(pairs, vectors[:, -40:] * np.sqrt(values[-40:]), negatives=2)
    assert np.mean(sampled) == pytest.approx(whole, abs=0.02) and whole < 0.95


def test_scores_for_the_training_loop(pairs):
    E = np.random.default_rng(0).standard_normal((pairs.papers, 5)).astype(np.float32)
    assert set(validation_scores(pairs)(E, E)) == {"mrr", "pip_loss"}
    nothing = types.SimpleNamespace(**{**vars(pairs), "heldout": pairs.heldout[:0]})
    assert set(validation_scores(nothing)(E, E)) == {"pip_loss"}


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
    simple = {"random", "popularity", "common neighbours", "Adamic-Adar", "SVD of SPPMI"}
    assert set(metrics["baselines"]) == simple and set(metrics["readings"]) == set(SIMILARITIES) and 0 < metrics["pip_loss"] <= 1
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
        "paper_id": ["W11", "W22", "W33", "W44", "W55"], "doi": ["10.1234/ab(c)", None, "10.5555/x.y", None, None],
        "pmid": [None, "123", None, "77", None], "title": titles, "year": pa.array([2000, None, 1999, 2001, 2002], pa.int32()),
        "degree": numbers,
    })  # fmt: skip


def test_find_papers(papers):
    assert find_papers(papers, "W33").tolist() == [2]
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
    assert table["paper_id"].tolist() == ["W22", "W44", "W55"] and table["rank"].tolist() == [1, 2, 3]
    assert table["year"].tolist() == [None, 2001, 2002] and table["few citations"].tolist() == [False, True, True]
    assert table["link"].tolist() == [f"https://openalex.org/{name}" for name in ("W22", "W44", "W55")] and (table["why"] == "").all()


def test_more_neighbours_than_papers(papers):
    with pytest.raises(UserError, match="10 neighbours were asked for, but only 4 papers can be answers"):
        nearest(np.ones((5, 2), np.float16), np.array([0]), 10)
    assert len(Search(papers, np.ones((5, 2), np.float16), VECTORS).near(0)) == 3
    found = Search(papers, VECTORS, VECTORS)
    with pytest.raises(UserError, match="1 papers ask for 10 answers of 0: each must be 1 or more; perhaps loosen the filters"):
        found.near(0, years=(2010, None))
    for rows, k in (([], 3), (0, 0)):
        with pytest.raises(UserError, match="each must be 1 or more"):
            found.near(rows, k)


def test_a_corpus_without_titles_shows_ids(papers):
    bare = papers.set_column(3, "title", pa.nulls(5, pa.string()))
    assert find_papers(bare, "").tolist() == [0, 1, 2, 3, 4]
    table = Search(bare, VECTORS, VECTORS).near(0, k=2)
    assert table["paper_id"].tolist() == ["W33", "W22"] and table["title"].isna().all()


def test_find_papers_by_doi_and_pmid(papers):
    for query in ("10.5555/X.Y", "https://doi.org/10.5555/x.y", "doi:10.5555/x.y", "https://openalex.org/W33"):
        assert find_papers(papers, query).tolist() == [2], query
    assert find_papers(papers, "10.1234/AB(c)").tolist() == [0]
    for query in ("77", "PMID: 77", "https://pubmed.ncbi.nlm.nih.gov/77/"):
        assert find_papers(papers, query).tolist() == [3], query
    nih = papers.set_column(0, "paper_id", pa.array(["5", "4", "3", "2", "1"])).drop_columns(["doi", "pmid"])
    assert find_papers(nih, "pmid:3").tolist() == [2] and find_papers(nih, "4").tolist() == [1]


def test_a_pasted_list_of_references(papers):
    papers = papers.set_column(
        3, "title", pa.array(["Deep (learning) of the sea", "A deep sea", None, "Übergänge", "On the deep: sea work"])
    )
    text = """
    [1] Smith J., On the Deep Sea Work. Nature 1 (2000), 3-4.
    [2] Jones, doi: 10.1234/AB(c); 10.5555/x.y
    Übergänge
    pmid 77
    A deep
    [3] Brown, "Deep learning of the sea", 2001, 10.9999/not.here
    """
    rows, lost = find_references(papers, text)
    assert sorted(rows.tolist()) == [0, 2, 3, 4] and rows[0] == 4 and lost == ["A deep"]  # each once, in the order of the list
    assert [len(part) for part in find_references(papers, " \n ")] == [0, 0]


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
        tables = {"target": search.target, "context": search.context, "centred": search.target - search.target.mean(axis=0)}
        query, table = unit(tables[asked][rows]).sum(axis=0), tables[answers]
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
        ({"field": "Physics"}, lambda i: i % 3 == 1),
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


def test_reach_is_asked_for_once_and_refused_where_it_cannot_be_had(corpus):
    asked, far = [], np.random.default_rng(9).standard_normal((300, 16)).astype(np.float32)
    wide = Search(corpus.papers, corpus.target, corpus.context, reaching=lambda reach: asked.append(reach) or far)
    for _ in range(2):
        assert wide.near(7, reach=16)["row"].tolist() == Search(corpus.papers, far, corpus.context).near(7)["row"].tolist()
    assert wide.near(7)["row"].tolist() == corpus.near(7)["row"].tolist() and asked == [16]
    with pytest.raises(UserError, match="A reach of 16 needs the run's own training pairs, which are not at hand; take reach 0"):
        corpus.near(7, reach=16)
    with pytest.raises(UserError, match="There is no similarity 'cosine'; choose one of target-target cosine, centred, "):
        corpus.near(7, similarity="cosine")


def test_the_mean_row_leaves_out_rows_of_zeros_which_are_no_answers():
    vectors = np.float32([[1, 1], [3, 1], [0, 0], [2, -2]])
    table = tables_of(vectors, vectors)["centred"]
    assert table[:].tolist() == [[-1, 1], [1, 1], [0, 0], [0, -2]]
    rows, scores = top_k([(np.float32([[-1, 1]]), table)], 4, True)
    assert rows[0].tolist() == [0, 1, 2, 3] and np.allclose(scores, [[1, 0, 0, -np.sqrt(0.5)]])
    assert vectors[0].tolist() == [1, 1]  # untouched


def test_labels_and_what_vectors_know_of_them():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 600)
    fields = [[["physics", "x"], ["biology"], None][label] for label in truth]
    fields[:5] = [["rare"]] * 5
    labels, names = scoring.labels_of(pa.table({"fields": pa.array(fields, pa.list_(pa.string()))}))
    assert sorted(names) == ["biology", "physics"] and (labels[:5] == -1).all()
    for name, label in (("physics", 0), ("biology", 1)):
        assert np.array_equal(labels[5:] == names.index(name), truth[5:] == label)
    vectors = generator.standard_normal((600, 4)).astype(np.float32) + 6 * np.eye(4, dtype=np.float32)[np.maximum(labels, 0)]
    scores = scoring.topic_scores(vectors, labels)
    assert scores["same label"] > 0.95 > 0.6 > scores["chance"] and scores["accuracy"] > 0.95 > 0.7 > scores["commonest label"]
    blind = scoring.topic_scores(generator.standard_normal((600, 4)).astype(np.float32), labels)
    assert abs(blind["same label"] - blind["chance"]) < 0.05 and blind["accuracy"] < 0.7
    assert scoring.topic_scores(vectors, np.full(600, -1)) == {}
    assert scoring.labels_of(pa.table({"title": ["a"]}))[0].tolist() == [-1]


def test_agreement_of_two_tables():
    generator = np.random.default_rng(0)
    first = generator.standard_normal((200, 6)).astype(np.float32)
    turn = np.linalg.qr(generator.standard_normal((6, 6)))[0].astype(np.float32)
    assert scoring.agreement(first, 3 * first @ turn) > 0.999
    with pytest.raises(UserError, match="200 papers cannot be compared with 199: both runs must be of the same corpus"):
        scoring.agreement(first, first[1:])
    assert scoring.agreement(first, generator.standard_normal((200, 8)).astype(np.float32)) == pytest.approx(10 / 199, abs=0.02)


def test_vectors_that_are_no_numbers_are_told():
    vectors = np.ones((5, 2), np.float32)
    vectors[3, 1] = np.nan
    with pytest.raises(UserError, match="not a number"):
        top_k([(vectors[:1], vectors)], 2, False)


def test_links():
    assert link("W12") == "https://openalex.org/W12" and link("a" * 40) == f"https://www.semanticscholar.org/paper/{'a' * 40}"
    assert link("12345") == "" and link(None) == ""
