"""Find papers by id or title, and search among their vectors: what is near one paper or several, how near that is, and why."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.sparse import csr_array

from helpers.corpus.build import FEW_CITATIONS
from helpers.errors import UserError
from helpers.rows.files import ReadThrough, pieces

CHUNK_VALUES = 1 << 24  # of rows compared at a time: 64 MB as float32
COSINE = "target-target cosine, centred"  # without what all rows share: finds more than the plain one (tests/benchmarks/RESULTS.md)
SIMILARITIES = {  # (the queries' table, the answers'), whose scores are summed
    COSINE: (("centred", "centred"),),
    "target-target cosine": (("target", "target"),),
    "context-context cosine": (("context", "context"),),
    "target.context": (("target", "context"),),
    "context.target": (("context", "target"),),
    "target.context + context.target": (("target", "context"), ("context", "target")),
}
LINKS = {r"W\d+": "https://openalex.org/", r"[0-9a-f]{40}": "https://www.semanticscholar.org/paper/"}
IDS = (  # what an id looks like in a line of text, and the columns of papers that hold such ids; NIH's own ids are PMIDs
    (r"(?i)\b10\.\d{4,9}/[^\s\"<>]+", ("doi",)),
    (r"(?i)(?:pmid:?\s*|pubmed\S*/)(\d{1,9})\b", ("pmid", "paper_id")),
    (r"\bW\d{2,}\b|\b[0-9a-f]{40}\b", ("paper_id",)),
    (r"^\s*(\S+)\s*$", ("paper_id", "pmid")),
)
LEAST_WORDS = 4  # of a title that is looked for within a line


def answerable(papers: pa.Table) -> np.ndarray:
    """Which papers can be shown as answers, bool (N,): those with a title, or all where none has one (a bare edge list)."""
    titled = papers["title"].is_valid().to_numpy()
    return titled if titled.any() else np.ones(len(papers), bool)


def rows_with_id(papers: pa.Table, line: str) -> np.ndarray:
    """Rows, int64, of the papers whose DOI, PMID or own id stands in a line of text: `10.1/ab`, `https://doi.org/...`, `PMID: 7`, `W12`."""
    for form, columns in IDS:
        found = [ending for found in re.findall(form, line) for ending in (found.rstrip(".,;"), found.rstrip(".,;)]"))]
        for column in columns if found else ():
            ids = pa.array([each.lower() if column == "doi" else each for each in found])
            if column in papers.column_names and len(rows := pc.indices_nonzero(pc.is_in(papers[column], ids)).to_numpy()):
                return rows.astype(np.int64)
    return np.empty(0, np.int64)


def find_papers(papers: pa.Table, query: str, most: int = 10) -> np.ndarray:
    """Rows int64 (`most` at most) of papers whose id, DOI or PMID is `query` or whose title contains it in any case, most cited first.

    papers: in descending degree. An empty query gives the most cited that can be shown, no match a UserError with the nearest titles."""
    if not query:
        return np.flatnonzero(answerable(papers))[:most]
    rows = rows_with_id(papers, query)
    if not len(rows):
        rows = pc.indices_nonzero(pc.match_substring(papers["title"], query, ignore_case=True)).to_numpy()
    if len(rows) > most:
        print(f"{len(rows):,} titles contain {query!r}; here are the {most} most cited.")
    if not len(rows):
        words = sorted(set(re.findall(r"\w{3,}", query)), key=len)[-8:]
        found = [pc.fill_null(pc.match_substring(papers["title"], word, ignore_case=True), False).to_numpy() for word in words]
        holds = sum(found, np.zeros(len(papers), np.int8))
        near = np.argsort(-holds, kind="stable")[:3][: int((holds > 0).sum())]
        misses = "; ".join(f"{title[:80]!r}" for title in papers["title"].take(near).to_pylist())
        raise UserError(f"No paper has the id {query!r} or a title that contains it; {f'near: {misses}' if misses else 'try other words'}.")
    return rows[:most].astype(np.int64)


def find_references(papers: pa.Table, text: str) -> tuple[np.ndarray, list[str]]:
    """(rows int64 of the papers that a pasted list of references names, the lines that name none): a DOI, PMID, id or title a line.

    A title counts where it stands in the line and has LEAST_WORDS words, or is all of it: the longest, of the same the most cited."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [rows_with_id(papers, line).tolist() for line in lines]
    runs = [() if rows else _runs_of_words(line) for line, rows in zip(lines, found, strict=True)]
    wanted, plain = pa.array({run for of_line in runs for run in of_line}, pa.string()), pc.utf8_lower(papers["title"])
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(plain, r"[^\pL\pN]+", " "))
    hits = pc.indices_nonzero(pc.is_in(plain, wanted)).to_numpy()
    row_of = dict(zip(plain.take(hits[::-1]).to_pylist(), hits[::-1].tolist(), strict=True))
    for rows, of_line in zip(found, runs, strict=True):
        rows += [row_of[run] for run in of_line if run in row_of][:1]
    rows = dict.fromkeys(row for rows in found for row in rows)
    return np.array([*rows], np.int64), [line for line, rows in zip(lines, found, strict=True) if not rows]


