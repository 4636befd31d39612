"""The answer: `out/embeddings/` and its other forms, each openable by the usual client of its kind, written and opened again."""

import contextlib
import dataclasses
import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from helpers import __version__
from helpers.artefacts import finished, map_array, new_array, new_folder, open_npy, read_manifest, sentences_for_disk_errors, write_manifest
from helpers.config import Config
from helpers.corpus.build import open_corpus
from helpers.environment import commit
from helpers.errors import ArtefactError, ConfigError
from helpers.export.drive import open_finished
from helpers.models.smoothing import smooth_trained
from helpers.neighbors.evaluate import evaluate
from helpers.neighbors.search import Search, answerable, nearest
from helpers.pairs.build import Pairs
from helpers.rows.files import Float32Rows, ReadThrough, pieces
from helpers.training.checkpoint import trained_checkpoint

NOTEBOOK = "notebook 04_evaluate_neighbors"
CHUNK_ROWS = 1 << 16
SHARD_BYTES = 900_000_000  # of a parquet file, uncompressed: Drive and browsers are happier below 1 GB
PROJECTOR_POINTS = 10_000  # the Embedding Projector takes 100,000 at most and is slow long before


def _chunks(table: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    # (place, rows as float32) of (N, D), CHUNK_ROWS at a time; raises ArtefactError for values that float16 cannot hold, either
    for place in pieces(len(table), CHUNK_ROWS):
        rows = np.asarray(table[place], np.float32)
        if not (np.abs(rows) <= 65_504).all():
            raise ArtefactError(f"Rows {place.start:,} to {place.stop:,} hold values beyond 65,504 or not numbers; train at a lower rate.")
        yield place, rows


def quantised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, D) as (int8 (n, D), scales float32 (n,)): rows are about int8 * scale, the largest value of a row exactly so."""
    scales = np.abs(rows).max(axis=1) / 127  # int8 values of a row go from -127 to 127
    return np.rint(rows / np.maximum(scales, 1e-30)[:, None]).astype(np.int8), scales


def dequantised(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The float32 (n, D) rows that `quantised` kept."""
    return torch.from_numpy(np.array(values)).float().mul_(torch.from_numpy(np.array(scales))[:, None]).numpy()  # by all cores


def _write_npy(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table, dtype=np.float16) -> None:
    # `NAME.npy` (N, D): float16 or float32
    for name, table in tables.items():
        with open_npy(folder / f"{name}.npy", dtype, *table.shape) as file:
            file.writelines(rows.astype(dtype, "C").data for _, rows in _chunks(table))


