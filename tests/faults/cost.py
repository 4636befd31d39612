"""What a checkpoint of two large tables costs while training: seconds that it waits, RAM, and seconds until all is on the disk."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch

from helpers.config import Config
from helpers.training.checkpoint import Checkpoints

ROWS, D, INTERVAL = 2_150_127, 512, 600  # of the computer-science papers; seconds between two checkpoints


def checkpoint_overhead(place: Path, rows: int = ROWS, saves: int = 2) -> float:
    """Seconds that training waits for one checkpoint of float32 (ROWS, D) tables, the longest of some, over INTERVAL.

    With fewer rows than ROWS it is multiplied by ROWS / rows. place: an empty folder with room for three checkpoints.
    """
    engine = SimpleNamespace(
        **{name: torch.empty(rows, D).uniform_(-1, 1) for name in ("target", "context")},
        state={name: torch.rand(rows) for name in ("target_sums", "context_sums")},
        flush=lambda: None,
    )
    config = Config.of_preset("cs", out=str(place / "run"), row_type="float32", checkpoint_minutes=INTERVAL / 60)
    checkpoints, waited = Checkpoints(config, {}, blocks=saves + 1), []
    for save in range(saves):
        log = [{"epoch": 1, "block": save + 1, "pairs": save}]
        with _PeakMemory() as memory:
            start = time.perf_counter()
            checkpoints._save(engine, log)
            waited.append(time.perf_counter() - start)
            checkpoints._finished.result()
        print(
            f"checkpoint of {rows:,} x {D}: training waits {waited[-1]:.2f} s, {memory.most / 1e6:.0f} MB of RAM more, on the disk after "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
    checkpoints.close()
    shutil.rmtree(place / "run")
    return max(waited) * ROWS / rows / INTERVAL


class _PeakMemory:
    """How many bytes of RAM of its own (no page cache) this process takes more, at most, inside the block: `most`."""

    def __enter__(self):
        self.most, self._process, self._done = 0, psutil.Process(), threading.Event()
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.005):
            self.most = max(self.most, self._process.memory_info().rss - self._before)

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
