"""Quality against the number of dimensions on two real sets, as one figure: is 512 enough?"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from tests import protocols, real_data
from tests.benchmarks.cpu import our_training, settings

SETS = ("hepth", "paperscape")
DIMENSIONS = (64, 128, 188, 256, 512, 1024)
READING = "target.context + context.target"
FIGURE = Path(__file__).parent / "figures" / "quality_by_dimensions.png"


def run(quick: bool = False) -> dict[str, float] | None:
    """{hepth,paperscape}_mrr_d{64..1024}: test MRR of the sum reading, mean of three seeds (one where quick), and the figure."""
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    figures, axes = {}, plt.subplots(figsize=(6, 4))[1]
    for name in SETS[: 1 if quick else 2]:
        means, spreads = [], []
        for D in DIMENSIONS[: 2 if quick else None]:
            scores = []
            for seed in range(1 if quick else 3):
                split = protocols.load(name, "test", seed)
                target, context = our_training(settings(D, epochs=10, seed=seed), split).tables
                scores.append(protocols.link_mrr(target[:], context[:], None, split)[READING]["mrr"])
            means.append(np.mean(scores))
            spreads.append(np.ptp(scores) / 2)
            figures[f"{name}_mrr_d{D}"] = float(means[-1])
            print(f"{name} D={D}: {means[-1]:.4f} +- {spreads[-1]:.4f}", flush=True)
        axes.errorbar(DIMENSIONS[: len(means)], means, spreads, marker="o", capsize=3, label=name)
    if not quick:
        axes.set(xscale="log", xlabel="dimensions", ylabel="held-out MRR", title="Quality against dimensions (three seeds)", ylim=(0, None))
        axes.set_xticks(DIMENSIONS, DIMENSIONS)
        axes.minorticks_off()
        axes.legend()
        FIGURE.parent.mkdir(exist_ok=True)
        axes.figure.savefig(FIGURE, dpi=110, bbox_inches="tight")
        print(FIGURE)
    return figures
