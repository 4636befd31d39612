"""The forms a table of vectors can be exported in, each written chunk by chunk and openable by the usual client of its kind."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

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


class Dequantised:
    """An int8 table with its scales, read as the float32 rows it stands for: `table[rows]`, `len(table)`, `table.shape`."""

    def __init__(self, values: np.ndarray, scales: np.ndarray):
        self._values, self._scales, self.shape = values, scales, values.shape

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows) -> np.ndarray:
        return dequantised(np.asarray(self._values[rows]), self._scales[rows])


def write_npy(path: Path, shape: tuple[int, ...], dtype, parts: Iterator[np.ndarray]) -> None:
    """A `.npy` file of that shape and dtype from its parts in order: never a second copy of the table in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


def write_int8(folder: Path, name: str, table: np.ndarray) -> None:
    """`NAME_int8.npy` int8 (N, D) and `NAME_scales.npy` float32 (N,)."""
    scales = np.empty(len(table), np.float32)

    def parts():
        for place, rows in enumerate(chunks(table)):
            values, of_rows = quantised(rows)
            scales[place * CHUNK_ROWS : place * CHUNK_ROWS + len(rows)] = of_rows
            yield values

    write_npy(folder / f"{name}_int8.npy", table.shape, np.int8, parts())
    np.save(folder / f"{name}_scales.npy", scales)


def write_parquet(folder: Path, name: str, table: np.ndarray, papers: pa.Table) -> None:
    """`NAME-00000-of-0000n.parquet`: row, paper_id, title, year and `vector` as fixed_size_list<float16>(D)."""
    N, D = table.shape
    rows_a_shard = max(CHUNK_ROWS, SHARD_BYTES // (2 * D) // CHUNK_ROWS * CHUNK_ROWS)
    shards = max(1, -(-N // rows_a_shard))
    schema = pa.schema([
        ("row", pa.int32()), ("paper_id", pa.string()), ("title", pa.string()), ("year", pa.int32()),
        ("vector", pa.list_(pa.float16(), D)),
    ])  # fmt: skip
    for shard in range(shards):
        start, stop = shard * rows_a_shard, min(N, (shard + 1) * rows_a_shard)
        with pa.parquet.ParquetWriter(folder / f"{name}-{shard:05d}-of-{shards:05d}.parquet", schema) as writer:
            for first, rows in zip(range(start, stop, CHUNK_ROWS), chunks(table[start:stop]), strict=True):
                of_papers = papers.slice(first, len(rows))
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(as_float16(rows).ravel()), D)
                columns = [np.arange(first, first + len(rows), dtype=np.int32)]
                columns += [of_papers[column].combine_chunks() for column in ("paper_id", "title", "year")]
                writer.write_table(pa.table([*columns, vectors], schema=schema))


def write_safetensors(path: Path, tables: dict[str, np.ndarray]) -> None:
    """One safetensors file of float16 tensors: 8 bytes of header length, a JSON header, the raw rows (the library itself would first
    build the whole file in memory)."""
    header, offset = {}, 0
    for name, table in tables.items():
        size = 2 * table.shape[0] * table.shape[1]
        header[name] = {"dtype": "F16", "shape": list(table.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for table in tables.values():
            for rows in chunks(table):
                file.write(as_float16(rows).data)


def write_word2vec(path: Path, table: np.ndarray, papers: pa.Table) -> None:
    """word2vec's binary form: `N D`, then key, space, D float32 a paper; the keys are paper ids, white space in them made `_`."""
    with open(path, "wb") as file:
        file.write(f"{table.shape[0]} {table.shape[1]}\n".encode())
        for place, rows in enumerate(chunks(table)):
            keys = papers["paper_id"].slice(place * CHUNK_ROWS, len(rows)).to_pylist()
            file.writelines("_".join(key.split()).encode() + b" " + row.tobytes() for key, row in zip(keys, rows, strict=True))


def projector_rows(papers: pa.Table) -> np.ndarray:
    """The rows that the projector's files hold: the PROJECTOR_POINTS most cited papers that can be shown."""
    return np.flatnonzero(answerable(papers))[:PROJECTOR_POINTS]


def write_projector(folder: Path, table: np.ndarray, papers: pa.Table) -> None:
    """`vectors.tsv` and `metadata.tsv` of the PROJECTOR_POINTS most cited papers with a title, for projector.tensorflow.org."""
    rows = projector_rows(papers)
    with open(folder / "vectors.tsv", "w", newline="", encoding="utf-8") as file:
        np.savetxt(file, np.asarray(table[rows], np.float32), fmt="%.5f", delimiter="\t")
    shown = papers.select(["title", "year", "degree", "paper_id"]).take(rows).to_pylist()
    with open(folder / "metadata.tsv", "w", newline="", encoding="utf-8") as file:
        file.write("title\tyear\tcitations\tpaper_id\n")  # a header, because there is more than one column
        for paper in shown:
            file.write("\t".join(" ".join(str("" if value is None else value).split()) for value in paper.values()) + "\n")


@dataclasses.dataclass(frozen=True)
class Form:
    """One form: how to write it, how large it will be, and what reading it back gives."""

    write: Callable[[Path, dict[str, np.ndarray], pa.Table], None]  # (folder, {"target": (N, D), "context": (N, D)}, papers)
    bytes: Callable[[int, int], int]  # (N, D) -> bytes of both tables, about
    read_back: Callable[[np.ndarray], np.ndarray]  # float32 (n, D) -> what a reader of this form gets


def _each(write_one) -> Callable:
    def write(folder, tables, papers):
        for name, table in tables.items():
            write_one(folder, name, table, papers)

    return write


FORMS: dict[str, Form] = {
    "npy_float16": Form(
        _each(lambda folder, name, table, _: write_npy(folder / f"{name}.npy", table.shape, "<f2", map(as_float16, chunks(table)))),
        lambda N, D: 4 * N * D,
        as_float16,
    ),
    "npy_float32": Form(
        _each(lambda folder, name, table, _: write_npy(folder / f"{name}.npy", table.shape, "<f4", chunks(table))),
        lambda N, D: 8 * N * D,
        lambda rows: rows,
    ),
    "int8": Form(
        _each(lambda folder, name, table, _: write_int8(folder, name, table)),
        lambda N, D: 2 * N * (D + 4),
        lambda rows: dequantised(*quantised(rows)),
    ),
    "parquet": Form(
        _each(lambda folder, name, table, papers: write_parquet(folder, name, table, papers)), lambda N, D: 2 * N * (2 * D + 60), as_float16
    ),
    "safetensors": Form(
        lambda folder, tables, _: write_safetensors(folder / "embeddings.safetensors", tables), lambda N, D: 4 * N * D, as_float16
    ),
    "word2vec": Form(
        _each(lambda folder, name, table, papers: write_word2vec(folder / f"{name}.bin", table, papers)),
        lambda N, D: 2 * N * (4 * D + 12),
        lambda rows: rows,
    ),
    "projector": Form(
        lambda folder, tables, papers: write_projector(folder, tables["target"], papers),
        lambda N, D: min(N, PROJECTOR_POINTS) * (9 * D + 90),
        lambda rows: rows.round(5),
    ),
}
