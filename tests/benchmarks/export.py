"""Exporting Medline's 14,886,544 x 188 target table as int8 from a memory-mapped float16 one: time, memory, size on disk."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from helpers.artefacts import open_npy
from helpers.export.embeddings import FORMS

ROWS, D, CHUNK = 14_886_544, 188, 1 << 17


def run(quick: bool = False) -> dict[str, float]:
    """The figures int8_seconds, int8_cpu_seconds, int8_disk_gb, and peak_rss_gb of the whole process (mapped pages included)."""
    rows = ROWS // 50 if quick else ROWS
    with tempfile.TemporaryDirectory(dir=".") as folder:  # here, not in /tmp, which may be memory
        out = Path(folder)
        some = np.random.default_rng(0).standard_normal((CHUNK, D)).astype(np.float16)
        with open_npy(out / "target.npy", np.float16, rows, D) as file:
            for first in range(0, rows, CHUNK):
                file.write(np.roll(some, first, axis=0)[: rows - first].data)
        table = np.load(out / "target.npy", mmap_mode="r")
        start, cpu = time.perf_counter(), time.process_time()
        FORMS["int8"].write(out, {"target": table}, None)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        values = np.load(out / "target_int8.npy", mmap_mode="r")
        assert values.shape == (rows, D) and np.load(out / "target_scales.npy", mmap_mode="r").shape == (rows,)
        return {
            "rows": rows,
            "int8_seconds": seconds,
            "int8_cpu_seconds": cpu,
            "int8_disk_gb": sum((out / f"target_{part}.npy").stat().st_size for part in ("int8", "scales")) / 1e9,
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        }
