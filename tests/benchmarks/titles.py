"""Papers known by their title alone: what they cite, and who cites them, found by the encoder, by TF-IDF, and by both together.

Protocol: of the papers with a title and a citation to or from another such one, a random eighth (at most MOST_HELD) is the test set and
as many the validation set. These papers are held out entirely: no citation of theirs is trained, by SGNS or by the encoder, and no word
of theirs counts in TF-IDF. Each link of a held-out paper with a training paper that has a title is a question, whichever cites the other:
that paper's rank among all training papers with a title, the held-out paper's other links left out; ties count half.

encoder: cosine of the row that it makes of the title with the papers' trained target rows, the mean of these subtracted from both;
TF-IDF: cosine of titles, scikit-learn's defaults; blend: w z(encoder) + (1 - w) z(TF-IDF), z a score less its mean over a question's
candidates, in standard deviations, w chosen on validation; text kNN: the mean of the trained rows of the KNN titles nearest by TF-IDF,
weighed by their cosine, in place of the encoder's row, and its blend with TF-IDF likewise.
"""

import dataclasses
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers.models.title_encoder import TitleEncoder, embed, fit
from helpers.neighbors.search import normalised
from helpers.pairs.blocks import PairBlocks
from helpers.pairs.noise import alias_table
from tests import protocols, real_data
from tests.benchmarks.quality import Run
from tests.csr import csr

MOST_HELD = 1000
WEIGHTS = np.linspace(0, 1, 21)
KNN = 5
NOISE_POWER = 0.5
TITLES_A_BATCH = 256
QUICK_BEFORE = 1994.0
THREADS = 1  # more wait for each other wherever something else runs


@dataclasses.dataclass(frozen=True)
class Corpus:
    """ids (N) and titles (N), None where there is none; citations int (E, 2), citing and cited."""

    ids: list[str]
    titles: list[str | None]
    citations: np.ndarray


def paperscape(before: float = np.inf) -> Corpus:
    """arXiv 1991 to 1996, or the papers before a date (in years)."""
    ids, _, dates, citations = protocols.graph("paperscape")
    with tempfile.TemporaryDirectory() as folder:
        titles = {line[0]: line[1] for line in protocols._read(real_data.paperscape(Path(folder))[1])}
    return Corpus(ids, [titles.get(paper) for paper in ids], citations[(dates[citations] < before).all(axis=1)])


def synergy() -> Corpus:
    """The works of ten systematic reviews, and what they cite, mostly without a title."""
    titles, edges = {}, []
    with gzip.open(real_data.paper_data() / "openalex-medline-works.jsonl.gz", "rt") as file:
        for work in map(json.loads, file):
            titles[work["id"]] = work["title"]
            edges += [(work["id"], cited) for cited in work["referenced_works"] if cited != work["id"]]
    ids = sorted({paper for edge in edges for paper in edge} | set(titles))
    number = {paper: i for i, paper in enumerate(ids)}
    citations = np.unique([[number[citing], number[cited]] for citing, cited in edges], axis=0)
    return Corpus([paper.rpartition("/")[2] for paper in ids], [titles.get(paper) for paper in ids], citations)


@dataclasses.dataclass(frozen=True)
class Split:
    """train int (E, 2); candidates int (C,); test and validation: whether a held-out paper (m,) and a candidate are linked, (m, C)."""

    train: np.ndarray
    candidates: np.ndarray
    test: tuple[np.ndarray, csr_array]
    validation: tuple[np.ndarray, csr_array]


