"""Maps: papers as points of a plane, its topics named by words of their titles, and a page to look around in."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from helpers.artefacts import new_file
from helpers.errors import UserError
from helpers.neighbors.evaluate import labels_of
from helpers.neighbors.search import answerable, link, normalised, top_k
from helpers.rows.files import pieces

ANCHORS = 2_000, 10_000  # papers that t-SNE lays out, at least and at most; a sixth of all in between
AROUND = 5  # anchors that another paper lies between
TOPICS = 60  # named on a map, at most
TOPIC_PAPERS = 30  # a region of fewer is not named
TOPIC_TITLES = 50_000  # read for their words, at most
PAGE_PAPERS, PAGE_BYTES, TITLE_MARKS = 50_000, 14_000_000, 300
MOST_FIELDS = 9  # with a colour of their own
PAGE = Path(__file__).with_name("papers.html")


def lay_out(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points for papers, some thousands at most, those with similar vectors near each other: float32 (n, 2) of float (n, D), by t-SNE.

    The same seed gives the same points on the same machine. UserError where a vector is not a number.
    """
    # UMAP's maps are no better here, and before the first one it compiles for longer than t-SNE takes for 3,000 papers (RESULTS.md).
    n, D = vectors.shape
    rows = np.pad(normalised(vectors), ((0, 0), (0, max(0, 2 - D))))
    if not np.isfinite(rows).all():
        raise UserError("A vector is not a number (NaN): these vectors are damaged, or their training was; export or train them again.")
    rows += 1e-4 * np.random.default_rng(seed).standard_normal(rows.shape, np.float32)  # papers with the same vector lie side by side
    if n < 4:
        return rows[:, :2]
    with threadpool_limits(1):  # its threads wait for each other in every step: beside other work that takes ten times as long
        points = TSNE(perplexity=min(30, (n - 1) / 3), max_iter=500, init="pca", random_state=seed).fit_transform(rows)
    low, high, ranks = points.min(axis=0), points.max(axis=0), np.argsort(np.argsort(points, axis=0), axis=0)
    return ((points - low) / (high - low) / 2 + ranks / (2 * n)).astype(np.float32)  # half by rank: crowds spread into the void


