"""Fixtures shared by the tests, and the markers that skip with a reason."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from helpers.__main__ import main
from helpers.config import Config
from tests.csr import csr

settings.register_profile("tests", deadline=None)  # the first example compiles a kernel
settings.load_profile("tests")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("gpu: torch sees no NVIDIA GPU here")
    if item.get_closest_marker("paper_data") and not os.environ.get("PAPER_DATA"):
        pytest.skip("paper_data: PAPER_DATA does not name the folder of real citation data")


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory) -> Path:
    """The folder of one `helpers run` on the sample: notebooks 01 to 06 executed by papermill, with all their artefacts."""
    out = tmp_path_factory.mktemp("sample") / "run"
    start = time.perf_counter()
    assert main(["run", "--preset", "sample", "--out", str(out)]) == 0
    (out / "seconds.txt").write_text(str(time.perf_counter() - start))
    return out


@pytest.fixture
def dump(tmp_path):
    """Write text lines as a file and return its path: dump("edges.csv", "citing,cited", "a,b")."""

    def write(name: str, *lines: str) -> str:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def config(tmp_path):
    """A Config of the cs preset with everything kept, in a fresh folder: config(dumps=..., epochs=...)."""

    def make(**changes) -> Config:
        return Config.of_preset("cs", **{"subset": "all", "out": str(tmp_path / "run"), "dimensions": 8, **changes})

    return make


@pytest.fixture(scope="session")
def community_edges() -> list[tuple[str, str]]:
    """Citations of 300 papers in 10 groups of 30: each paper cites six earlier ones of its group and one of any, so that topics exist."""
    generator = np.random.default_rng(5)
    edges = set()
    for paper in range(10, 300):
        group = [other for other in range(paper % 10, paper, 10)]
        edges.update((f"p{paper}", f"p{other}") for other in generator.choice(group, min(6, len(group)), replace=False))
        edges.add((f"p{paper}", f"p{generator.integers(0, paper)}"))
    return sorted(edges)


def random_pairs(generator: np.random.Generator, N: int, E: int):
    """(indptr, contexts) of a random citation graph in both directions, doubles and self citations included."""
    citing, cited = generator.integers(0, N, E), generator.integers(0, N, E)
    return csr(np.concatenate([citing, cited]), np.concatenate([cited, citing]), N)