def _write_int8(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    # `NAME_int8.npy` int8 (N, D) and `NAME_scales.npy` float32 (N,)
    for name, table in tables.items():
        values = new_array(folder / f"{name}_int8.npy", np.int8, table.shape)
        scales = new_array(folder / f"{name}_scales.npy", np.float32, table.shape[:1])
        for place, rows in _chunks(table):
            values[place], scales[place] = quantised(rows)


def _write_parquet(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    # `NAME-00000-of-0000n.parquet`: row, paper_id, title, year and `vector` as fixed_size_list<float16>(D)
    N, D = tables["target"].shape
    shards = pieces(N, max(CHUNK_ROWS, SHARD_BYTES // (2 * D) // CHUNK_ROWS * CHUNK_ROWS))
    papers = papers.select(["row", "paper_id", "title", "year"])
    schema = papers.schema.append(pa.field("vector", pa.list_(pa.float16(), D)))
    for name, table in tables.items():
        for number, shard in enumerate(shards):
            with pa.parquet.ParquetWriter(folder / f"{name}-{number:05d}-of-{len(shards):05d}.parquet", schema) as writer:
                for place, rows in _chunks(table[shard]):
                    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).ravel()), D)
                    writer.write_table(papers[shard][place].append_column("vector", vectors))


def _write_safetensors(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    # `embeddings.safetensors`, float16: 8 bytes of header length, a JSON header, the raw rows (the library would build it in memory)
    N, D = tables["target"].shape
    facts = [{"dtype": "F16", "shape": [N, D], "data_offsets": [2 * N * D * place, 2 * N * D * (place + 1)]} for place in range(2)]
    text = json.dumps(dict(zip(tables, facts, strict=True))).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "embeddings.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for table in tables.values():
            file.writelines(rows.astype(np.float16, "C").data for _, rows in _chunks(table))


def _write_word2vec(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    # `NAME.bin`, word2vec's binary form: `N D`, then key, space, D float32 each; keys are paper ids, white space in them made `_`
    for name, table in tables.items():
        with open(folder / f"{name}.bin", "wb") as file:
            file.write("{} {}\n".format(*table.shape).encode())
            for place, rows in _chunks(table):
                keys = papers["paper_id"][place].to_pylist()
                file.writelines("_".join(key.split()).encode() + b" " + row.tobytes() for key, row in zip(keys, rows, strict=True))


def _write_projector(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> int:
    # `vectors.tsv` (of targets) and `metadata.tsv` for projector.tensorflow.org; returns how many rows they have
    rows = np.flatnonzero(answerable(papers))[:PROJECTOR_POINTS]  # the most cited papers that can be shown
    np.savetxt(folder / "vectors.tsv", np.asarray(tables["target"][rows], np.float32), fmt="%.5f", delimiter="\t")
    shown = papers.select(["title", "year", "degree", "paper_id"]).take(rows).to_pylist()
    lines = ["\t".join(" ".join(str("" if value is None else value).split()) for value in paper.values()) for paper in shown]
    # a header, because there is more than one column
    (folder / "metadata.tsv").write_text("\n".join(["title\tyear\tcitations\tpaper_id", *lines, ""]), encoding="utf-8")
    return len(rows)


def write_form(folder: Path, form: str, tables: dict[str, np.ndarray], papers: pa.Table, facts: dict) -> None:
    """Write `folder`, unless it holds them: tables in a form, papers.parquet (not the projector's), and a manifest; ArtefactError."""
    # facts: for the manifest, beside form and shape
    if finished(folder, {**facts, "form": form}):
        print(f"{folder} holds these vectors already: it stays as it is.", flush=True)
        return
    with new_folder(folder) as new:
        rows = FORMS[form].write(new, tables, papers) or len(papers)
        if form != "projector":
            pa.parquet.write_table(papers, new / "papers.parquet")
        write_manifest(new, **{**facts, "form": form, "shape": [rows, tables["target"].shape[1]]})


# One form: how to write it, (folder, {"target": (N, D), "context": (N, D)}, papers) -> how many rows were written, None for all; how large
# it will be, (N, D) -> bytes of both tables, about; and float32 (n, D) -> what a reader of this form gets
_Form = namedtuple("_Form", ["write", "bytes", "read_back"])
FORMS: dict[str, _Form] = {
    "npy_float16": _Form(_write_npy, lambda N, D: 4 * N * D, np.float16),
    "npy_float32": _Form(lambda *of: _write_npy(*of, np.float32), lambda N, D: 8 * N * D, np.float32),
    "int8": _Form(_write_int8, lambda N, D: 2 * N * (D + 4), lambda rows: dequantised(*quantised(rows))),
    "parquet": _Form(_write_parquet, lambda N, D: 2 * N * (2 * D + 60), np.float16),
    "safetensors": _Form(_write_safetensors, lambda N, D: 4 * N * D, np.float16),
    "word2vec": _Form(_write_word2vec, lambda N, D: 2 * N * (4 * D + 12), np.float32),
    "projector": _Form(_write_projector, lambda N, D: min(N, PROJECTOR_POINTS) * (9 * D + 90), lambda rows: rows.round(5)),
}


def recall_at_10(table: np.ndarray, forms: list[str], shown: np.ndarray | None = None) -> dict[str, float]:
    """The share of the 10 nearest rows (cosine) of 500 random papers that each form keeps; table: (N, D); shown: bool (N,)."""
    # shown: the papers asked for and about, None for all
    possible = np.arange(len(table)) if shown is None else np.flatnonzero(shown)
    queries = np.sort(np.random.default_rng(0).permutation(possible)[:500])
    k = min(10, len(possible) - 1)
    if k < 1:
        return dict.fromkeys(forms, 1.0)
    exact, _ = nearest(table, queries, k, shown)

    def recall(form: str) -> float:
        found, _ = nearest(ReadThrough(lambda rows: FORMS[form].read_back(rows.astype(np.float32)), table), queries, k, shown)
        return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(exact, found, strict=True)]))

    return {form: recall(form) for form in forms}


def sizes(forms: list[str], N: int, D: int) -> dict[str, int]:
    """Bytes that each form of two N x D tables will take, about (the projector's: of its points); raises ConfigError for other forms."""
    if isinstance(forms, str) or not forms or not set(forms) <= set(FORMS):
        raise ConfigError(f"FORMS = {forms!r} must be a list of at least one form; choose among {', '.join(FORMS)}.")
    return {form: FORMS[form].bytes(N, D) for form in forms}


def with_rows(papers: pa.Table) -> pa.Table:
    """The papers' columns of the export, with `row` int32 in front; behind them `doi` and `pmid`, if any paper has one."""
    others = [name for name in ("doi", "pmid") if name in papers.column_names and papers[name].null_count < len(papers)]
    return papers.select(["paper_id", "title", "year", "degree", *others]).add_column(0, "row", pa.array(range(len(papers)), pa.int32()))


def open_embeddings(folder: Path) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, target, context, manifest) of a finished folder of .npy or int8 form, the vectors memory-mapped; raises ArtefactError."""
    manifest = read_manifest(folder, NOTEBOOK)
    if (form := manifest.get("form")) not in ("npy_float16", "npy_float32", "int8"):
        raise ArtefactError(f"{folder} holds the form {form!r}; open the folder of form npy_float16, npy_float32 or int8 instead.")
    parts = ("_int8", "_scales") if form == "int8" else ("",)
    arrays = [[map_array(folder / f"{name}{part}.npy", NOTEBOOK) for part in parts] for name in ("target", "context")]
    tables = [ReadThrough(dequantised, *of_one) if form == "int8" else of_one[0] for of_one in arrays]
    return pa.parquet.read_table(folder / "papers.parquet"), *tables, manifest


@dataclasses.dataclass
class Answer:
    """Vectors to look at, trained in this run or opened finished."""

    where: str  # the checkpoint, or the folder they were opened from
    papers: pa.Table
    target: np.ndarray  # float (N, D), memory-mapped
    context: np.ndarray
    facts: dict  # settings, code version: what the manifest says of where they come from
    pairs: Pairs | None  # None where they were opened finished
    citations: tuple[np.ndarray, np.ndarray] | None = None  # (indptr, cited) by citing paper, likewise
    out: Path = Path(".")  # the run's folder

    def metrics(self) -> dict:
        """The held-out scores: those that came with these very vectors, else measured now."""
        return self.facts.get("metrics") or (evaluate(self.pairs, self.target, self.context, self.citations) if self.pairs else {})

    def search(self) -> Search:
        """These vectors to be searched, with any reach where the training pairs are at hand."""
        far = (lambda reach: self.reaching(reach).target) if self.pairs else None
        return Search(self.papers, self.target, self.context, self.citations, far)

    def reaching(self, reach: int) -> "Answer":
        """These vectors with targets smoothed `reach` steps over the training pairs, float16; ArtefactError for vectors opened finished."""
        # They are memory-mapped in the run's folder; the scores among the facts stay those of reach 0
        if not reach:
            return self
        if self.pairs is None:
            raise ArtefactError(f"A reach of {reach} needs the training pairs, but these vectors were opened finished; take reach 0.")
        path = self.out / f"target_reach_{reach}.npy"
        with sentences_for_disk_errors(path):
            smoothed = new_array(path, np.float16, self.target.shape)
        for columns, values in smooth_trained(self.pairs.indptr, self.pairs.contexts, self.target, reach):
            smoothed[:, columns] = values
        path.unlink()  # the mapping keeps its pages until it is let go
        return dataclasses.replace(self, target=smoothed, facts={**self.facts, "reach": reach})

    def keep(self, folder: Path, metrics: dict) -> Path:
        """Write the vectors, as float16, into `folder`, unless they were opened finished; returns where they are; ArtefactError."""
        # metrics: those of reach 0
        if self.pairs is None:
            return Path(self.where)
        tables, facts = {"target": self.target, "context": self.context}, {"dtype": "float16", **self.facts, "metrics": metrics}
        write_form(folder, "npy_float16", tables, with_rows(self.papers), facts)
        return folder


def open_answer(config: Config, place: str = "") -> Answer:
    """The vectors of the newest checkpoint in `config.out`, or the finished ones of `place` (see open_finished); ArtefactError."""
    if place:
        folder = open_finished(str(config.folder(place)) if config.folder(place).is_dir() else place, config.folder("downloads"))
        *opened, manifest = open_embeddings(folder)
        return Answer(str(folder), *opened, {name: value for name, value in manifest.items() if name != "files"}, None)
    papers, *citations, report = open_corpus(config)
    pairs = Pairs(config)
    trained = trained_checkpoint(config, pairs.fingerprint)
    settings = {**report["config"], **pairs.manifest["config"], **trained.settings}
    # what is shared should not tell of somebody's folders
    settings |= {"dumps": [Path(dump).name for dump in settings["dumps"]], "extends": Path(settings.get("extends", "")).name}
    facts = {"config": settings, "epochs": trained.epoch, "commit": commit(), "checkpoint": read_manifest(trained.path, NOTEBOOK)["sha256"]}
    facts |= {"reach": 0, "metrics_are_of": "reach 0"}
    with contextlib.suppress(ArtefactError, KeyError):  # the scores that notebook 04 measured, if it was for these very vectors
        measured = read_manifest(config.folder("embeddings"), NOTEBOOK)
        if (measured["checkpoint"], measured["code_version"]) == (facts["checkpoint"], __version__):
            facts["metrics"] = measured["metrics"]
    tables = map(Float32Rows, (trained.target, trained.context))
    return Answer(str(trained.path), papers, *tables, facts, pairs, tuple(citations), Path(config.out))
