"""Dump -> corpus: one record a paper, the subset, ids in descending degree, citations as CSR; everything dropped is counted."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from helpers.artefacts import map_array, new_folder, read_json, refuse_another_run, sha256, write_json
from helpers.config import CORPUS_SETTINGS, Config
from helpers.corpus import dumps
from helpers.corpus.csr import csr
from helpers.corpus.records import CITATIONS, PAPERS, Report
from helpers.errors import DumpError
from helpers.progress import progress

NOTEBOOK = "notebook 01_preprocess"
FEW_CITATIONS = 4  # a row with fewer was never trained as a target by the ancestor; its neighbours are mostly noise
RECORD_COLUMNS = ["paper_id", "title", "year", "venue", "fields", "is_cs", "is_medline"]


def build_corpus(config: Config) -> dict:
    """Read `config.dumps` and write `out/corpus/` (papers.parquet, citations_indptr.npy, citations.npy, report.json); returns the report.

    Raises DumpError where a dump cannot be read or no citation is left.
    """
    refuse_another_run(config, pairs=False)
    if not config.dumps:
        raise DumpError(
            f"Preset {config.preset} has no data of its own: name a dump's file or folder (--dump PATH, or DUMPS in notebook 01)."
        )
    report = Report()
    records, citations = _read_all(dumps.files_of(config.dumps), report, config.max_bad_fraction)
    if not len(citations["citing"]):
        raise DumpError(f"{', '.join(config.dumps)}: {len(records):,} papers but not one citation; give the file with the citations too.")
    papers, citing, cited, counts = _select(records, citations, config, report)
    if not len(citing):
        chosen = ", ".join(f"{name} {value}" for name, value in config.part(CORPUS_SETTINGS[1:-2]).items() if value)
        raise DumpError(f"No citation is left: {_in_words(counts['citations']['dropped'])} ({chosen}); choose a wider subset or filter.")
    with new_folder(config.folder("corpus")) as folder:
        pa.parquet.write_table(papers, folder / "papers.parquet")
        indptr, cited_by_row = csr(citing, cited, len(papers))
        np.save(folder / "citations_indptr.npy", indptr)
        np.save(folder / "citations.npy", cited_by_row)
        counts["config"] = config.part(CORPUS_SETTINGS)
        counts["sha256"] = {name: sha256(folder / name) for name in ("papers.parquet", "citations.npy")}
        write_json(folder / "report.json", counts)
    return counts


def open_corpus(config: Config) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, citations_indptr int64 (N+1,), citations int32 (E,), report) of a finished corpus; raises ArtefactError."""
    folder = config.folder("corpus")
    report = read_json(folder / "report.json", NOTEBOOK)
    indptr = map_array(folder / "citations_indptr.npy", NOTEBOOK)
    return pa.parquet.read_table(folder / "papers.parquet"), indptr, map_array(folder / "citations.npy", NOTEBOOK), report


def _in_words(counts: dict) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none was read"


def _read_all(files: list[Path], report: Report, max_bad_fraction: float) -> tuple[pa.Table, dict]:
    """(records, citations) of all files.

    citations: string arrays `citing`, `cited`; `record` int64, the row of the record that lists each (-1: none); `mirrored`, the
    number of those at the end that were listed by the cited paper (`cited_by`).
    """
    records, rows = [], 0
    listed = {"references": ([], [], []), "cited_by": ([], [], [])}  # (record's id, other's id, record's row)
    with progress(title="Reading", unit=" records") as bar:
        for file in files:
            for batch in dumps.read(file, report):
                if batch.schema == CITATIONS:
                    for column, chunk in zip(listed["references"], (batch["citing"], batch["cited"], np.full(len(batch), -1)), strict=True):
                        column.append(chunk)
                else:
                    records.append(batch.select(RECORD_COLUMNS))
                    for name, (here, there, row) in listed.items():
                        parents = pc.list_parent_indices(batch[name])
                        here.append(batch["paper_id"].take(parents))
                        there.append(pc.list_flatten(batch[name]))
                        row.append(parents.to_numpy() + rows)
                        report.read["citations"] += len(parents)
                    rows += len(batch)
                bar.update(len(batch))
            report.check(file, max_bad_fraction)
    (citing, cited, row), (cited_too, citing_too, row_too) = listed["references"], listed["cited_by"]
    citations = {
        "citing": pa.chunked_array(citing + citing_too, pa.string()),
        "cited": pa.chunked_array(cited + cited_too, pa.string()),
        "record": np.concatenate([np.empty(0, np.int64), *row, *row_too]).astype(np.int64),
        "mirrored": sum(map(len, row_too)),
    }
    return pa.Table.from_batches(records, pa.schema([PAPERS.field(name) for name in RECORD_COLUMNS])), citations


