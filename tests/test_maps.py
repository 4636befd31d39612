"""Maps of planted topics, the figures and the page made of them, and judgements."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.spatial import cKDTree

from helpers import figures
from helpers.errors import ArtefactError, UserError
from helpers.neighbors import explore
from helpers.neighbors.explore import COLUMNS, first_fields, judge, judged, lay_out, map_papers, name_topics, read_judgements, write_page
from helpers.neighbors.search import Search
from tests.benchmarks.maps import page_papers, purity

NASTY = (
    '"><script>window.attacked = 1</script><img src=x onerror="window.attacked = 1">',
    "</script></textarea><!-- <b>bold & 'quoted'</b>",
    r"The $\alpha_{s}$ of $x^2$: an unmatched $ and a \frac{1}{2} % & # PAPERS {0} {{ }}",
    "\u05d0\u05d9\u05d6\u05d5 \u05db\u05d5\u05ea\u05e8\u05ea: \u202eright to left\u202c \u0639\u0646\u0648\u0627\u0646",
    "Line\nbreaks,\ttabs \u2028 and a zero \x00 byte, \U0001f9ec and \u6df1\u5ea6\u5b66\u4e60",
    "A very long title " + "of many words " * 35 + "x" * 60,
)


def clusters(sizes, D: int = 16, noise: float = 0.4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(vectors float32 (N, D), cluster int (N,)) around random centres, shuffled."""
    generator = np.random.default_rng(seed)
    of_paper = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = generator.standard_normal((len(sizes), D))
    return (centres[of_paper] + noise * generator.standard_normal((len(of_paper), D))).astype(np.float32), of_paper


def share_alike(points: np.ndarray, cluster: np.ndarray, k: int = 10) -> float:
    """Of the k nearest points of each, the share of the same cluster."""
    near = cKDTree(points).query(points, k + 1)[1][:, 1:]
    return float((cluster[near] == cluster[:, None]).mean())


def papers_of(titles, years=None, fields=None) -> pa.Table:
    columns = {"paper_id": [f"W{i}" for i in range(len(titles))], "title": pa.array(titles, pa.string())}
    columns |= {"year": pa.array(years or [2000] * len(titles), pa.int16()), "degree": np.arange(len(titles), 0, -1, dtype=np.int32)}
    return pa.table(columns | ({"fields": pa.array(fields, pa.list_(pa.string()))} if fields else {}))


def test_a_layout_keeps_topics_together_and_is_the_same_every_time():
    vectors, cluster = clusters([40] * 8)
    points = lay_out(vectors)
    assert points.shape == (320, 2) and share_alike(points, cluster) > 0.9
    assert points.min() >= 0 and points.max() <= 1 and np.array_equal(points, lay_out(vectors))


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (3, 1), (4, 1), (5, 1), (40, 3)])
@pytest.mark.parametrize("kind", ["drawn", "all the same", "zeros"])
def test_few_papers_and_equal_vectors_have_points_too(shape, kind):
    vectors = {"drawn": np.random.default_rng(0).standard_normal(shape), "all the same": np.ones(shape), "zeros": np.zeros(shape)}[kind]
    for points in (lay_out(vectors.astype(np.float16)), map_papers(vectors.astype(np.float16))):
        assert points.shape == (shape[0], 2) and np.isfinite(points).all()
        assert len(np.unique(points, axis=0)) == shape[0]


def test_vectors_that_are_not_numbers_are_refused():
    with pytest.raises(UserError, match="not a number"):
        lay_out(np.array([[1.0, 2], [np.nan, 1], [0, 1], [1, 1]]))


def test_papers_that_are_not_laid_out_lie_between_those_that_are(monkeypatch):
    monkeypatch.setattr(explore, "ANCHORS", (200, 200))
    vectors, cluster = clusters([300] * 6)
    laid_out = {}
    monkeypatch.setattr(explore, "lay_out", lambda rows, seed: laid_out.setdefault("points", lay_out(rows, seed)))
    points = map_papers(vectors)
    assert points.shape == (1800, 2) and len(laid_out["points"]) == 200 and share_alike(points, cluster) > 0.9
    assert (points >= laid_out["points"].min(axis=0) - 1e-6).all() and (points <= laid_out["points"].max(axis=0) + 1e-6).all()
    anchors = np.sort(np.random.default_rng(0).choice(1800, 200, replace=False))
    assert np.array_equal(points[anchors], laid_out["points"])
    near = cKDTree(laid_out["points"]).query(points)[1]  # of its own topic, whichever anchor that is
    assert (cluster[anchors][near] == cluster).mean() > 0.95


