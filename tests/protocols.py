"""The protocols of the quality figures on public graphs: hidden citations ranked among all earlier papers, classes, Planetoid's links.

Hidden citations: cit-HepTh and Paperscape hide a fifth of the references of each of their latest papers (rounded down), ACL 15 % of all
citations; a random half of the hidden ones is the test split, the other half the validation split. What is scored on the test split was
trained on everything but the test citations; what is scored on validation was trained on neither half, so that tuning never sees a test
citation. Of each hidden citation (u, v) the paper v is ranked among all papers that are cited in training and not younger than u, except
u itself and the other references of u, trained on or asked in the same split. Ties count half; a paper without a row has the zero vector;
a hidden citation whose answer is no candidate (v never cited in training, or younger than u) is not asked. (On validation the test
references of u are not excluded, which would give them away, so that its figures are lower.)

    split = load("hepth", "validation")               # CSR of the training pairs, questions, dates: all in memory
    link_mrr(target, context, None, split)            # {reading: {"mrr": ..., "hits@10": ...}}, rows in the order of split.ids

Planetoid's graphs: `accuracies(vectors, row_of_id, planetoid("cora"))` and `link_figures(vectors, row_of_id, links("cora"))`, in percent.

SYNERGY: the works of ten systematic reviews that have another such work within two citation steps. Of each, how many of the ten nearest
ones are of its review (a work may be of two); and of each review with more than five included works, the average precision of the others
by the sum of cosines to five of them, drawn at random, among all its works but those five: `similarity_figures(cosines, reviews(...))`.

`python -m tests.protocols` prints the scores that need no training.
"""

import csv
import functools
import gzip
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.special import logsumexp

from tests import real_data
from tests.csr import csr

SETS = ("hepth", "paperscape", "acl")
LATER_THAN = {"hepth": 2000, "paperscape": 1995}  # only references of papers of a later year are hidden; in ACL any citation
HIDDEN = {"hepth": 0.2, "paperscape": 0.2, "acl": 0.15}
PLANETOID = ("cora", "citeseer", "pubmed")
SCORES_AT_A_TIME = 1 << 24  # of queries x candidates: 64 MB in float32, a few of them at a time
DECAYS = tuple(10.0**power for power in range(-6, 1))  # weight decays tried on Planetoid's validation papers
VALIDATION_PAPERS = 500


@dataclass(frozen=True)
class Split:
    """A citation graph with some citations hidden; papers are numbered by descending training degree.

    ids: the dump's own ids, N of them, papers that no training citation touches last; dates: float64 (N,), years and fractions of years,
    NaN where unknown; train, questions: int32 (n, 2), citing and cited; indptr int64 (N+1,), contexts int32 (2 x train,): CSR of both
    directions; candidates: int32 (C,), papers cited in training, oldest first.
    """

    ids: list[str]
    dates: np.ndarray
    train: np.ndarray
    questions: np.ndarray
    indptr: np.ndarray
    contexts: np.ndarray
    candidates: np.ndarray

    @property
    def papers(self) -> int:
        """N."""
        return len(self.ids)


def _read(path: str) -> Iterator[list[str]]:
    """The lines of a table after its header, cut at tabs or commas."""
    delimiter = "\t" if ".tsv" in path else ","
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", newline="", encoding="utf-8") as file:
        lines = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
        next(lines)
        yield from lines


def _arxiv_date(paper_id: str) -> float:
    """Year and month of an arXiv id of the old form: hep-th/9201061 is 1992 + 0/12."""
    digits = paper_id.rpartition("/")[2]
    year, month = int(digits[:2]), int(digits[2:4])
    return year + (1900 if year > 90 else 2000) + (month - 1) / 12


def _hepth_dates() -> dict[str, float]:
    """Date of every hep-th paper to the second: its file counts days from 1970."""
    lines = [line.split("\t") for line in real_data._lines(real_data.paper_data() / "cit-hepth" / "Cit-HepTh-nodes.txt.gz")][1:]
    return {line[0]: 1970 + float(line[1]) / 365.2425 for line in lines}