def _runs_of_words(line: str) -> list[str]:
    # Every run of LEAST_WORDS words or more of a line, and the whole line, as titles are compared: lower case, longest first
    words = re.findall(r"[^\W_]+", line.lower())
    lengths = range(len(words), min(LEAST_WORDS, len(words)) - 1, -1)
    return [" ".join(words[first : first + length]) for length in lengths for first in range(len(words) - length + 1)]


def normalised(rows: np.ndarray) -> np.ndarray:
    """rows / |rows|, float32 (n, D); rows of length 0 stay 0."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def tables_of(target, context) -> dict:
    """What similarities are taken between: the two tables, float (N, D), and "centred": targets less their mean, but for rows of zeros."""
    # the mean of more rows is that of so many, evenly spread over the degrees
    rows = np.unique(np.linspace(0, len(target) - 1, 1 << 14).astype(np.int64))
    some = torch.from_numpy(np.asarray(target[rows], np.float32))
    mean = some.sum(dim=0) / some.any(dim=1).sum().clamp_min(1)

    def less(rows: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.require(rows, np.float32, "CW"))
        return torch.where(rows.any(dim=-1, keepdim=True), rows - mean, 0).numpy()

    return {"target": target, "context": context, "centred": ReadThrough(less, target)}


def top_k(parts, k: int, cosine: bool, allowed=None, own=None) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the highest scores for each query, best first, exactly: (rows int64 (Q, k), scores float32 (Q, k)).

    parts: pairs (queries float (Q, D), vectors (N, D)), whose products, or cosines, are summed; allowed: bool (N,), possible answers; own:
    int64 (Q,), a row that is no answer to its query. RAM is bounded by CHUNK_VALUES. UserError for too few answers, or NaN."""
    N, D = parts[0][1].shape
    allowed = np.ones(N, bool) if allowed is None else allowed
    most = int(allowed.sum()) - int(own is not None and allowed[own].any())
    if k > most:
        raise UserError(f"{k} neighbours were asked for, but only {most:,} papers can be answers; ask for fewer or loosen the filters.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    queries = [torch.from_numpy(normalised(of_part) if cosine else np.asarray(of_part, np.float32)).to(device) for of_part, _ in parts]
    best, scores_of_best = (torch.empty(len(queries[0]), 0, dtype=dtype, device=device) for dtype in (torch.int64, torch.float32))
    for chunk in pieces(N, max(1, CHUNK_VALUES // D)):
        scores = 0
        for of_part, (_, vectors) in zip(queries, parts, strict=True):
            rows = torch.from_numpy(np.require(vectors[chunk], requirements="CW")).to(device).float()
            part = of_part @ rows.T
            scores = scores + (part / torch.linalg.vector_norm(rows, dim=1).clamp_min_(1e-12) if cosine else part)
        scores[:, torch.from_numpy(~allowed[chunk]).to(device)] = -torch.inf
        if own is not None:
            mine = np.flatnonzero((chunk.start <= own) & (own < chunk.stop))
            scores[mine, own[mine] - chunk.start] = -torch.inf
        top, places = scores.topk(min(k, scores.shape[1]))
        scores_of_best, best = torch.cat([scores_of_best, top], dim=1), torch.cat([best, places + chunk.start], dim=1)
        scores_of_best, places = scores_of_best.topk(min(k, scores_of_best.shape[1]))
        best = best.gather(1, places)
    if torch.isnan(scores_of_best).any():  # it counts as the highest
        raise UserError("A vector is not a number (NaN): these vectors are damaged, or their training was; export or train them again.")
    return best.cpu().numpy(), scores_of_best.cpu().numpy()


def nearest(vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the highest cosine to each query row int (n,) but itself: (rows int64 (n, k), cosines float32 (n, k)); UserError."""
    queries = np.asarray(queries, np.int64)
    return top_k([(vectors[queries], vectors)], k, True, allowed, queries)


def fold_in(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What several papers, rows int (n,), have in common, float32 (1, D): the sum of their normalised vectors, normalised."""
    # Of a new paper's references this is its own vector, without training: it finds more references as well as a trained one (RESULTS.md).
    return normalised(normalised(vectors[rows]).sum(axis=0, keepdims=True))


@dataclasses.dataclass
class Search:
    """Papers with their two tables of vectors, to be searched; citations: (indptr, cited) by citing paper, where they are at hand."""

    papers: pa.Table
    target: np.ndarray  # float (N, D), perhaps memory-mapped
    context: np.ndarray
    citations: tuple[np.ndarray, np.ndarray] | None = None
    reaching: Callable[[int], np.ndarray] | None = None  # the target table with a reach of so many steps; None where it cannot be had
    _tables: dict[int, dict] = dataclasses.field(default_factory=dict, init=False, repr=False)  # by reach

    def tables(self, reach: int = 0) -> dict:
        """`tables_of` the targets with this reach; UserError where it cannot be had."""
        if reach and not self.reaching:
            raise UserError(f"A reach of {reach} needs the run's own training pairs, which are not at hand; take reach 0.")
        if reach not in self._tables:
            self._tables[reach] = tables_of(self.reaching(reach) if reach else self.target, self.context)
        return self._tables[reach]

    def allowed(self, years=(None, None), field: str = "", venue: str = "", min_degree: int = 0, leave_out=()) -> np.ndarray:
        """Which papers may be answers, bool (N,): with a title, of these years, field, (part of a) venue, not in leave_out (rows)."""
        allowed = answerable(self.papers) & (self.papers["degree"].to_numpy() >= min_degree)
        missing = {name for name, wanted in (("fields", field), ("venue", venue)) if wanted} - set(self.papers.column_names)
        if missing:
            raise UserError(f"These papers have no {min(missing)}: filters by it need the run's own corpus.")
        if years != (None, None):
            year = self.papers["year"].to_numpy(zero_copy_only=False).astype(float)
            allowed &= (year >= (years[0] or -np.inf)) & (year <= (years[1] or np.inf))
        if field:
            lists = self.papers["fields"].combine_chunks()
            holders = pc.list_parent_indices(lists).filter(pc.equal(pc.utf8_lower(pc.list_flatten(lists)), field.lower())).to_numpy()
            allowed &= np.isin(np.arange(len(allowed)), holders)
        if venue:
            allowed &= pc.fill_null(pc.match_substring(self.papers["venue"], venue, ignore_case=True), False).to_numpy()
        allowed[np.asarray(leave_out, np.int64)] = False
        return allowed

    def near(self, rows: np.ndarray, k: int = 10, similarity: str = COSINE, reach: int = 0, **filters) -> pd.DataFrame:
        """The k papers (or as many as may be answers) nearest to one paper, or to several together (`fold_in`), as a table to read.

        similarity: of SIMILARITIES, or "merged": each paper by its best rank; reach: smoothing steps over the targets, 16 to 32 for wider
        topics; filters: of `allowed`; percentile: the percentage of 1,000 random papers that are further away. UserError for no answer."""
        if similarity not in (*SIMILARITIES, "merged"):
            raise UserError(f"There is no similarity {similarity!r}; choose one of {', '.join(SIMILARITIES)}, or merged.")
        rows, allowed = np.atleast_1d(np.asarray(rows, np.int64)), self.allowed(**filters)
        allowed[rows] = False
        left = int(allowed.sum())
        if not (len(rows) and k > 0 and left):
            raise UserError(f"{len(rows)} papers ask for {k} answers of {left:,}: each must be 1 or more; perhaps loosen the filters.")
        k = min(k, left)
        found = [self._one(rows, k, name, reach, allowed) for name in (SIMILARITIES if similarity == "merged" else (similarity,))]
        table = pd.concat(found).sort_values("rank", kind="stable").drop_duplicates("row", ignore_index=True)
        table = table[:k].assign(rank=np.arange(1, k + 1))
        of_found = self.papers.select(["title", "year", "degree", "paper_id"]).take(table["row"].to_numpy())
        table = pd.concat([table, of_found.to_pandas(integer_object_nulls=True)], axis=1).rename(columns={"degree": "citations"})
        table["few citations"] = table["citations"] < FEW_CITATIONS
        table["link"] = [link(paper_id) for paper_id in table["paper_id"]]
        table["why"] = self.why(rows, table["row"].to_numpy()) if self.citations else ""
        return table

    def _one(self, rows: np.ndarray, k: int, name: str, reach: int, allowed: np.ndarray) -> pd.DataFrame:
        cosine, tables = "cosine" in name, self.tables(reach)
        parts = [(fold_in(tables[asked], rows), tables[answers]) for asked, answers in SIMILARITIES[name]]
        found, scores = top_k(parts, k, cosine, allowed)
        strangers = np.sort(np.random.default_rng(0).choice(len(allowed), min(1000, len(allowed)), replace=False))
        _, of_strangers = top_k([(asked, answers[strangers]) for asked, answers in parts], len(strangers), cosine)
        percentile = 100 * (of_strangers[0] < scores[0][:, None]).mean(axis=1)
        return pd.DataFrame({"rank": np.arange(1, k + 1), "score": scores[0], "percentile": percentile, "by": name, "row": found[0]})

    def why(self, queries: np.ndarray, answers: np.ndarray) -> list[str]:
        """What ties each answer to the queries in the citations: cites or is cited by one, shared references, shared citers."""
        indptr, cited = self.citations
        offsets = indptr.astype(np.int32 if len(cited) < 2**31 else np.int64)  # of 32 bits, or scipy makes 64 of the ids, too
        cites = csr_array((np.ones(len(cited), np.int8), cited, offsets), (len(self.papers),) * 2)
        citers = cites[:, [*queries, *answers]].tocsc()
        cite_one, cited_by_one = citers[:, : len(queries)].sum(axis=1) > 0, cites[queries].sum(axis=0) > 0  # bool (N,)
        shared = {"reference": cites[answers] @ cited_by_one.astype(int), "citer": cite_one.astype(int) @ citers[:, len(queries) :]}
        told = [np.where(cite_one[answers], "cites it", ""), np.where(cited_by_one[answers], "cited by it", "")]
        told += [[f"{n:,} shared {what}{'s' * (n > 1)}" * (n > 0) for n in counts.tolist()] for what, counts in shared.items()]
        return [", ".join(filter(None, reasons)) for reasons in zip(*told, strict=True)]


def link(paper_id: str | None) -> str:
    """Where a paper can be read about, by the form of its id; "" where that does not tell."""
    return next((address + paper_id for form, address in LINKS.items() if re.fullmatch(form, paper_id or "")), "")
