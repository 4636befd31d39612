"""What a run needs of memory and disk, against what this machine has: told, and refused, before anything is allocated."""

import shutil
from pathlib import Path

from helpers.errors import ConfigError

WORK_BYTES = 900_000_000  # Python, torch and a batch, beside the tables (measured: 0.7 GB)
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


def training_bytes(N: int, D: int) -> int:
    """Bytes of RAM at the peak of training N papers x D: the start holds three float32 tables for a moment, training two and its sums."""
    return 3 * 4 * N * D + 2 * 4 * N + WORK_BYTES


def disk_bytes(N: int, D: int) -> int:
    """Bytes of disk at the peak: two checkpoints and one being written, and the float16 embeddings."""
    return 3 * 2 * (4 * N * D + 4 * N) + 2 * 2 * N * D


def preflight(N: int, D: int, out: Path, seconds: float) -> list[tuple[str, str, str]]:
    """Rows (what, needs, here) of what training N papers x D needs and this machine has; `seconds`: the time it will take, estimated.

    Raises ConfigError, naming the largest D that fits, where memory or disk is too small.
    """
    import torch  # here: the planner itself should work without it

    ram, disk = available_ram(), shutil.disk_usage(next(path for path in (out, *out.parents) if path.exists())).free
    gpu = "none: trained on the CPU"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu = f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    for what, need, here, bytes_of in (("RAM", training_bytes(N, D), ram, training_bytes), ("disk", disk_bytes(N, D), disk, disk_bytes)):
        if need > here:
            fits = next((d for d in range(D - D % 4, 0, -4) if bytes_of(N, d) <= here), 0)
            advice = f"DIMENSIONS = {fits} fits" if fits else "no number of dimensions fits: keep fewer papers, or take a larger machine"
            raise ConfigError(f"{N:,} papers x {D} need {need / 1e9:.1f} GB of {what}, but {here / 1e9:.1f} GB are available; {advice}.")
    return [
        ("RAM", f"{training_bytes(N, D) / 1e9:.1f} GB at the peak", f"{ram / 1e9:.1f} GB available"),
        ("GPU", "a batch at a time", gpu),
        ("disk", f"{disk_bytes(N, D) / 1e9:.2f} GB", f"{disk / 1e9:.1f} GB free"),
        ("Drive", f"{2 * 2 * N * D / 1e9:.2f} GB to keep float16, {2 * N * (D + 4) / 1e9:.2f} GB int8", "see notebook 06"),
        ("time", f"about {seconds / 60:.0f} minutes" if seconds > 90 else f"about {seconds:.0f} seconds", "measured on this machine"),
    ]
