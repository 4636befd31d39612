"""Dump -> corpus: files become shards of keys, keys become ids in descending degree, citations become CSR; what is dropped is counted."""

# Memory is bounded by the papers (about 80 bytes each), not by the citations: those pass through in pieces, or lie in memory-mapped files.

import contextlib
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from helpers.artefacts import map_array, new_folder, read_json, refuse_another_run, sha256, write_json
from helpers.config import CORPUS_SETTINGS, Config
from helpers.corpus import citations
from helpers.corpus.dumps import files_of
from helpers.corpus.records import KEPT
from helpers.corpus.shards import discard, read_shards
from helpers.errors import ArtefactError, DumpError
from helpers.progress import progress

NOTEBOOK = "notebook 01_preprocess"
FEW_CITATIONS = 4  # a row with fewer was never trained as a target by the ancestor; its neighbours are mostly noise
PAPERS_AT_A_TIME = 1 << 18
STORED = pa.schema([*KEPT, ("degree", pa.int32()), ("has_record", pa.bool_()), ("few_citations", pa.bool_())])  # papers.parquet


def build_corpus(config: Config) -> dict:
    """Make `out/corpus/` of `config.dumps`; returns its report. Raises DumpError where a dump cannot be read or no citation is left."""
    sources, known = known_corpus(config)
    counts = known or combine(config, *read_shards(config), sources)
    if config.folder("shards").exists():  # also of a process that was killed when the corpus was whole
        discard(config.folder("shards").iterdir())
        shutil.rmtree(config.folder("shards"))
    return counts


def known_corpus(config: Config) -> tuple[list[str], dict | None]:
    """(what tells the files of config.dumps from others; the report of a corpus that is there and made of them, else None)."""
    refuse_another_run(config, config.folder("corpus") / "report.json", CORPUS_SETTINGS)
    sources = [f"{file} {file.size} {file.changed}" for file in files_of(config.dumps)]
    folder = config.folder("corpus")
    with contextlib.suppress(ArtefactError, KeyError, OSError):
        report = read_json(folder / "report.json", NOTEBOOK)
        same = report["config"] == config.part(CORPUS_SETTINGS) and report["sources"] == sources
        if same and all(sha256(folder / name) == known for name, known in report["sha256"].items()):
            print(f"{folder} was made of the same files with the same settings: it stays as it is.", flush=True)
            return sources, report
    return sources, None


def combine(config: Config, shards: list[Path], report, sources: list[str] = ()) -> dict:
    """Make `out/corpus/` of finished shards and the counts of their reading (records.Report); returns the report."""
    with new_folder(config.folder("corpus")) as folder:
        ids = citations.number_papers(shards, config.keep_unrecorded, folder / "edges.tmp", report)
        if not report.read["citations"]:
            papers = f"{', '.join(config.dumps)}: {report.read['papers']:,} papers"
            raise DumpError(f"{papers} but not one citation; give a file that holds citations, too.")
        dropped = report.dropped["citations"]
        indptr, cited = citations.by_citing(folder / "edges.tmp", folder / "cited.tmp", ids.state, dropped)
        (folder / "edges.tmp").unlink()
        order, degree = citations.choose(indptr, cited, ids.state, config.min_degree, report)
        if not degree.any():
            chosen = ", ".join(f"{name} {value}" for name, value in config.part(CORPUS_SETTINGS[1:-2]).items() if value)
            lost = ", ".join(f"{count:,} {reason}" for reason, count in (+dropped).items()) or "none was read"
            raise DumpError(f"No citation is left: {lost} ({chosen}); choose a wider subset or filter.")
        kept = int(degree.sum(dtype=np.int64)) // 2
        dropped["of a paper with too few citations"] += int(indptr[-1]) - kept
        citations.renumber(indptr, cited, order, kept, folder)
        del cited
        (folder / "cited.tmp").unlink()
        _write_papers(ids, order, degree, folder / "papers.parquet")

        read = {kind: {"read": report.read[kind], "dropped": dict(sorted((+lost).items()))} for kind, lost in report.dropped.items()}
        facts = {"config": config.part(CORPUS_SETTINGS), "sources": sources, "first_of_each": report.first, "other_ids": read["ids"]}
        facts["papers"] = read["papers"] | {"kept": len(order), "incomplete": dict(sorted(report.incomplete.items()))}
        facts["citations"] = read["citations"] | {"kept": kept}
        facts["papers_without_record"] = int((ids.state[order] == citations.UNRECORDED).sum())
        facts["sha256"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        write_json(folder / "report.json", facts)
    return facts


def open_corpus(config: Config, columns: list[str] | None = None) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, or some columns, citations_indptr int64 (N+1,), citations int32 (E,), memory-mapped, report) of a corpus; ArtefactError."""
    folder = config.folder("corpus")
    report = read_json(folder / "report.json", NOTEBOOK)
    citations_csr = (map_array(folder / f"{name}.npy", NOTEBOOK) for name in ("citations_indptr", "citations"))
    return pa.parquet.read_table(folder / "papers.parquet", columns=columns), *citations_csr, report


def older_run(config: Config) -> Config:
    """The run that config.extends names, as a Config; raises ArtefactError where it is none."""
    if not (Path(config.extends) / "checkpoints").is_dir():
        raise ArtefactError(f"extends = {config.extends} is no finished run: name its OUT, with corpus, pairs and checkpoints.")
    return dataclasses.replace(config, out=config.extends)


def known_rows(config: Config) -> np.ndarray:
    """The row in the run config.extends of each paper, by paper_id (of doubles the first), -1 for a new one: int32 (N,); ArtefactError."""
    ids, old_ids = (open_corpus(run, ["paper_id"])[0]["paper_id"] for run in (config, older_run(config)))
    row_of = pc.fill_null(pc.index_in(ids, value_set=old_ids, skip_nulls=True), -1).to_numpy()
    if (count := int((row_of >= 0).sum())) in (0, len(row_of)):
        raise ArtefactError(f"{config.extends} has {'all' if count else 'none'} of this corpus' papers: it cannot be extended by them.")
    return row_of


def _write_papers(ids, order: np.ndarray, degree: np.ndarray, path: Path) -> None:
    # `papers.parquet` of DESIGN's contract, piece by piece: the line number is the id
    with pa.parquet.ParquetWriter(path, STORED) as writer, progress(title="Papers", unit="", total=len(order)) as bar:
        for some in np.split(order, range(PAPERS_AT_A_TIME, len(order), PAPERS_AT_A_TIME)):
            of_records, degree_of_some = ids.papers(some), degree[some]
            flags = [degree_of_some.astype(np.int32), ids.state[some] != citations.UNRECORDED, degree_of_some < FEW_CITATIONS]
            writer.write_table(pa.table([*of_records.columns, *map(pa.array, flags)], schema=STORED))
            bar.update(len(some))
