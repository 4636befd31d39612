"""What each stage needs of memory, disk and time, against what this machine has: told, and refused, before anything is allocated."""

import dataclasses
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.errors import ConfigError

WORK_BYTES = 900_000_000  # Python, torch and a batch, beside the tables (measured: 0.7 GB)
TRAINING_BYTES = 450_000_000  # the same without what other stages load (measured: 0.25 to 0.45 GB)
DRAWN, SMOOTHED, WRITTEN = 1.2e8, 3e9, 3e8  # a second, on 2 cores (measured): random values made, values smoothed, bytes of checkpoints
READING = {True: (0.3, 4, 1 / 60e6), False: (0.1, 2, 1 / 150e6)}  # compressed or not: bytes of RAM and of disk, and seconds, a byte of it
VALIDATION = 400 * 1000 * 2 * 3e-9  # times D, seconds: of citations with candidates in two tables, at 3 ns each (measured)
START_COLUMNS = 64  # smoothed at a time for the warm start: two tables of so many columns, as rows are stored
CUDA_BYTES = 1_500_000_000  # of RAM that CUDA takes (an estimate: not yet measured)
TABLES = ("target", "context")
# limit, usage, and how what is used below a group begins in memory.stat: version 2, version 1
GROUP_FILES = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_ram() -> int:
    """Bytes of RAM that this process may still take: what the system has available, or less where a control group caps it."""
    meminfo = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    free = [1024 * int(size) for size in re.findall(r"MemAvailable: *(\d+)", meminfo)]
    for folder in _control_groups():
        for limit, usage, prefix in GROUP_FILES:
            if (folder / limit).exists() and (text := (folder / limit).read_text().strip()).isdecimal():
                cache = re.findall(rf"^{prefix}(?:in)?active_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
                free.append(int(text) - int((folder / usage).read_text()) + sum(map(int, cache)))  # files in memory give way
    return max(min(free, default=8 << 30), 0)  # an unknown system: assume a small one


def available_gpu(most: float = 0) -> int:
    """Bytes of GPU memory that this process may still take: what is free, or less where it is to take `most` GB in all (0 = no limit)."""
    import torch  # here: the planner itself should work without it

    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return min(free, int(most * 1e9) - torch.cuda.memory_allocated()) if most else free


def batch_bytes(B: int, N: int, D: int, S: int) -> int:
    """Device memory of the torch engine beside rows: B pairs with S shared negatives, forward and back, and the noise table of N papers."""
    return B * (60 * D + 16 * S) + 8 * N + (1 << 28)


def _control_groups() -> Iterator[Path]:
    # The folders of the control groups that this process is in, from its own to the root: version 2's, and version 1's of memory
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else ():
        _, kinds, path = line.split(":", 2)
        if not kinds or "memory" in kinds.split(","):
            root = GROUPS / "memory" if kinds else GROUPS
            own = root / path.strip("/")
            yield from {root, *(folder for folder in (own, *own.parents) if folder.is_relative_to(root))}


def reading_needs(files: list) -> dict:
    """What notebook 01 needs to read some files (corpus.dumps.DumpFile), from their sizes; memory follows the papers, not the citations."""
    parts = [file.size * np.array(READING[file.path.suffix in (".gz", ".zip", ".parquet")]) for file in files]
    ram, disk, seconds = sum(parts, np.zeros(3))  # of what is remote nothing is known yet
    advice = "read a part of the dump, or choose a runtime with more of it"
    return {"ram": WORK_BYTES + int(ram), "disk": int(disk), "seconds": 5 + float(seconds), "advice": advice}


def pair_needs(N: int, E: int) -> dict:
    """What notebook 02 needs for N papers and E citations: a byte a citation beside the papers, 8 on disk."""
    advice = "keep fewer papers (FILTERS in notebook 01)"
    return {"ram": WORK_BYTES // 3 + E + 60 * N + (1 << 28), "disk": 8 * E + 16 * N, "seconds": 3 + E / 8e6, "advice": advice}


def columns_at_a_time(N: int) -> int:
    """How many columns of N rows are smoothed at a time, 16 to 64: three float32 tables of so many columns are held, of 1 GB."""
    return max(16, min(64, 80_000_000 // N // 16 * 16))


def checkpoint_bytes(N: int, D: int, value_bytes: int = 2, state_bytes: int = 4) -> int:
    """The size of a checkpoint of N papers x D: two tables, of bfloat16 (2) or float32 (4), and what the optimiser keeps of a row."""
    return 2 * N * (value_bytes * D + state_bytes)


def hot_rows(N: int, row_bytes: int, gpu: int) -> dict[str, int]:
    """How many of N rows of each table, the hottest, are in `gpu` bytes of its memory: {"target": n, "context": m}."""
    # Contexts are hotter than targets: a pair touches 1 + K of them, while a target's pairs come together. Within a table papers are in
    # descending degree, so that the hottest come first.
    fit = gpu // row_bytes
    return {"target": min(N, max(fit - N, 0)), "context": min(N, fit)}


# A line of the plan; phase: start or train, when the bytes are taken; "" = always
Item = namedtuple("Item", ["what", "where", "rows", "bytes", "seconds", "phase"], defaults=[0, ""])


@dataclasses.dataclass(frozen=True)
class Training:
    """What decides the memory, disk and time of a training."""

    N: int  # papers
    P: int  # pairs an epoch
    D: int
    value_bytes: int = 2  # of a row's value: bfloat16 2, float32 4
    epochs: int = 1
    steps: int = 5  # smoothing steps of the warm start
    state_bytes: int = 4  # that the optimiser keeps of a row
    gpu: int = 0  # bytes of device memory for rows
    on_disk: bool | None = None  # targets in a file; None: where they must be

    def items(self, rate: float = np.inf) -> list[Item]:
        """The plan: what takes how many bytes where, always or in one phase, and how long; rate: pairs trained a second, as measured."""
        N, table, columns = self.N, self.N * self.D * self.value_bytes, min(self.D, START_COLUMNS)
        checkpoint = checkpoint_bytes(N, self.D, self.value_bytes, self.state_bytes)
        row, libraries = self.D * self.value_bytes + self.state_bytes, TRAINING_BYTES + (CUDA_BYTES if self.gpu else 0)
        # on disk columns are files, written at each step
        start = self.D * (self.steps * self.P / SMOOTHED + N / DRAWN) + bool(self.on_disk) * (self.steps + 1) * table / WRITTEN
        items = [
            Item("target rows", "disk" if self.on_disk else "RAM", N, table),
            Item("context rows", "disk" if self.gpu and self.on_disk else "RAM", N, table, phase="train"),
            Item(f"warm start, {columns} columns at a time", "RAM", N, 2 * N * columns * self.value_bytes, start, "start"),
            Item("noise, optimiser state, order of the papers", "RAM", N, (8 + 2 * self.state_bytes) * N),
            Item("where an epoch's blocks begin", "RAM", N, 24 * N, phase="train"),
            Item("Python, its libraries, a batch", "RAM", 0, libraries, 5),  # seconds: TensorBoard's libraries above all
            Item(f"training, {self.epochs} x {self.P:,} pairs", "", 0, 0, self.epochs * self.P / rate),
            Item(f"validation, {self.epochs + 1} times", "", 0, 0, (self.epochs + 1) * VALIDATION * self.D),
            Item("checkpoints: two, and one being written", "disk", N, 3 * checkpoint, checkpoint / WRITTEN, "train"),
        ]
        hot = hot_rows(N, row, self.gpu).items()
        items += [Item(f"the hottest {name} rows, as they are trained", "GPU memory", rows, rows * row) for name, rows in hot if rows]
        return items + ([Item("columns of the warm start, until they are rows", "disk", N, table, phase="start")] if self.on_disk else [])

    def needs(self, where: str) -> int:
        """Bytes of RAM or disk at the peak. What is mapped from files is not counted as RAM: it gives way where memory gets narrow."""
        items = [item for item in self.items() if item.where == where]
        return max(sum(item.bytes for item in items if item.phase in ("", phase)) for phase in ("start", "train"))

    def placed(self, ram: int) -> "Training":
        """The same with targets in RAM where all fits into `ram` bytes, else in a file; ConfigError, with each change that would fit."""
        for way in (False, True) if self.on_disk is None else (self.on_disk,):
            plan = dataclasses.replace(self, on_disk=way)
            if plan.needs("RAM") <= ram:
                return plan

        def fits(**change) -> bool:
            return dataclasses.replace(plan, **change).needs("RAM") <= ram

        D = next((D for D in range(self.D // 4 * 4, 0, -4) if fits(D=D)), 0)
        changes = {"row_type = 'bfloat16'": fits(value_bytes=2), "tables_on_disk = None": fits(on_disk=True), f"dimensions = {D}": D}
        advice = " or ".join(change for change, fit in changes.items() if fit) or "keep fewer papers (FILTERS in notebook 01)"
        needed = f"{self.N:,} papers x {self.D} need {plan.needs('RAM') / 1e9:.1f} GB of RAM"
        raise ConfigError(f"{needed}, but {ram / 1e9:.1f} GB are available; {advice} would fit.")


def training_needs(plan: Training, rate: float = np.inf, there: int = 0) -> dict:
    """What notebook 03 needs; there: bytes of checkpoints that are on the disk already."""
    disk = plan.needs("disk") - min(there, 2 * checkpoint_bytes(plan.N, plan.D, plan.value_bytes, plan.state_bytes))
    seconds = sum(item.seconds for item in plan.items(rate))
    return {"ram": plan.needs("RAM"), "disk": disk, "seconds": seconds, "advice": "take fewer DIMENSIONS"}


def _in_minutes(seconds: float) -> str:
    # A time in words: seconds, about 30 seconds, about 4 minutes
    return f"about {seconds / 60:.0f} minutes" if seconds > 90 else f"about {seconds:.0f} seconds" if seconds > 10 else "seconds"


def plan_table(plan: Training, rate: float) -> list[tuple[str, str, str, str, str]]:
    """(what, where, rows, bytes, time) of a training, in words."""
    return [
        (what, where, f"{rows:,}" if rows else "", in_words(size) if size else "", _in_minutes(seconds) if seconds else "")
        for what, where, rows, size, seconds, _ in plan.items(rate)
    ]


def largest_dimensions(N: int, ram: int, gpu: int = 0, value_bytes: int = 2) -> dict[str, int]:
    """The largest D for N papers: with both tables in one memory, off-loaded from the GPU to RAM, and with targets on the disk."""
    free = max(ram - TRAINING_BYTES - 40 * N, 0)  # beside the tables, as in Training.items
    rooms = {"one memory": max(gpu, free) / 2, "GPU and RAM": (gpu + free) / 2, "and targets on the disk": gpu + free}
    return {what: int(room / N / value_bytes) // 4 * 4 for what, room in rooms.items()}


def looking_needs(N: int, D: int) -> dict:
    """What notebooks 04 and 06 need for N papers x D: memory-mapped tables, columns to smooth; float16 vectors on disk, once smoothed."""
    ram = WORK_BYTES + 60 * N + 12 * N * min(D, columns_at_a_time(N))
    return {"ram": ram, "disk": 6 * N * D + 100 * N, "seconds": 5 + 1e-7 * N * D, "advice": "choose a runtime with more of it"}


def in_words(count: int) -> str:
    """Bytes in words: 3.1 kB, 4.7 MB, 1.2 GB."""
    unit, size = ("GB", 1e9) if count >= 1e8 else ("MB", 1e6) if count >= 1e5 else ("kB", 1e3)
    return f"{count / size:.1f} {unit}"


def preflight(out: Path, ram: int, disk: int, seconds: float, advice: str, drive: int = 0) -> list[tuple[str, str, str]]:
    """Rows (what, needed, here) of a stage that writes to `out`, in bytes and seconds; ConfigError where memory or disk is too small."""
    import torch  # here: the planner itself should work without it

    free_ram, free_disk = available_ram(), shutil.disk_usage(next(path for path in (out, *out.parents) if path.exists())).free
    for what, need, here in (("RAM", ram, free_ram), ("disk", disk, free_disk)):
        if need > here:
            raise ConfigError(f"This step needs {need / 1e9:.1f} GB of {what}, but {here / 1e9:.1f} GB are available; {advice}.")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; everything runs without"
    on_drive = (in_words(drive), "checked when it is mounted") if drive else ("nothing", "")
    rows = [("RAM", in_words(ram), f"{in_words(free_ram)} available"), ("GPU", "not needed", gpu)]
    rows += [("disk", in_words(disk), f"{in_words(free_disk)} free"), ("Drive", *on_drive)]
    return [*rows, ("time", _in_minutes(seconds), "on 2 idle cores")]
