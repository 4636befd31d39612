"""Dump -> corpus: files become shards of keys, keys become ids in descending degree, citations become CSR; what is dropped is counted.

Memory is bounded by the papers (about 80 bytes each), not by the citations: those pass through in pieces, or lie in memory-mapped files.
"""

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from helpers.artefacts import map_array, new_folder, read_json, refuse_another_run, sha256, write_json
from helpers.config import CORPUS_SETTINGS, Config
from helpers.corpus import citations
from helpers.corpus.ids import Ids, number_papers
from helpers.corpus.shards import KEPT, discard, read_shards
from helpers.errors import DumpError
from helpers.progress import progress

NOTEBOOK = "notebook 01_preprocess"
FEW_CITATIONS = 4  # a row with fewer was never trained as a target by the ancestor; its neighbours are mostly noise
PAPERS_AT_A_TIME = 1 << 18


def build_corpus(config: Config) -> dict:
    """Read `config.dumps` and write `out/corpus/` (papers.parquet, citations_indptr.npy, citations.npy, report.json); returns the report.

    Raises DumpError where a dump cannot be read or no citation is left.
    """
    refuse_another_run(config, pairs=False)
    if not config.dumps:
        raise DumpError(
            f"Preset {config.preset} has no data of its own: name a dump's file or folder (--dump PATH, or DUMPS in notebook 01)."
        )
    for stale in config.folder("corpus").parent.glob(".corpus.???-*"):  # of a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    start = time.perf_counter()
    shards, report = read_shards(config)
    read = time.perf_counter()
    print(f"{report.read['papers']:,} papers and {report.read['citations']:,} citations read in {read - start:.1f} s")
    counts = combine(config, shards, report)
    papers, citations_kept = counts["papers"]["kept"], counts["citations"]["kept"]
    print(f"{papers:,} papers numbered, {citations_kept:,} citations sorted in {time.perf_counter() - read:.1f} s")
    discard(config.folder("shards").iterdir())
    shutil.rmtree(config.folder("shards"))
    return counts


def combine(config: Config, shards: list[Path], report) -> dict:
    """Make `out/corpus/` of finished shards and the counts of their reading (records.Report); returns the report."""
    with new_folder(config.folder("corpus")) as folder:
        ids = number_papers(shards, config.keep_unrecorded, folder / "edges.tmp", report)
        if not report.read["citations"]:
            raise DumpError(
                f"{', '.join(config.dumps)}: {report.read['papers']:,} papers but not one citation; give a file that holds citations, too."
            )
        dropped = report.dropped["citations"]
        indptr, cited = citations.by_citing(folder / "edges.tmp", folder / "cited.tmp", ids.state, dropped)
        (folder / "edges.tmp").unlink()
        order, degree = citations.choose(indptr, cited, ids.state, config.min_degree, report)
        if not degree.any():
            chosen = ", ".join(f"{name} {value}" for name, value in config.part(CORPUS_SETTINGS[1:-2]).items() if value)
            raise DumpError(f"No citation is left: {_in_words(dropped)} ({chosen}); choose a wider subset or filter.")
        kept = citations.renumber(indptr, cited, order, len(ids.state), folder, dropped)
        to_unrecorded = citations.touching(indptr, cited, ids.state)
        del cited
        (folder / "cited.tmp").unlink()
        _write_papers(ids, order, degree, folder / "papers.parquet")
        counts = {
            "papers": {
                "read": report.read["papers"],
                "kept": len(order),
                "dropped": _nonzero(report.dropped["papers"]),
                "incomplete": _nonzero(report.incomplete),
            },
            "citations": {"read": report.read["citations"], "kept": kept, "dropped": _nonzero(dropped)},
            "other_ids": {"read": report.read["ids"], "dropped": _nonzero(report.dropped["ids"])},
            "papers_without_record": int((ids.state[order] == citations.UNRECORDED).sum()),
            "citations_of_papers_without_record": to_unrecorded,
            "first_of_each": report.first,
            "config": config.part(CORPUS_SETTINGS),
            "sha256": {name: sha256(folder / name) for name in ("papers.parquet", "citations.npy")},
        }
        write_json(folder / "report.json", counts)
    return counts


def open_corpus(config: Config, columns: list[str] | None = None) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, citations_indptr int64 (N+1,), citations int32 (E,), report) of a finished corpus; raises ArtefactError.

    columns: those of papers.parquet to read, None for all; the citations are memory-mapped.
    """
    folder = config.folder("corpus")
    report = read_json(folder / "report.json", NOTEBOOK)
    indptr = map_array(folder / "citations_indptr.npy", NOTEBOOK)
    papers = pa.parquet.read_table(folder / "papers.parquet", columns=columns)
    return papers, indptr, map_array(folder / "citations.npy", NOTEBOOK), report


def _in_words(counts: dict) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none was read"


def _nonzero(counts: Counter) -> dict:
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _write_papers(ids: Ids, order: np.ndarray, degree: np.ndarray, path: Path) -> None:
    """`papers.parquet` of DESIGN's contract, piece by piece: the line number is the id."""
    schema = pa.schema([*KEPT, ("degree", pa.int32()), ("has_record", pa.bool_()), ("few_citations", pa.bool_())])
    with pa.parquet.ParquetWriter(path, schema) as writer, progress(title="Papers", unit="", total=len(order)) as bar:
        for first in range(0, len(order), PAPERS_AT_A_TIME):
            some = order[first : first + PAPERS_AT_A_TIME]
            of_records, degree_of_some = ids.papers(some), degree[some]
            flags = [degree_of_some.astype(np.int32), ids.state[some] != citations.UNRECORDED, degree_of_some < FEW_CITATIONS]
            writer.write_table(pa.table([*of_records.columns, *map(pa.array, flags)], schema=schema))
            bar.update(len(some))
