"""What each stage needs of memory, disk and time, against what this machine has: told, and refused, before anything is allocated."""

import shutil
from pathlib import Path

from helpers.errors import ConfigError

WORK_BYTES = 900_000_000  # Python, torch and a batch, beside the tables (measured: 0.7 GB)
READING = {True: (0.3, 4, 60e6), False: (0.1, 2, 150e6)}  # compressed or not: bytes of RAM and of disk a byte of a dump; bytes a second
COLUMN_VALUES = 80_000_000  # float32 values of the columns smoothed at a time: three such tables are 1 GB
LIMIT_FILES = (  # (limit, usage) of the control group this process runs in, version 2 and version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_ram() -> int:
    """Bytes of RAM that this process may still take: what the system has available, or less where a control group caps it."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    free = [meminfo["MemAvailable"]] if meminfo else []
    for limit, usage in LIMIT_FILES:
        if Path(limit).exists() and (text := Path(limit).read_text().strip()).isdecimal():
            free.append(int(text) - int(Path(usage).read_text()))
    return max(min(free), 0) if free else 8 << 30  # an unknown system: assume a small one


def reading_needs(files: list) -> dict:
    """What notebook 01 needs to read some files (corpus.dumps.DumpFile), from their sizes; memory follows the papers, not the citations."""
    parts = [(file.size, *READING[file.path.suffix in (".gz", ".zip", ".parquet")]) for file in files]
    return {
        "ram": WORK_BYTES + sum(int(size * ram) for size, ram, _, _ in parts),
        "disk": sum(size * disk for size, _, disk, _ in parts),
        "seconds": 5 + sum(size / rate for size, _, _, rate in parts),
        "advice": "read a part of the dump, or choose a runtime with more of it",
    }


def pair_needs(N: int, E: int) -> dict:
    """What notebook 02 needs for N papers and E citations: a byte a citation beside the papers, 8 on disk."""
    advice = "keep fewer papers (FILTERS in notebook 01)"
    return {"ram": WORK_BYTES // 3 + E + 60 * N + (1 << 28), "disk": 8 * E + 16 * N, "seconds": 3 + E / 8e6, "advice": advice}


def columns_at_a_time(N: int) -> int:
    """How many columns of N rows are smoothed at a time, 16 to 64: three float32 tables of so many columns are held."""
    return max(16, min(64, COLUMN_VALUES // N // 16 * 16))


def checkpoint_bytes(N: int, D: int, value_bytes: int = 2) -> int:
    """The size of a checkpoint of N papers x D: two tables, of bfloat16 (2) or float32 (4), and their sums."""
    return 2 * N * (value_bytes * D + 4)


def training_needs(N: int, D: int, value_bytes: int = 2, seconds: float = 0, on_disk: bool = False, there: int = 0) -> dict:
    """What notebook 03 needs for N papers x D: two tables (in memory, or files), their sums, columns to smooth; three checkpoints on disk.

    value_bytes: 2 for rows of bfloat16, 4 for float32; there: bytes of checkpoints that are on the disk already.
    """

    def ram(D: int) -> int:
        tables = 0 if on_disk else 2 * value_bytes * N * D
        return tables + 8 * N + max(12 * N * min(D, columns_at_a_time(N)), 24 * N) + WORK_BYTES

    fits = next((d for d in range(D - D % 4, 0, -4) if ram(d) <= available_ram()), 0)
    advice = f"DIMENSIONS = {fits} fits" if fits else "no number of dimensions fits: keep fewer papers (FILTERS in notebook 01)"
    if fits and not on_disk:
        advice += "; so does SETTINGS = {'tables_on_disk': True}, which is slower"
    files = (3 + on_disk) * checkpoint_bytes(N, D, value_bytes)
    return {"ram": ram(D), "disk": max(files - there, files // 3), "seconds": seconds, "advice": advice}


def looking_needs(N: int, D: int) -> dict:
    """What notebooks 04 and 06 need for N papers x D: memory-mapped tables, columns to smooth; float16 vectors on disk, once smoothed."""
    ram = WORK_BYTES + 60 * N + 12 * N * min(D, columns_at_a_time(N))
    return {"ram": ram, "disk": 6 * N * D + 100 * N, "seconds": 5 + 1e-7 * N * D, "advice": "choose a runtime with more of it"}


def in_words(count: int) -> str:
    """Bytes in words: 3.1 kB, 4.7 MB, 1.2 GB."""
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size / 10), ("kB", 1e3))
    return f"{count / size:.1f} {unit}"


def preflight(out: Path, ram: int, disk: int, seconds: float, advice: str, drive: int = 0) -> list[tuple[str, str, str]]:
    """Rows (what, needed, here) of a stage's needs in bytes and seconds, `out` being where it writes, `drive` what Drive must hold.

    Raises ConfigError, with the advice, where memory or disk is too small.
    """
    import torch  # here: the planner itself should work without it

    free_ram, free_disk = available_ram(), shutil.disk_usage(next(path for path in (out, *out.parents) if path.exists())).free
    for what, need, here in (("RAM", ram, free_ram), ("disk", disk, free_disk)):
        if need > here:
            raise ConfigError(f"This step needs {need / 1e9:.1f} GB of {what}, but {here / 1e9:.1f} GB are available; {advice}.")
    time = f"about {seconds / 60:.0f} minutes" if seconds > 90 else f"about {seconds:.0f} seconds" if seconds > 10 else "seconds"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; everything runs without"
    return [
        ("RAM", in_words(ram), f"{in_words(free_ram)} available"),
        ("GPU", "not needed", gpu),
        ("disk", in_words(disk), f"{in_words(free_disk)} free"),
        ("Drive", in_words(drive) if drive else "nothing", "checked when it is mounted" if drive else ""),
        ("time", time, "on 2 idle cores"),
    ]
