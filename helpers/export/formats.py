"""The forms a table of vectors can be exported in, each written chunk by chunk and openable by the usual client of its kind."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from helpers.artefacts import new_folder, open_npy, write_manifest
from helpers.errors import ArtefactError
from helpers.neighbors.search import answerable

CHUNK_ROWS = 1 << 16
SHARD_BYTES = 900_000_000  # of a parquet file, uncompressed: Drive and browsers are happier below 1 GB
PROJECTOR_POINTS = 10_000  # the Embedding Projector takes 100,000 at most and is slow long before
SCALE_STEPS = 127  # int8 values of a row go from -127 to 127


def chunks(table: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of (N, D), CHUNK_ROWS at a time, as float32; raises ArtefactError where a value is not a finite number."""
    for first in range(0, len(table), CHUNK_ROWS):
        rows = np.asarray(table[first : first + CHUNK_ROWS], np.float32)
        if not np.isfinite(rows).all():
            raise ArtefactError(f"Rows {first:,} to {first + len(rows):,} hold values that are not numbers; train again with a lower rate.")
        yield rows


def as_float16(rows: np.ndarray) -> np.ndarray:
    """float32 (n, D) as float16; raises ArtefactError where a value is beyond 65,504."""
    with np.errstate(over="ignore"):
        half = rows.astype(np.float16)
    if not np.isfinite(half).all():
        raise ArtefactError("A row has a value beyond 65,504, which float16 cannot hold; export float32 instead.")
    return half


def quantised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, D) as (int8 (n, D), scales float32 (n,)): rows are about int8 * scale, the largest value of a row exactly so."""
    scales = np.abs(rows).max(axis=1) / SCALE_STEPS
    return np.rint(rows / np.maximum(scales, 1e-30)[:, None]).astype(np.int8), scales


def dequantised(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The float32 (n, D) rows that `quantised` kept."""
    return values.astype(np.float32) * scales[:, None]


def write_npy(folder: Path, name: str, table: np.ndarray, papers: pa.Table | None = None, convert: Callable = as_float16) -> None:
    """`NAME.npy` (N, D) of what `convert` makes of float32 rows: float16 or float32."""
    with open_npy(folder / f"{name}.npy", convert(np.empty(0, np.float32)).dtype, *table.shape) as file:
        for rows in chunks(table):
            file.write(np.ascontiguousarray(convert(rows)).data)


def write_int8(folder: Path, name: str, table: np.ndarray, papers: pa.Table | None = None) -> None:
    """`NAME_int8.npy` int8 (N, D) and `NAME_scales.npy` float32 (N,)."""
    scales = []
    with open_npy(folder / f"{name}_int8.npy", np.int8, *table.shape) as file:
        for rows in chunks(table):
            values, of_rows = quantised(rows)
            file.write(values.data)
            scales.append(of_rows)
    np.save(folder / f"{name}_scales.npy", np.concatenate(scales))