def _select(records: pa.Table, citations: dict, config: Config, report: Report):
    """(papers table in descending degree, citing int32 (E,), cited int32 (E,), counts) after subset, duplicates and degree."""
    R, E = len(records), len(citations["citing"])
    strings = records["paper_id"].chunks + citations["citing"].chunks + citations["cited"].chunks
    encoded = pa.chunked_array(strings, pa.string()).dictionary_encode()  # every chunk of the result has the one, whole dictionary
    names = encoded.chunks[-1].dictionary
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    of_record, citing, cited = codes[:R], codes[R : R + E], codes[R + E :]

    last_row = np.full(len(names), -1, np.int64)  # of each id: its record's row, the last one where there are several
    last_row[of_record] = np.arange(R)
    duplicate = last_row[of_record] != np.arange(R)
    inside = _inside_subset(records, config)
    papers_dropped, dropped = report.dropped["papers"], report.dropped["citations"]
    papers_dropped["duplicate id"] += int(duplicate.sum())
    papers_dropped["outside the subset"] += int((~inside & ~duplicate).sum())
    duplicate, inside = np.append(duplicate, False), np.append(inside, True)  # entry -1 answers for what has no record
    mirrored = np.arange(E) >= E - citations["mirrored"]

    def keep(mask: np.ndarray, reason: str) -> None:
        nonlocal citing, cited, mirrored
        dropped[reason] += int(len(mask) - mask.sum())
        citing, cited, mirrored = citing[mask], cited[mask], mirrored[mask]

    keep(~duplicate[citations["record"]], "listed by an earlier record of a duplicate id")
    has_record = last_row >= 0
    usable = inside[last_row]
    keep(usable[citing] & usable[cited], "outside the subset")
    keep(citing != cited, "self citation")
    first = np.zeros(len(citing), bool)
    first[np.unique(citing.astype(np.int64) * len(names) + cited, return_index=True)[1]] = True
    dropped["also listed by the cited paper"] += int((mirrored & ~first).sum())  # no loss: S2 lists every citation at both its ends
    keep(first, "duplicate citation")
    dropped["duplicate citation"] -= dropped["also listed by the cited paper"]
    to_unrecorded = int((~has_record[citing] | ~has_record[cited]).sum())
    if not config.keep_unrecorded:
        keep(has_record[citing] & has_record[cited], "dangling")
    degree = np.bincount(citing, minlength=len(names)) + np.bincount(cited, minlength=len(names))
    chosen = usable & (has_record | (degree > 0)) & (degree >= config.min_degree)
    papers_dropped["too few citations"] += int((usable & has_record & ~chosen).sum())
    keep(chosen[citing] & chosen[cited], "of a paper with too few citations")

    degree = np.bincount(citing, minlength=len(names)) + np.bincount(cited, minlength=len(names))
    order = np.flatnonzero(chosen)
    order = order[np.argsort(-degree[order], kind="stable")]  # ties in order of appearance, so that the same dump gives the same ids
    new_id = np.full(len(names), -1, np.int32)
    new_id[order] = np.arange(len(order))
    papers = _papers_table(records, names, order, last_row, degree)
    counts = {
        "papers": {
            "read": report.read["papers"],
            "kept": len(order),
            "dropped": _nonzero(papers_dropped),
            "incomplete": _nonzero(report.incomplete),
        },
        "citations": {"read": report.read["citations"], "kept": len(citing), "dropped": _nonzero(dropped)},
        "papers_without_record": int((~has_record[order]).sum()),
        "citations_of_papers_without_record": to_unrecorded,
        "first_of_each": report.first,
    }
    return papers, new_id[citing], new_id[cited], counts


def _nonzero(counts: Counter) -> dict:
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _inside_subset(records: pa.Table, config: Config) -> np.ndarray:
    """Which records the subset, the field and the years keep, bool (R,); what a dump does not say (null flags) is kept."""
    inside = np.ones(len(records), bool)
    if config.subset != "all":
        inside &= pc.fill_null(records[f"is_{config.subset}"], True).to_numpy()
    if config.field:
        fields = pc.list_flatten(records["fields"])
        matching = pc.equal(pc.utf8_lower(fields), config.field.lower()).to_numpy()
        having = np.zeros(len(records), bool)
        having[pc.list_parent_indices(records["fields"]).to_numpy()[matching]] = True
        inside &= having
    years = records["year"].to_numpy()  # float with NaN where missing: comparisons with NaN are False, so such papers are dropped
    if config.first_year is not None:
        inside &= years >= config.first_year
    if config.last_year is not None:
        inside &= years <= config.last_year
    return inside


def _papers_table(records: pa.Table, names: pa.Array, order: np.ndarray, last_row: np.ndarray, degree: np.ndarray) -> pa.Table:
    """`papers.parquet` of DESIGN's contract: the line number is the id."""
    row = pa.array(last_row[order], mask=last_row[order] < 0)
    of_records = records.select(["title", "year", "venue", "fields"]).take(row)
    return pa.table(
        {
            "paper_id": names.take(pa.array(order)),
            **{name: of_records[name] for name in of_records.column_names},
            "degree": degree[order].astype(np.int32),
            "has_record": last_row[order] >= 0,
            "few_citations": degree[order] < FEW_CITATIONS,
        }
    )
