"""Ten minutes of training on a GPU, with a checkpoint in the middle: neither its memory nor the host's grows."""

import time
from types import SimpleNamespace

import psutil
import torch

from helpers.config import ROOT, Config
from helpers.training import loop
from tests.benchmarks.gpu import random_graph

MINUTES = 9.0  # with what comes before and after: ten
PAPERS, DEGREE, D = 2_150_127, 20, 512
SETTLED = 0.2  # of the run: caches are filled, the first batch of each size has been


def run(quick: bool = False, device: str = "cuda") -> dict[str, float] | None:
    """{gpu,host}_growth_gb between the first fifth of the run and its end, and how much of the rate is left at the end."""
    if device == "cuda" and not torch.cuda.is_available():
        print("This benchmark needs a GPU: nothing is measured.")
        return None
    minutes, N = (0.5, PAPERS // 100) if quick else (MINUTES, PAPERS)
    indptr, contexts, noise = random_graph(N, DEGREE)
    pairs = SimpleNamespace(indptr=indptr, contexts=contexts, noise=noise, papers=N, fingerprint={})
    out = ROOT / "runs" / "gpu_endurance"
    settings = {"epochs": 100_000, "dimensions": D, "device": device, "checkpoint_minutes": 0.4 * minutes, "warm_start": ()}
    config = Config.of_preset("cs", dumps=["x"], out=out, engine="torch", gpu_memory=4.0, **settings)  # some rows off-loaded
    seen, start, train_block = [], time.monotonic(), loop._train_block

    class Enough(Exception):
        pass

    def watched(*arguments):
        row, process = train_block(*arguments), psutil.Process()
        gpu = torch.cuda.memory_reserved() if device == "cuda" else 0
        seen.append((time.monotonic() - start, gpu, process.memory_info().rss, row["pairs_per_s"]))
        if seen[-1][0] > 60 * minutes:
            raise Enough
        return row

    loop._train_block, loop.check_learning = watched, lambda *_: None  # what is trained on is random
    try:
        loop.train(config, pairs)
    except Enough:
        pass
    early = [row for row in seen if row[0] < SETTLED * seen[-1][0]] or seen[:1]
    late = seen[-len(seen) // 5 :]
    print(f"{len(seen)} blocks, checkpoints: {[path.name for path in (out / 'checkpoints').glob('*')]}")
    growth = [(max(row[i] for row in late) - max(row[i] for row in early)) / 1e9 for i in (1, 2)]
    rates = [sorted(row[3] for row in part)[len(part) // 2] for part in (early, late)]
    return {"gpu_growth_gb": growth[0], "host_growth_gb": growth[1], "rate_at_the_end": rates[1] / rates[0], "pairs_per_s": rates[1]}