@functools.cache
def graph(name: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(ids, years int64 (N,), dates float64 (N,), citations int64 (E, 2) without doubles and self-citations) of one of SETS."""
    with tempfile.TemporaryDirectory() as folder:
        readers = {"hepth": real_data.cit_hepth, "paperscape": real_data.paperscape}
        citations_file, papers_file = readers[name](Path(folder)) if name in readers else real_data.acl()
        edges = [(line[0], line[1]) for line in _read(citations_file) if line[0] != line[1]]
        years = {line[0]: int(line[2]) for line in _read(papers_file)}
    ids = sorted({paper for edge in edges for paper in edge})
    number = {paper: i for i, paper in enumerate(ids)}
    citations = np.unique(np.array([[number[citing], number[cited]] for citing, cited in edges]), axis=0)
    if name == "hepth":
        known = _hepth_dates()
        dates = np.array([known[paper] for paper in ids])
    elif name == "paperscape":  # references to papers without a record carry their month in their id
        dates = np.array([_arxiv_date(paper) for paper in ids])
    else:
        dates = np.array([float(years[paper]) for paper in ids])
    return ids, np.array([years.get(paper, int(date)) for paper, date in zip(ids, dates, strict=True)]), dates, citations


def hidden(name: str, years: np.ndarray, citations: np.ndarray, generator) -> np.ndarray:
    """Places int64 (n,) of the citations (E, 2) to hide, in random order."""
    if name not in LATER_THAN:
        return generator.permutation(len(citations))[: round(HIDDEN[name] * len(citations))]
    places = generator.permutation(np.flatnonzero(years[citations[:, 0]] > LATER_THAN[name]))
    places = places[np.argsort(citations[places, 0], kind="stable")]  # paper by paper, the references of each in random order
    _, firsts, counts = np.unique(citations[places, 0], return_index=True, return_counts=True)
    place_in_paper = np.arange(len(places)) - np.repeat(firsts, counts)
    return generator.permutation(places[place_in_paper < np.repeat((HIDDEN[name] * counts + 1e-9).astype(np.int64), counts)])


def load(name: str, part: str = "validation", seed: int = 0) -> Split:
    """The "test" or the "validation" split of hepth, paperscape or acl."""
    ids, years, dates, citations = graph(name)
    places = hidden(name, years, citations, np.random.default_rng(seed))
    test, validation = places[: len(places) // 2], places[len(places) // 2 :]
    asked, untrained = {"test": (test, test), "validation": (validation, places)}[part]
    return split_of(ids, dates, np.delete(citations, untrained, axis=0), citations[asked])


def split_of(ids: list[str], dates: np.ndarray, train: np.ndarray, asked: np.ndarray) -> Split:
    """Number the papers by descending training degree; train, asked: citations (n, 2) of the old numbers."""
    N = len(ids)
    order = np.argsort(-np.bincount(train.ravel(), minlength=N), kind="stable")
    new = np.empty(N, np.int32)
    new[order] = np.arange(N)
    train, asked, dates = new[train], new[asked], dates[order]
    indptr, contexts = csr(train.T.ravel(), train[:, ::-1].T.ravel(), N)
    candidates = np.unique(train[:, 1])
    candidates = candidates[np.argsort(dates[candidates], kind="stable")]
    questions = asked[np.isin(asked[:, 1], candidates) & (dates[asked[:, 1]] <= dates[asked[:, 0]])]
    return Split([ids[i] for i in order], dates, train, questions, indptr, contexts, candidates)


def write_edges(citations: np.ndarray, ids: list[str] | None, path: Path) -> Path:
    """Citations int (E, 2) as `citing,cited` lines that `python -m helpers run --dump` reads; ids None: the numbers are the ids."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["citing", "cited"])
        writer.writerows((citing, cited) if ids is None else (ids[citing], ids[cited]) for citing, cited in citations)
    return path


def ranks(split: Split, scores: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Ranks float64 (questions,), from 1, of the cited papers, by every score that scores(papers (m,)) -> name -> (m, C) gives.

    The columns of the scores are split.candidates.
    """
    C = len(split.candidates)
    column = np.full(split.papers, -1, np.int64)
    column[split.candidates] = np.arange(C)
    by_query = np.argsort(split.questions[:, 0], kind="stable")
    queries, firsts = np.unique(split.questions[by_query, 0], return_index=True)
    bounds = np.append(firsts, len(by_query))
    answers = column[split.questions[by_query, 1]]
    limits = np.searchsorted(split.dates[split.candidates], split.dates[queries], side="right")  # not younger than the query
    references_indptr, references = csr(*np.concatenate([split.train, split.questions]).T, split.papers)
    found, step = {}, max(1, SCORES_AT_A_TIME // C)
    for first in range(0, len(queries), step):
        of = slice(first, first + step)
        for name, values in scores(queries[of]).items():
            ranks_of = found.setdefault(name, np.empty(len(by_query)))
            _rank_rows(
                np.ascontiguousarray(values), queries[of], limits[of], bounds[first : first + step + 1], answers, column,
                references_indptr, references, ranks_of,
            )  # fmt: skip
    back = np.empty(len(by_query), np.int64)
    back[by_query] = np.arange(len(by_query))
    return {name: ranks_of[back] for name, ranks_of in found.items()}


@numba.njit(cache=True)
def _rank_rows(scores, queries, limits, bounds, answers, column, references_indptr, references, ranks_of):
    """Fill ranks_of[bounds[i]:bounds[i+1]]: the answers (columns) of queries[i] among the first limits[i] columns of scores (m, C)."""
    for i in range(len(queries)):
        row = scores[i]
        query = queries[i]
        for q in range(bounds[i], bounds[i + 1]):
            answer = row[answers[q]]
            better, equal = 0, 0
            for j in range(limits[i]):
                better += row[j] > answer
                equal += row[j] == answer
            equal -= 1  # the answer itself
            for p in range(references_indptr[query] - 1, references_indptr[query + 1]):
                other = column[query] if p < references_indptr[query] else column[references[p]]  # first the query itself
                if 0 <= other < limits[i] and other != answers[q]:
                    better -= row[other] > answer
                    equal -= row[other] == answer
            ranks_of[q] = 1 + better + 0.5 * equal


def rivals(split: Split) -> np.ndarray:
    """How many papers each asked citation's paper is ranked with, itself left out, int64 (questions,)."""
    of_candidates = split.dates[split.candidates]
    number = np.searchsorted(of_candidates, split.dates[split.questions[:, 0]], side="right")
    references = np.concatenate([split.train, split.questions])
    candidate = np.isin(np.arange(split.papers), split.candidates)
    ranked = candidate[references[:, 1]] & (split.dates[references[:, 1]] <= split.dates[references[:, 0]])
    others = np.bincount(references[ranked, 0], minlength=split.papers)  # the asked one among them: it is not its own rival
    return number - (others + candidate)[split.questions[:, 0]]


def summary(ranks_of: np.ndarray, of: np.ndarray) -> dict[str, float]:
    """MRR, hits@10 and AUC (the mean share of rivals that rank lower) of ranks float (n,) among `of` rivals int (n,), all from 0 to 1."""
    lower = 1 - (ranks_of - 1) / np.maximum(of, 1)
    return {"mrr": float((1 / ranks_of).mean()), "hits@10": float((ranks_of <= 10).mean()), "auc": float(lower.mean())}


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows (N, D) divided by their lengths; zero rows stay zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def rows_of(table: np.ndarray, row_of_id: dict[str, int] | None, ids: list[str]) -> np.ndarray:
    """The table's rows of these ids, float32 (N, D), zero where an id has no row; row_of_id None: the table is in their order."""
    if row_of_id is None:
        return np.asarray(table, np.float32)
    places = np.array([row_of_id.get(paper, -1) for paper in ids])
    return np.where(places[:, None] >= 0, np.asarray(table[np.maximum(places, 0)], np.float32), np.float32(0))


def reading_scores(split: Split, target: np.ndarray, context: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The ways to score papers against split.candidates from the two tables, float32 (N, D) each, in the split's order."""
    trained = np.diff(split.indptr) > 0
    centred = np.where(trained[:, None], target - target[trained].mean(axis=0), np.float32(0))
    T, C, cosine, centred = target[split.candidates], context[split.candidates], unit(target), unit(centred)
    cosines, centreds = cosine[split.candidates], centred[split.candidates]

    def scores(papers):
        forward, backward = target[papers] @ C.T, context[papers] @ T.T
        return {
            "target.context": forward,
            "context.target": backward,
            "target.context + context.target": forward + backward,
            "target-target cosine": cosine[papers] @ cosines.T,
            "target-target cosine, centred": centred[papers] @ centreds.T,
        }

    return scores


def link_mrr(target: np.ndarray, context: np.ndarray, row_of_id: dict[str, int] | None, split: Split) -> dict[str, dict[str, float]]:
    """MRR, hits@10, AUC of every reading; target, context: float (rows, D), row_of_id None where row i is paper i of the split."""
    tables = rows_of(target, row_of_id, split.ids), rows_of(context, row_of_id, split.ids)
    of = rivals(split)
    return {name: summary(found, of) for name, found in ranks(split, reading_scores(split, *tables)).items()}


def simple_scores(split: Split) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What needs no training: random, popularity, co-citation kNN, Adamic-Adar."""
    N, generator = split.papers, np.random.default_rng(0)
    cites = sp.csr_matrix((np.ones(len(split.train), np.float32), split.train.T), shape=(N, N))
    cited = np.asarray(cites.sum(axis=0)).ravel()
    scaled = cites @ sp.diags_array((1 / np.sqrt(np.maximum(cited, 1))).astype(np.float32))
    around = sp.csr_matrix((np.ones(len(split.contexts), np.float32), split.contexts, split.indptr), shape=(N, N))
    weights = (1 / np.log(np.maximum(np.diff(split.indptr), 2))).astype(np.float32)
    candidates = split.candidates
    of_candidates = scaled[:, candidates].tocsr(), (sp.diags_array(weights) @ around)[:, candidates].tocsr()

    def scores(papers):
        return {
            "random": generator.random((len(papers), len(candidates)), np.float32),
            "popularity": np.broadcast_to(cited[candidates], (len(papers), len(candidates))),
            "co-citation kNN": ((scaled[papers] @ scaled.T) @ of_candidates[0]).toarray(),
            "Adamic-Adar": (around[papers] @ of_candidates[1]).toarray(),
        }

    return scores


@dataclass(frozen=True)
class Classes:
    """A Planetoid graph: edges int64 (E, 2) without doubles, each once; labels int64 (N,), -1 where unknown; papers of the public split."""

    edges: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@functools.cache
def planetoid(name: str) -> Classes:
    """Cora, Citeseer or Pubmed with the public split: 20 training papers a class, 500 for validation, 1,000 for the test."""
    folder = real_data.paper_data() / "planetoid"

    def part(kind):
        return pickle.loads((folder / f"ind.{name}.{kind}").read_bytes(), encoding="latin1")

    neighbours, ally, ty, y = part("graph"), part("ally"), part("ty"), part("y")
    in_file_order = np.array((folder / f"ind.{name}.test.index").read_text().split(), np.int64)
    N = len(neighbours)
    labels = np.full(N, -1, np.int64)
    for papers, of_papers in ((np.arange(len(ally)), ally), (in_file_order, ty)):
        labels[papers] = np.where(of_papers.any(axis=1), of_papers.argmax(axis=1), -1)
    ends = np.array([[a, b] for a, others in neighbours.items() for b in others if a != b], np.int64)
    edges = np.unique(np.sort(ends, axis=1), axis=0)
    return Classes(edges, labels, np.arange(len(y)), np.arange(len(y), len(y) + VALIDATION_PAPERS), np.sort(in_file_order))


@dataclass(frozen=True)
class Links:
    """A Planetoid graph with citations hidden: edges int64 (n, 2) to train on; pairs (n, 2) of each part, its citations bool (n,)."""

    papers: int
    train: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def links(name: str, seed: int = 0) -> Links:
    """VGAE's split of Cora, Citeseer or Pubmed: 85 % trained on, 5 % validation, 10 % test, each with as many pairs that are no edge."""
    graph_of, generator = planetoid(name), np.random.default_rng(seed)
    edges, N = generator.permutation(graph_of.edges), len(graph_of.labels)
    tested, validated = len(edges) // 10, len(edges) // 20
    pairs = np.sort(generator.integers(0, N, (4 * (tested + validated), 2)), axis=1)
    keys, first = np.unique(pairs @ [N, 1], return_index=True)
    free = np.isin(keys, edges @ [N, 1], invert=True) & (keys // N != keys % N)
    others = pairs[np.sort(first[free])]

    def part(citations, strangers):
        return np.concatenate([citations, strangers]), np.arange(2 * len(citations)) < len(citations)

    test = part(edges[:tested], others[:tested])
    validation = part(edges[tested : tested + validated], others[tested : tested + validated])
    return Links(N, edges[tested + validated :], validation, test)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of (positive, negative) couples in the right order, ties count half, in percent; scores (n,), positive bool (n,)."""
    negatives = np.sort(scores[~positive])
    below = np.searchsorted(negatives, scores[positive], side="left") + np.searchsorted(negatives, scores[positive], side="right")
    return 100 * float(below.mean() / (2 * len(negatives)))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean precision at the positives, tied scores taken together, in percent; scores (n,), positive bool (n,)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of ties
    found, taken = np.cumsum(positive[order])[last], np.flatnonzero(last) + 1
    return 100 * float((np.diff(found, prepend=0) * found / taken).sum() / positive.sum())


def link_figures(vectors: np.ndarray, row_of_id: dict[str, int] | None, of: Links, part: str = "test") -> dict[str, float]:
    """{auc, ap} in percent of the dot product of vectors (rows, D), {auc,ap}_cosine of their cosine.

    row_of_id None: row i is paper i. Pairs with a paper that no training citation touches get the median of the other pairs.
    """
    plain = rows_of(vectors, row_of_id, [str(i) for i in range(of.papers)])
    (pairs, positive), known = getattr(of, part), np.unique(of.train)
    trained, figures = np.isin(pairs, known).all(axis=1), {}
    for suffix, rows in (("", plain), ("_cosine", unit(plain))):
        scores = np.einsum("nd,nd->n", rows[pairs[:, 0]], rows[pairs[:, 1]])
        scores = np.where(trained, scores, np.median(scores[trained]))
        figures |= {f"auc{suffix}": auc(scores, positive), f"ap{suffix}": average_precision(scores, positive)}
    return figures


def accuracies(vectors: np.ndarray, row_of_id: dict[str, int] | None, of: Classes) -> tuple[float, float]:
    """(validation, test) accuracy in percent of logistic regression on rows (rows, D) of length 1, by the decay best on validation."""
    features = unit(rows_of(vectors, row_of_id, [str(i) for i in range(len(of.labels))]).astype(np.float64))
    best = (-1.0, 0.0)
    for decay in DECAYS:
        weights, bias = _logistic_regression(features[of.train], of.labels[of.train], decay)
        right = (features @ weights + bias).argmax(axis=1) == of.labels
        best = max(best, (100 * float(right[of.validation].mean()), 100 * float(right[of.test].mean())), key=lambda pair: pair[0])
    return best


def _logistic_regression(features: np.ndarray, labels: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """(weights (D, classes), bias (classes,)) that minimise mean cross entropy + decay / 2 x squared weights; features float64 (n, D)."""
    (n, D), classes = features.shape, int(labels.max()) + 1
    wanted = np.eye(classes)[labels]

    def loss(flat):
        weights, bias = flat[:-classes].reshape(D, classes), flat[-classes:]
        logits = features @ weights + bias
        logits -= logsumexp(logits, axis=1, keepdims=True)
        wrong = (np.exp(logits) - wanted) / n
        slopes = np.concatenate([(features.T @ wrong + decay * weights).ravel(), wrong.sum(axis=0)])
        return -(wanted * logits).sum() / n + decay / 2 * (weights**2).sum(), slopes

    found = minimize(loss, np.zeros((D + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    return found[:-classes].reshape(D, classes), found[-classes:]


@dataclass(frozen=True)
class Reviews:
    """SYNERGY's works, n of them, as rows int64 (n,) of a corpus; which reviews they are of, and included in, bool (n, reviews)."""

    rows: np.ndarray
    members: np.ndarray
    included: np.ndarray


def reviews(indptr: np.ndarray, contexts: np.ndarray, row_of_id: dict[str, int]) -> Reviews:
    """The works of the reviews that have another one within two steps over the pairs (CSR of both directions)."""
    lines = [line for line in _read(str(real_data.paper_data() / "synergy" / "nodes.tsv.gz")) if line[0] in row_of_id]
    rows = np.array([row_of_id[line[0]] for line in lines])
    names = sorted({name for line in lines for name in line[6].split("|")})
    members, included = np.zeros((2, len(lines), len(names)), bool)
    for i, line in enumerate(lines):
        of = [names.index(name) for name in line[6].split("|")]
        members[i, of], included[i, of] = True, [flag == "1" for flag in line[7].split("|")]
    around = sp.csr_matrix((np.ones(len(contexts), np.float32), contexts, indptr), shape=(len(indptr) - 1,) * 2)[rows]
    near = around[:, rows] + around @ around.T
    near.setdiag(0)
    company = np.asarray(near.sum(axis=1)).ravel() > 0
    return Reviews(rows[company], members[company], included[company])


def similarity_figures(cosines: np.ndarray, of: Reviews, seeds: int = 5, draws: int = 20) -> dict[str, float]:
    """{same_review_at_10, included_ap, included_chance} in percent, of similarities float32 (n, n), overwritten on the diagonal.

    included_ap: mean over the reviews with more than `seeds` included works, of the mean of `draws` draws; chance: the share of included
    works among those ranked.
    """
    np.fill_diagonal(cosines, -np.inf)
    same = []
    for first in range(0, len(cosines), 1000):
        piece = slice(first, first + 1000)
        nearest = np.argpartition(-cosines[piece], 10, axis=1)[:, :10]
        same.append((of.members[piece][:, None] & of.members[nearest]).any(axis=2).mean(axis=1))
    found, chances = [], []
    for review in np.flatnonzero(of.included.sum(axis=0) > seeds):
        works, included = np.flatnonzero(of.members[:, review]), np.flatnonzero(of.included[:, review])
        for draw in range(draws):
            asked = np.random.default_rng([draw, review]).choice(included, seeds, replace=False)
            others = np.setdiff1d(works, asked)
            positive = of.included[others, review]
            found.append(average_precision(cosines[np.ix_(others, asked)].sum(axis=1), positive))
            chances.append(100 * positive.mean())
    figures = {"same_review_at_10": 100 * np.concatenate(same).mean(), "included_ap": np.mean(found), "included_chance": np.mean(chances)}
    return {name: float(value) for name, value in figures.items()}


def neighbourhood_cosines(indptr: np.ndarray, contexts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What needs no training: shared neighbours / sqrt(degree x degree) of every two of these rows, float32 (n, n)."""
    around = sp.csr_matrix((np.ones(len(contexts), np.float32), contexts, indptr), shape=(len(indptr) - 1,) * 2)[rows]
    scaled = sp.diags_array(1 / np.sqrt(np.maximum(np.diff(around.indptr), 1)).astype(np.float32)) @ around
    return (scaled @ scaled.T).toarray()


def main() -> None:
    """Print the scores that need no training, x 100, for every set and split."""
    for name in SETS:
        for part in ("test", "validation"):
            split = load(name, part)
            print(f"{name} {part}: {len(split.train):,} trained, {len(split.questions):,} asked, {len(split.candidates):,} candidates")
            of = rivals(split)
            for score, found in ranks(split, simple_scores(split)).items():
                print(f"  {score:<16}" + "".join(f"{key} {100 * value:5.1f}  " for key, value in summary(found, of).items()), flush=True)


if __name__ == "__main__":
    main()