def hold_out(corpus: Corpus, seed: int) -> Split:
    """Hold papers out entirely, as the protocol above says."""
    N, citations = len(corpus.ids), corpus.citations
    titled = np.array([bool(title and title.strip()) for title in corpus.titles])
    order = np.random.default_rng(seed).permutation(np.unique(citations[titled[citations].all(axis=1)]))
    size = min(MOST_HELD, len(order) // 8)
    parts = np.sort(order[:size]), np.sort(order[size : 2 * size])
    held = np.isin(np.arange(N), np.concatenate(parts))
    candidates = np.flatnonzero(titled & ~held)
    ones = np.ones(2 * len(citations), np.float32)
    linked = csr_array((ones, (citations.T.ravel(), citations[:, ::-1].T.ravel())), (N, N))
    return Split(citations[~held[citations].any(axis=1)], candidates, *((part, linked[part][:, candidates]) for part in parts))


def hits_at_10(scores: np.ndarray, linked: csr_array) -> float:
    """The share of links that are among the first ten of a question; scores (m, C)."""
    found = []
    for own, row in zip(scores, range(linked.shape[0]), strict=True):
        answers = linked.indices[linked.indptr[row] : linked.indptr[row + 1]]
        others = np.partition(np.delete(own, answers), -20)[-20:]  # where these do not say that ten are ahead, no others do
        better, equal = ((compare(others, own[answers, None])).sum(axis=1) for compare in (np.greater, np.equal))
        found += (better + 0.5 * equal < 10).tolist()
    return float(np.mean(found))


def standardised(scores: np.ndarray) -> np.ndarray:
    """z of the protocol; scores (m, C)."""
    return (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-9)


def nearest_mean(similarities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of the rows (C, D) of the KNN largest similarities (m, C), weighed by them, float32 (m, D); rows of zeros left out."""
    similarities = np.where(rows.any(axis=1), similarities, 0)
    nearest = np.argpartition(-similarities, KNN, axis=1)[:, :KNN]
    return np.einsum("mk,mkd->md", np.take_along_axis(similarities, nearest, axis=1), rows[nearest]).astype(np.float32)


def blended(scores: dict[str, dict[str, np.ndarray]], name: str, split: Split) -> tuple[float, float]:
    """(hits@10 on the test set of this score and TF-IDF together, the score's weight, which validation chose)."""
    z = {part: (standardised(of_part[name]), standardised(of_part["tfidf"])) for part, of_part in scores.items()}
    mixed = {part: lambda weight, part=part: weight * z[part][0] + (1 - weight) * z[part][1] for part in z}
    weight = max(WEIGHTS, key=lambda weight: hits_at_10(mixed["validation"](weight), split.validation[1]))
    return hits_at_10(mixed["test"](weight), split.test[1]), float(weight)


def figures_of(corpus: Corpus, epochs: int, seed: int = 0) -> dict[str, float]:
    """hits_at_10_{title,tfidf,blend,random,text_knn,text_knn_blend} of one split."""
    split, titles, N = hold_out(corpus, seed), corpus.titles, len(corpus.ids)
    run = Run.of_citations(split.train, corpus.ids).trained(seed=seed)
    known = tuple(protocols.rows_of(table, run.row_of_id, corpus.ids) for table in (run.target, run.context))
    trained = known[0].any(axis=1)
    mean = known[0][trained].mean(axis=0)
    rows = normalised(np.where(trained[:, None], known[0] - mean, 0))
    indptr, contexts = csr(split.train.T.ravel(), split.train[:, ::-1].T.ravel(), N)
    with_title = np.diff(indptr)[[bool(title) for title in titles]]
    batch = int(TITLES_A_BATCH * indptr[-1] / np.count_nonzero(with_title))  # pairs, of targets with and without a title
    source, noise = PairBlocks(indptr, contexts, seed, 1 << 17), alias_table(np.diff(indptr), NOISE_POWER)
    of_candidates = [titles[paper] for paper in split.candidates]
    asked = {part: [titles[paper] for paper in getattr(split, part)[0]] for part in ("validation", "test")}
    tfidf = TfidfVectorizer().fit(of_candidates)
    by_words = {part: (tfidf.transform(texts) @ tfidf.transform(of_candidates).T).toarray() for part, texts in asked.items()}
    torch.manual_seed(seed)
    encoder, candidates = TitleEncoder(rows.shape[1]), rows[split.candidates]

    def evaluate(encoder) -> dict[str, float]:
        return {"hits@10": hits_at_10(normalised(embed(encoder, asked["validation"])[0] - mean) @ candidates.T, split.validation[1])}

    log = fit(encoder, titles, source, noise, epochs=epochs, batch_pairs=batch, known=known, evaluate=evaluate)
    for row in log:
        print(f"  epoch {row['epoch']}: loss {row['loss']:.3f}, hits@10 on validation {row['hits@10']:.4f}", flush=True)
    scores = {}
    for part, texts in asked.items():
        neighbours = nearest_mean(by_words[part], candidates)
        of_titles, of_neighbours = (normalised(made) @ candidates.T for made in (embed(encoder, texts)[0] - mean, neighbours))
        scores[part] = {"title": of_titles, "tfidf": by_words[part], "text_knn": of_neighbours}
    found = {name: hits_at_10(of_one, split.test[1]) for name, of_one in scores["test"].items()}
    found["random"] = hits_at_10(np.random.default_rng(seed).random(by_words["test"].shape, np.float32), split.test[1])
    for name, blend in (("title", "blend"), ("text_knn", "text_knn_blend")):
        found[blend], weight = blended(scores, name, split)
        print(f"  {blend}: the weight of {name} is {weight:.2f}")
    links, papers = split.test[1].nnz, len(split.test[0])
    told = f"{papers:,} test papers with {links:,} links, ranked among {len(of_candidates):,} titles"
    print(f"  {told}: {', '.join(f'{name} {value:.4f}' for name, value in found.items())}", flush=True)
    return found


def run(quick: bool = False) -> dict[str, float] | None:
    """hits_at_10_{title,tfidf,blend,random,text_knn,text_knn_blend} of Paperscape and, with _synergy behind them, of SYNERGY.

    --quick: of Paperscape's papers before QUICK_BEFORE alone, in fewer epochs.
    """
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    torch.set_num_threads(THREADS)
    corpora = {"": (paperscape(QUICK_BEFORE), 2)} if quick else {"": (paperscape(), 4), "_synergy": (synergy(), 8)}
    figures = {}
    for suffix, (corpus, epochs) in corpora.items():
        print(f"{suffix.strip('_') or 'paperscape'}: {len(corpus.ids):,} papers, {len(corpus.citations):,} citations", flush=True)
        figures |= {f"hits_at_10_{name}{suffix}": value for name, value in figures_of(corpus, epochs).items()}
    return figures
