"""The search behind the defaults: settings tried on validation splits of four real sets and a planted graph, three seeds each."""

import tempfile
from pathlib import Path

import numpy as np

from helpers.config import Config
from helpers.corpus.build import build_corpus
from helpers.models import smoothing
from helpers.neighbors.evaluate import Questions, readings, splits
from helpers.pairs.build import Pairs, build_pairs
from tests import protocols, real_data
from tests.benchmarks.cpu import our_training, settings
from tests.planted import planted

PLANTED = 50_000  # papers
SEEDS = (0, 1, 2)
TRIED = {  # one change at a time from the defaults
    "defaults": {},
    "cold start": {"warm_start": ()},
    "steps 1, 2, 1": {"warm_start": (1.0, 2.0, 1.0)},
    "steps 0, 1, 1, 1": {"warm_start": (0.0, 1.0, 1.0, 1.0)},
    "noise power 0.75": {"noise_power": 0.75},
    "hub power 0": {"HUB_POWER": 0.0},
    "5 epochs": {"epochs": 5},
    "rate 0.03": {"learning_rate": 0.03},
    "rate 0.15": {"learning_rate": 0.15},
    "SGD, rate 0.1": {"optimizer": "sgd", "learning_rate": 0.1},
    "start twice as long": {"start_scale": 2.0},
    "float32": {"row_type": "float32"},
}


def validation_set(name: str, seed: int, folder: Path):
    """(pairs, score) of a set's validation split; score(target, context) -> reading -> MRR."""
    if name in protocols.SETS:
        split = protocols.load(name, "validation", seed)
        return split, lambda *tables: {key: found["mrr"] for key, found in protocols.link_mrr(*(t[:] for t in tables), None, split).items()}
    if name == "medline":
        dumps = [real_data.paper_data() / "openalex-medline-works.jsonl.gz"]
        config = Config.of_preset("medline", subset="all", dumps=dumps, out=str(folder / str(seed)), seed=seed)
        if not config.folder("pairs").exists():
            build_corpus(config)
            build_pairs(config)
        pairs = Pairs(config)
        questions = Questions(pairs, splits(pairs.heldout)[0])
    else:
        pairs = planted(PLANTED, seed)
        questions = Questions(pairs, pairs.validation[:5000])

    def score(target, context):
        return {key: float((1 / ranks).mean()) for key, ranks in questions.ranks(readings(target, context), target.shape[1]).items()}

    return pairs, score


def run(quick: bool = False) -> dict[str, float] | None:
    """{set}_{tried}: validation MRR of the best reading, mean of three seeds, D = 128; and the table. quick: planted, one seed."""
    if real_data.paper_data() is None:
        print("This benchmark needs real citation data: set PAPER_DATA to its folder.")
        return None
    sets, seeds = (("planted",), SEEDS[:1]) if quick else ((*protocols.SETS, "medline", "planted"), SEEDS)
    figures, power = {}, smoothing.HUB_POWER
    print(f"{'MRR, best reading':<24}" + "".join(f"{name:>18}" for name in sets))
    with tempfile.TemporaryDirectory() as folder:
        of_sets = {(name, seed): validation_set(name, seed, Path(folder)) for name in sets for seed in seeds}
        for tried, changes in TRIED.items():
            smoothing.HUB_POWER = changes.get("HUB_POWER", power)
            changed = {name: value for name, value in changes.items() if name != "HUB_POWER"}
            line = f"{tried:<24}"
            for name in sets:
                found = []
                for seed in seeds:
                    pairs, score = of_sets[name, seed]
                    training = our_training(settings(128, **{"epochs": 10, "seed": seed, **changed}), pairs)
                    found.append(max(score(*training.tables).values()))
                figures[f"{name}_{tried.replace(' ', '_').replace(',', '')}"] = float(np.mean(found))
                line += f"{np.mean(found):>11.4f} ±{np.ptp(found) / 2:.3f}"
            print(line, flush=True)
    smoothing.HUB_POWER = power
    return figures