def test_the_sample_map_keeps_planted_topics_together(sample_run):
    page = sample_run / "maps" / "papers.html"
    assert purity(page) >= 0.6 and len(page_papers(page)) == 12_000 and page.stat().st_size < 15e6
    assert {"corpus.png", "results.png"} <= {path.name for path in page.parent.iterdir()}


def test_topics_are_named_by_their_own_words():
    points, cluster = clusters([300, 200], D=2, noise=0.05)
    generator, own = np.random.default_rng(1), (["<i>gene</i> therapy", "of the vector"], ["query plan", r"with $\alpha$ cache"])
    titles = [" ".join(generator.permutation([*own[of], "new method", "the study"])) for of in cluster]
    topics = name_topics(points, pa.chunked_array([titles]))
    assert topics["papers"].is_monotonic_decreasing and topics["papers"].sum() <= 500 and topics["words"].is_unique
    for _, topic in topics.iterrows():
        of = np.argmin(((points - [topic["x"], topic["y"]]) ** 2).sum(axis=1))
        wanted = [{"gene", "therapy", "vector"}, {"query", "plan", "cache"}][cluster[of]]
        assert set(topic["words"].replace(",", "").split()) & wanted, topic["words"]
        assert not {"the", "of", "with", "alpha"} & set(topic["words"].replace(",", "").split())


@pytest.mark.parametrize("titles", [[None] * 100, ["123 45"] * 100, ["one title"] * 3, [f"unlike{'x' * i}" for i in range(100)]])
def test_where_no_word_tells_no_topic_is_named(titles):
    topics = name_topics(np.random.default_rng(0).random((len(titles), 2)), pa.chunked_array([pa.array(titles, pa.string())]))
    assert len(topics) == 0 and list(topics.columns) == ["x", "y", "papers", "words"]


def boxes(figure) -> list:
    """Where the titles or topics of a figure are, in pixels."""
    figure.canvas.draw()
    return [text.get_window_extent() for text in figure.axes[0].texts]


def assert_apart(figure, least: int) -> None:
    drawn, whole = boxes(figure), figure.bbox
    assert len(drawn) >= least
    assert not [(i, j) for i, one in enumerate(drawn) for j in range(i) if one.overlaps(drawn[j])]
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in drawn)


@pytest.mark.parametrize("colours", ["years", "no years", "fields", "one field"])
def test_titles_on_a_map_do_not_overlap(colours, tmp_path):
    generator = np.random.default_rng(0)
    points, titles = generator.random((120, 2)), [*NASTY, None, *(f"A title of paper number {i}, in a few words" for i in range(113))]
    shades = {
        "years": np.where(generator.random(120) < 0.2, np.nan, generator.integers(1990, 2020, 120)),
        "no years": np.full(120, np.nan),
        "fields": generator.choice(np.array(["Biology", "Physics", "other"], object), 120),
        "one field": np.full(120, "other", object),
    }[colours]
    figure = figures.result_map(NASTY[2], points, titles, shades, 3)
    assert_apart(figure, 20)
    assert sum(len(dots.get_offsets()) for dots in figure.axes[0].collections) == 123, "every paper once, the three asked once more"
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 20_000


def test_topics_on_a_map_do_not_overlap_and_the_image_shows_where_papers_are():
    points = np.concatenate([np.random.default_rng(0).normal(place, 0.05, (500, 2)) for place in (0, 1)])
    topics = pd.DataFrame({"x": np.tile([0.0, 0.01, 1.0], 5), "y": np.tile([0.0, 0.0, 1.0], 5), "papers": 9, "words": "gene, $x"})
    figure = figures.corpus_map("1,000 papers", points, topics)
    assert_apart(figure, 2)
    assert len(figure.axes[0].texts) == 2
    image = figure.axes[0].images[0].get_array()
    assert image.max() > 0 and image[300:400, 300:400].max() < 0.01 * image.max(), "between the two crowds there is nothing"


def test_one_paper_makes_figures():
    nothing = pd.DataFrame(columns=["x", "y", "papers", "words"])
    assert len(boxes(figures.result_map("one", np.zeros((1, 2)), ["A title"], np.array([np.nan]), 1))) == 1
    assert not boxes(figures.corpus_map("one", np.zeros((1, 2)), nothing))


def test_a_page_holds_titles_as_they_are_and_nothing_that_runs(tmp_path):
    page, titles = tmp_path / "papers.html", [*NASTY, None, "Plain"]
    topics = pd.DataFrame({"x": [0.0], "y": [1.0], "papers": [8], "words": ["</script><b>, words"]})
    count = write_page(page, "</script>", papers_of(titles, [*range(1999, 2006), None]), np.random.default_rng(0).random((8, 2)), topics)
    text = page.read_text(encoding="utf-8")
    assert count == 7 and text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text
    shown = page_papers(page)
    assert shown["title"].tolist() == [" ".join(title[: explore.TITLE_MARKS].split()) for title in (*NASTY, "Plain")]
    assert shown["year"].tolist() == [1999, 2000, 2001, 2002, 2003, 2004, 0] and shown["link"][0] == "https://openalex.org/W0"
    assert shown[["x", "y"]].min().min() >= 0 and shown[["x", "y"]].max().max() <= 9999


