"""Progress of everything long: a bar with rate and remaining time, the same in a terminal, in Jupyter and in a log."""

import sys

from tqdm import tqdm


def progress(iterable=None, *, title: str, unit: str, total: float | None = None, initial: float = 0) -> tqdm:
    """A tqdm bar on standard output that refreshes every second; `total` and `initial` in units. Use it as an iterator or with `update`."""
    return tqdm(iterable, title, total, unit=unit, initial=initial, file=sys.stdout, mininterval=1, unit_scale=True, ncols=110)
