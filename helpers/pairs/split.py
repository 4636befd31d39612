"""The held-out split: citations that training never sees, in either direction."""

import numpy as np


def choose_heldout(citing: np.ndarray, fraction: float, generator: np.random.Generator, eligible: np.ndarray | None = None) -> np.ndarray:
    """Which citations are hidden, bool (E,): `fraction` of the eligible ones, drawn without replacement.

    citing: int (E,); eligible: bool (E,), None for all (by date: those whose citing paper is later than the date).
    """
    candidates = np.arange(len(citing)) if eligible is None else np.flatnonzero(eligible)
    hidden = np.zeros(len(citing), bool)
    hidden[generator.permutation(candidates)[: round(fraction * len(candidates))]] = True
    return hidden


def is_training(citing: np.ndarray, cited: np.ndarray, hidden: np.ndarray, N: int) -> np.ndarray:
    """Which citations training may see, bool (E,): neither hidden nor the reverse of a hidden one (two papers may cite each other).

    citing, cited: int (E,) below N; hidden: bool (E,).
    """
    unordered = np.minimum(citing, cited).astype(np.int64) * N + np.maximum(citing, cited)
    return ~np.isin(unordered, unordered[hidden])