def test_a_page_of_very_many_papers_stays_small(tmp_path, monkeypatch):
    nothing = pd.DataFrame(columns=["x", "y", "papers", "words"])
    papers = papers_of([f"{i} " + "<" * 600 for i in range(300)])
    monkeypatch.setattr(explore, "PAGE_PAPERS", 200)
    points = np.random.default_rng(0).random((300, 2))
    assert write_page(tmp_path / "page.html", "", papers, points, nothing) == 200
    rows = [int(paper_id[1:]) for paper_id in page_papers(tmp_path / "page.html")["id"]]
    assert rows[:100] == list(range(100)) and len(set(rows)) == 200, "half the most cited, half of the others"
    monkeypatch.setattr(explore, "PAGE_BYTES", 100_000)
    count = write_page(tmp_path / "page.html", "", papers, points, nothing)
    assert 40 < count < 60 and len(page_papers(tmp_path / "page.html")) == count
    assert (tmp_path / "page.html").stat().st_size < 100_000 + explore.PAGE.stat().st_size + 200


def test_fields_beyond_the_most_common_are_others():
    fields = [[f"field {i}"] for i in range(12) for _ in range(12 - i)] + [None, []]
    first = first_fields(papers_of(["t"] * len(fields), fields=fields), np.arange(len(fields)))
    assert sorted(set(first)) == [*(f"field {i}" for i in range(9)), "other"] and (first == "other").sum() == 3 + 2 + 1 + 2
    assert set(first_fields(papers_of(["t"] * 3), np.arange(3))) == {"other"}


def answers(n: int) -> pd.DataFrame:
    return pd.DataFrame({"rank": range(1, n + 1), "paper_id": [f"W{i}" for i in range(1, n + 1)]})


def test_judgements_are_kept_once_and_the_last_word_counts(tmp_path):
    path = tmp_path / "judgements.csv"
    assert not len(judge(path, ["W0"], answers(9), "", "")) and not path.exists()
    judge(path, ["W0"], answers(9), "1, 3-5", "2")
    judge(path, ["W0", "a,b"], answers(9), "1", "")
    assert len(judge(path, ["W0"], answers(9), "2,1", " 5 ")) == 6
    table = read_judgements(path).set_index(["query", "paper_id"])["good"].to_dict()
    assert table == {("W0", "W1"): "1", ("W0", "W2"): "1", ("W0", "W3"): "1", ("W0", "W4"): "1", ("W0", "W5"): "0", ("W0 | a,b", "W1"): "1"}


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("1", "1-2", "1 is marked good and bad"),
        ("10", "", "no answer of rank 10"),
        ("one", "", "'one' names no ranks"),
        ("", "0", "rank 0"),
    ],
)
def test_judgements_of_nothing_are_refused(tmp_path, good, bad, said):
    with pytest.raises(UserError, match=said):
        judge(tmp_path / "judgements.csv", ["W0"], answers(9), good, bad)
    assert not (tmp_path / "judgements.csv").exists()


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "query,paper_id,good\nW0,W1,yes\n", '"'])
def test_a_file_that_holds_no_judgements_is_left_alone(tmp_path, content):
    path = tmp_path / "judgements.csv"
    path.write_text(content)
    with pytest.raises(ArtefactError, match="no table of judgements"):
        judge(path, ["W0"], answers(9), "1", "")
    assert path.read_text() == content


def test_judged_answers_are_counted_by_query(tmp_path):
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3], [0, 1], [0.1, 1]], np.float32)
    search = Search(papers_of([f"t{i}" for i in range(6)]), vectors, vectors)
    path = tmp_path / "judgements.csv"
    pd.DataFrame(
        [("W0", "W1", 1), ("W0", "W2", 0), ("W0", "W4", 1), ("W5", "W4", 1), ("W9", "W1", 1)], columns=COLUMNS
    ).to_csv(path, index=False)  # fmt: skip
    table = judged(path, search, k=2)
    assert table["query"].tolist() == ["W0", "W5"], "of papers that these vectors have"
    assert table.iloc[0].tolist()[1:] == [3, pytest.approx(2 / 3), 2, 0.5] and table.iloc[1].tolist()[1:] == [1, 1, 1, 1]
    assert not len(judged(tmp_path / "none.csv", search))
    assert json.dumps(table.columns.tolist()) == '["query", "judged", "good", "judged in first 2", "good in first 2"]'