def write_parquet(folder: Path, name: str, table: np.ndarray, papers: pa.Table) -> None:
    """`NAME-00000-of-0000n.parquet`: row, paper_id, title, year and `vector` as fixed_size_list<float16>(D)."""
    N, D = table.shape
    rows_a_shard = max(CHUNK_ROWS, SHARD_BYTES // (2 * D) // CHUNK_ROWS * CHUNK_ROWS)
    shards = max(1, -(-N // rows_a_shard))
    papers = papers.select(["row", "paper_id", "title", "year"])
    schema = papers.schema.append(pa.field("vector", pa.list_(pa.float16(), D)))
    for shard in range(shards):
        start, stop = shard * rows_a_shard, min(N, (shard + 1) * rows_a_shard)
        with pa.parquet.ParquetWriter(folder / f"{name}-{shard:05d}-of-{shards:05d}.parquet", schema) as writer:
            for first, rows in zip(range(start, stop, CHUNK_ROWS), chunks(table[start:stop]), strict=True):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(as_float16(rows).ravel()), D)
                writer.write_table(papers.slice(first, len(rows)).append_column("vector", vectors))


def write_safetensors(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    """`embeddings.safetensors`, float16: 8 bytes of header length, a JSON header, the raw rows (the library would build it in memory)."""
    header, end = {}, 0
    for name, table in tables.items():
        first, end = end, end + 2 * table.shape[0] * table.shape[1]
        header[name] = {"dtype": "F16", "shape": list(table.shape), "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    with open(folder / "embeddings.safetensors", "wb") as file:
        file.write((len(text) + -len(text) % 8).to_bytes(8, "little") + text + b" " * (-len(text) % 8))
        for table in tables.values():
            for rows in chunks(table):
                file.write(as_float16(rows).data)


def write_word2vec(folder: Path, name: str, table: np.ndarray, papers: pa.Table) -> None:
    """`NAME.bin`, word2vec's binary form: `N D`, then key, space, D float32 each; keys are paper ids, white space in them made `_`."""
    with open(folder / f"{name}.bin", "wb") as file:
        file.write(f"{table.shape[0]} {table.shape[1]}\n".encode())
        for place, rows in enumerate(chunks(table)):
            keys = papers["paper_id"].slice(place * CHUNK_ROWS, len(rows)).to_pylist()
            file.writelines("_".join(key.split()).encode() + b" " + row.tobytes() for key, row in zip(keys, rows, strict=True))


def projector_rows(papers: pa.Table) -> np.ndarray:
    """The rows that the projector's files hold: the PROJECTOR_POINTS most cited papers that can be shown."""
    return np.flatnonzero(answerable(papers))[:PROJECTOR_POINTS]


def write_projector(folder: Path, tables: dict[str, np.ndarray], papers: pa.Table) -> None:
    """`vectors.tsv` (of targets) and `metadata.tsv` of the PROJECTOR_POINTS most cited titled papers, for projector.tensorflow.org."""
    rows = projector_rows(papers)
    np.savetxt(folder / "vectors.tsv", np.asarray(tables["target"][rows], np.float32), fmt="%.5f", delimiter="\t")
    shown = papers.select(["title", "year", "degree", "paper_id"]).take(rows).to_pylist()
    with open(folder / "metadata.tsv", "w", newline="", encoding="utf-8") as file:
        file.write("title\tyear\tcitations\tpaper_id\n")  # a header, because there is more than one column
        for paper in shown:
            file.write("\t".join(" ".join(str("" if value is None else value).split()) for value in paper.values()) + "\n")


class Form(NamedTuple):
    """One form: how to write it, how large it will be, and what reading it back gives."""

    write: Callable[[Path, dict[str, np.ndarray], pa.Table], None]  # (folder, {"target": (N, D), "context": (N, D)}, papers)
    bytes: Callable[[int, int], int]  # (N, D) -> bytes of both tables, about
    read_back: Callable[[np.ndarray], np.ndarray]  # float32 (n, D) -> what a reader of this form gets


def write_form(folder: Path, form: str, tables: dict[str, np.ndarray], papers: pa.Table, facts: dict) -> None:
    """Write `folder`: the tables in a form, papers.parquet (but for the projector), and a manifest with the facts, form and shape."""
    rows, D = tables["target"].shape
    with new_folder(folder) as new:
        FORMS[form].write(new, tables, papers)
        if form == "projector":
            rows = len(projector_rows(papers))
        else:
            pa.parquet.write_table(papers, new / "papers.parquet")
        write_manifest(new, **{**facts, "form": form, "shape": [rows, D]})


def _each(write_one: Callable) -> Callable:
    def write(folder, tables, papers):
        for name, table in tables.items():
            write_one(folder, name, table, papers)

    return write


FORMS: dict[str, Form] = {
    "npy_float16": Form(_each(write_npy), lambda N, D: 4 * N * D, as_float16),
    "npy_float32": Form(_each(functools.partial(write_npy, convert=np.asarray)), lambda N, D: 8 * N * D, np.asarray),
    "int8": Form(_each(write_int8), lambda N, D: 2 * N * (D + 4), lambda rows: dequantised(*quantised(rows))),
    "parquet": Form(_each(write_parquet), lambda N, D: 2 * N * (2 * D + 60), as_float16),
    "safetensors": Form(write_safetensors, lambda N, D: 4 * N * D, as_float16),
    "word2vec": Form(_each(write_word2vec), lambda N, D: 2 * N * (4 * D + 12), lambda rows: rows),
    "projector": Form(write_projector, lambda N, D: min(N, PROJECTOR_POINTS) * (9 * D + 90), lambda rows: rows.round(5)),
}
