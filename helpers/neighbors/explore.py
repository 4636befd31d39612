"""To explore papers: maps of them, topics named by words of titles, a page to look around in, and what readers said of answers."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from helpers.artefacts import new_file
from helpers.errors import ArtefactError, UserError
from helpers.neighbors.evaluate import labels_of
from helpers.neighbors.search import Search, answerable, link, normalised, top_k
from helpers.rows.files import pieces

ANCHORS = 2_000, 10_000  # papers that t-SNE lays out, at least and at most; a sixth of all in between
TOPICS = 60  # named on a map, at most
TOPIC_PAPERS = 30  # a region of fewer is not named
PAGE_PAPERS, PAGE_BYTES, TITLE_MARKS = 50_000, 14_000_000, 300
MOST_FIELDS = 9  # with a colour of their own
PAGE = Path(__file__).with_name("papers.html")
COLUMNS = ["query", "paper_id", "good"]  # of judgements: good or bad, by which any vectors of the same papers can be measured
TOGETHER = " | "  # between the ids of papers that were asked together


def lay_out(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Points float32 (n, 2) of some thousand papers' vectors float (n, D), by t-SNE, the same for the same seed; UserError for NaN."""
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
    """Points float32 (N, 2) of vectors float (N, D), in bounded RAM: some are laid out, others lie at the mean of the 5 nearest."""
    N = len(vectors)
    anchors = np.sort(np.random.default_rng(seed).choice(N, min(N, int(np.clip(N // 6, *ANCHORS))), replace=False))
    of_anchors, points = normalised(vectors[anchors]), np.empty((N, 2), np.float32)
    laid_out = lay_out(of_anchors, seed)
    for rows in pieces(N, 4096):
        near, cosines = top_k([(normalised(vectors[rows]), of_anchors)], min(5, len(anchors)), False)
        weights = np.maximum(cosines, 1e-3)[:, :, None]
        points[rows] = (laid_out[near] * weights).sum(axis=1) / weights.sum(axis=1)
    points[anchors] = laid_out
    return points


def name_topics(points: np.ndarray, titles: pa.ChunkedArray, seed: int = 0) -> pd.DataFrame:
    """What the regions of a map are about: x, y, papers, words (those most over-represented in titles there), largest first.

    points: float (N, 2); titles: string (N,), null where unknown. Empty where too few papers have a title, or no word comes twice."""
    generator, rows = np.random.default_rng(seed), np.flatnonzero(titles.is_valid().to_numpy())
    rows = np.sort(generator.choice(rows, min(len(rows), 50_000), replace=False))
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

    papers: in descending degree, PAGE_PAPERS at most, half drawn, and 15 MB; points: float32 (N, 2); topics: of `name_topics`."""
    rows, half = np.flatnonzero(answerable(papers)), PAGE_PAPERS // 2
    rows = np.concatenate([rows[:half], np.random.default_rng(seed).permutation(rows[half:])[: PAGE_PAPERS - half]])
    low, high = points.min(axis=0), points.max(axis=0)
    places, at_topics = (np.rint((of - low) / np.maximum(high - low, 1e-9) * [9999, -9999] + [0, 9999]).astype(int).T.tolist()
                         for of in (points[rows], topics[["x", "y"]].to_numpy(float)))  # fmt: skip
    names, field_of = np.unique(first_fields(papers, rows), return_inverse=True)
    titles, ids, years, degrees = (papers[of].take(rows).to_pylist() for of in ("title", "paper_id", "year", "degree"))
    titles = [" ".join((title or "")[:TITLE_MARKS].split()) or paper_id for title, paper_id in zip(titles, ids, strict=True)]
    columns = titles, ids, map(link, ids), [year or 0 for year in years], degrees, field_of.tolist(), *places
    lines = [_in_script(paper) for paper in zip(*columns, strict=True)]
    most = int(np.searchsorted(np.cumsum([len(line.encode()) + 2 for line in lines]), PAGE_BYTES))
    facts = {"name": name, "fields": names.tolist(), "topics": list(zip(*at_topics, topics["words"], strict=True))}
    data = _in_script(facts)[:-1] + ', "papers": [\n' + ",\n".join(lines[:most]) + "]}"
    with new_file(path) as file:
        file.write_text(PAGE.read_text(encoding="utf-8").replace("PAPERS", data), encoding="utf-8")
    return most


def _in_script(value) -> str:
    # As JSON in which no tag can begin or end
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def read_judgements(path: Path) -> pd.DataFrame:
    """The judgements of a file, COLUMNS, with good "1" or "0"; none where there is no file; raises ArtefactError for another file."""
    with contextlib.suppress(ValueError):
        table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)
        if list(table.columns) == COLUMNS and table["good"].isin(["0", "1"]).all():
            return table
    raise ArtefactError(f"{path} is no table of judgements (columns {', '.join(COLUMNS)}, good 1 or 0); mend it, or move it away.")


def judge(path: Path, asked: list[str], answers: pd.DataFrame, good: str, bad: str) -> pd.DataFrame:
    """Add what a reader said of answers to a file, whole or not at all; what was said before of the same answers is replaced.

    asked: ids of the query's papers; answers: with rank and paper_id; good, bad: ranks, as "1, 3-5". Returns all; raises UserError."""
    ranks = {1: _ranks(good), 0: _ranks(bad)}
    if unknown := (ranks[0] | ranks[1]) - set(answers["rank"].tolist()):
        raise UserError(f"There is no answer of rank {min(unknown)}; ranks go from 1 to {len(answers)}.")
    if both := ranks[0] & ranks[1]:
        raise UserError(f"Answer {min(both)} is marked good and bad; take it out of one.")
    said = answers.assign(query=TOGETHER.join(asked), good=answers["rank"].isin(ranks[1]).map({True: "1", False: "0"}))
    said = said.loc[answers["rank"].isin(ranks[0] | ranks[1]), COLUMNS]
    table = pd.concat([read_judgements(path), said]).drop_duplicates(COLUMNS[:2], keep="last")
    if len(said):
        with new_file(path) as file:
            table.to_csv(file, index=False)
    return table


def _ranks(text: str) -> set[int]:
    # The numbers that "1, 3-5" names
    if not re.fullmatch(r"[\s,]*(\d+(\s*-\s*\d+)?[\s,]*)*", text):
        raise UserError(f"{text!r} names no ranks; write them as 1, 3-5.")
    spans = re.findall(r"(\d+)(?:\s*-\s*(\d+))?", text)
    return {rank for first, last in spans for rank in range(int(first), min(int(last or first), int(first) + 10_000) + 1)}


def judged(path: Path, search: Search, k: int = 10) -> pd.DataFrame:
    """How judged answers come out with these vectors, a line a query: how many are good, and how many of those in the first k."""
    lines, ids = [], search.papers["paper_id"]
    for query, said in read_judgements(path).groupby("query", sort=False):
        rows = pc.indices_nonzero(pc.is_in(ids, pa.array(query.split(TOGETHER), ids.type))).to_numpy().astype(np.int64)
        if len(rows):
            good_of = dict(zip(said["paper_id"], said["good"] == "1", strict=True))
            first = [good_of[paper] for paper in search.near(rows, k)["paper_id"] if paper in good_of]
            lines.append((query, len(good_of), np.mean(list(good_of.values())), len(first), np.mean(first) if first else np.nan))
    return pd.DataFrame(lines, columns=["query", "judged", "good", f"judged in first {k}", f"good in first {k}"])