def map_papers(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points for all papers, float32 (N, 2) of float (N, D), perhaps memory-mapped: some are laid out, the others lie between them.

    Another paper lies at the mean of its AROUND nearest anchors, weighted by cosine; RAM is bounded whatever N is.
    """
    N = len(vectors)
    anchors = np.sort(np.random.default_rng(seed).choice(N, min(N, int(np.clip(N // 6, *ANCHORS))), replace=False))
    of_anchors, points = normalised(vectors[anchors]), np.empty((N, 2), np.float32)
    laid_out = lay_out(of_anchors, seed)
    for rows in pieces(N, 4096):
        near, cosines = top_k([(normalised(vectors[rows]), of_anchors)], min(AROUND, len(anchors)), False)
        weights = np.maximum(cosines, 1e-3)[:, :, None]
        points[rows] = (laid_out[near] * weights).sum(axis=1) / weights.sum(axis=1)
    points[anchors] = laid_out
    return points


def name_topics(points: np.ndarray, titles: pa.ChunkedArray, seed: int = 0) -> pd.DataFrame:
    """What the regions of a map are about: x, y, papers, words (those most over-represented in titles there), largest first.

    points: float (N, 2); titles: string (N,), null where unknown. Empty where too few papers have a title, or no word comes twice.
    """
    generator, rows = np.random.default_rng(seed), np.flatnonzero(titles.is_valid().to_numpy())
    rows = np.sort(generator.choice(rows, min(len(rows), TOPIC_TITLES), replace=False))
    nothing, R = pd.DataFrame(columns=["x", "y", "papers", "words"]), min(TOPICS, len(rows) // TOPIC_PAPERS)
    plain = [re.sub(r"<[^<>]{1,20}>|\\\w+", " ", title) for title in titles.take(rows).to_pylist()]  # without HTML and LaTeX
    counter = CountVectorizer(stop_words="english", token_pattern=r"[^\W\d_]{3,}", ngram_range=(1, 2), binary=True, min_df=2)
    try:
        holds = counter.fit_transform(plain if R else [])
    except ValueError:  # an empty vocabulary
        return nothing
    here = points[rows]
    with threadpool_limits(1):
        region = KMeans(R, n_init=1, random_state=seed).fit_predict(here)
    terms, of_all, topics = counter.get_feature_names_out(), np.asarray(holds.sum(axis=0))[0] / len(rows), []
    for place in range(R):
        inside = region == place
        counts = np.asarray(holds[inside].sum(axis=0))[0]
        gain = counts * np.log(np.maximum(counts, 1e-9) / inside.sum() / of_all)  # of knowing where a title is, in nats
        gain *= 1 + np.char.count(terms.astype(str), " ")  # two words say more than one
        chosen = []
        for term in terms[np.argsort(-gain, kind="stable")[:20]].tolist():
            if len(chosen) < 2 and not {word[:6] for word in term.split()} & {word[:6] for word in " ".join(chosen).split()}:
                chosen.append(term)
        topics.append((*np.median(here[inside], axis=0).tolist(), int(inside.sum()), ", ".join(chosen)))
    topics = pd.DataFrame(topics, columns=nothing.columns).sort_values("papers", ascending=False, kind="stable").drop_duplicates("words")
    return topics[topics["papers"] >= TOPIC_PAPERS // 2].reset_index(drop=True)


def first_fields(papers: pa.Table, rows: np.ndarray) -> np.ndarray:
    """The first field of papers, rows int (n,), as object (n,): "other" for all but the MOST_FIELDS most common, and where unknown."""
    labels, names = labels_of(papers.take(rows), fewest=1)
    return np.array([*names[:MOST_FIELDS], "other"], object)[np.where(labels < MOST_FIELDS, labels, -1)]


def write_page(path: Path, name: str, papers: pa.Table, points: np.ndarray, topics: pd.DataFrame, seed: int = 0) -> int:
    """Write one HTML file to look around in, which needs neither network nor server; returns how many papers it shows.

    papers: in descending degree; points: float32 (N, 2); topics: of `name_topics`. Of more than PAGE_PAPERS half are the most cited, half
    drawn from the others; fewer where their titles are so long that the file would reach 15 MB.
    """
    rows, half = np.flatnonzero(answerable(papers)), PAGE_PAPERS // 2
    rows = np.concatenate([rows[:half], np.random.default_rng(seed).permutation(rows[half:])[: PAGE_PAPERS - half]])
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = [np.rint((of - low) / np.maximum(high - low, 1e-9) * [9999, -9999] + [0, 9999]).astype(int).tolist()
              for of in (points[rows], topics[["x", "y"]].to_numpy(float))]  # fmt: skip
    names, of_row = np.unique(first_fields(papers, rows), return_inverse=True)
    of_page = papers.select(["title", "paper_id", "year", "degree"]).take(rows).to_pylist()
    shown = [
        [" ".join((paper["title"] or "")[:TITLE_MARKS].split()) or paper["paper_id"], paper["paper_id"], link(paper["paper_id"]),
         paper["year"] or 0, paper["degree"], field, *place]
        for paper, field, place in zip(of_page, of_row.tolist(), scaled[0], strict=True)
    ]  # fmt: skip
    lines = [_in_script(paper) for paper in shown]
    most = int(np.searchsorted(np.cumsum([len(line.encode()) + 2 for line in lines]), PAGE_BYTES))
    facts = {"name": name, "fields": names.tolist(), "topics": [[*at, words] for at, words in zip(scaled[1], topics["words"], strict=True)]}
    data = _in_script(facts)[:-1] + ', "papers": [\n' + ",\n".join(lines[:most]) + "]}"
    with new_file(path) as file:
        file.write_text(PAGE.read_text(encoding="utf-8").replace("PAPERS", data), encoding="utf-8")
    return min(most, len(lines))


def _in_script(value) -> str:
    # As JSON in which no tag can begin or end
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
