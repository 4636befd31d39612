"""The answer: `out/embeddings/`, two tables of vectors, the papers they belong to, and a manifest."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from helpers.artefacts import map_array, new_folder, read_manifest, write_manifest
from helpers.errors import ArtefactError

NOTEBOOK = "notebook 04_evaluate_neighbors"
CHUNK_ROWS = 1 << 16


def write_embeddings(folder: Path, papers: pa.Table, target: np.ndarray, context: np.ndarray, dtype: str = "float16", **facts) -> None:
    """Write `folder`: target.npy and context.npy (N, D) of `dtype`, papers.parquet, manifest.json with the facts given.

    papers: the corpus's table of N lines; target, context: float32 (N, D). Raises ArtefactError where a value does not fit the dtype.
    """
    columns = {name: papers[name] for name in ("paper_id", "title", "year", "degree")}
    with new_folder(folder) as folder:
        for name, table in (("target", target), ("context", context)):
            with open(folder / f"{name}.npy", "wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": table.shape}
                )
                for first in range(0, len(table), CHUNK_ROWS):  # chunk by chunk: never a second table in memory
                    with np.errstate(over="ignore"):
                        rows = table[first : first + CHUNK_ROWS].astype(dtype)
                    if not np.isfinite(rows).all():
                        raise ArtefactError(
                            f"A {name} row does not fit {dtype} (or is not a number); export as float32, or train with a lower rate."
                        )
                    file.write(rows.tobytes())
        pa.parquet.write_table(pa.table({"row": np.arange(len(papers), dtype=np.int32), **columns}), folder / "papers.parquet")
        write_manifest(folder, dtype=dtype, shape=list(target.shape), **facts)


def open_embeddings(folder: Path) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, target, context, manifest) of a finished export, the vectors memory-mapped; raises ArtefactError."""
    manifest = read_manifest(folder, NOTEBOOK)
    vectors = [map_array(Path(folder) / f"{name}.npy", NOTEBOOK) for name in ("target", "context")]
    return pa.parquet.read_table(Path(folder) / "papers.parquet"), *vectors, manifest
