"""The settings of a run: one frozen, checked dataclass, and the presets."""

import dataclasses
import re
from pathlib import Path

from helpers.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = (ROOT / "data" / "cs_s2_open_corpus.jsonl.gz", ROOT / "data" / "medline_openalex_works.jsonl.gz")
# Optimisers of torch.optim, which the torch engine alone has, with the learning rate of each (by the sample's MRR)
RATES = {"adadelta": 1.0, "adagrad": 0.07, "adam": 0.003, "adamw": 0.003, "adamax": 0.003, "asgd": 0.3, "nadam": 0.003, "radam": 0.01,
         "rmsprop": 0.001, "rprop": 0.0001}  # fmt: skip
CHOICES = {
    "subset": ("cs", "medline", "all"), "engine": ("auto", "kernel", "torch"), "optimizer": ("rowwise_adagrad", "sgd", *RATES),
    "row_type": ("bfloat16", "float32"), "pairs_from": ("citations", "walks", "shards", "windows"), "device": ("auto", "cpu", "cuda"),
}  # fmt: skip
RANGES = {  # least, most, unit of each number; a whole one where the least is
    "dimensions": (1, 65_536, ""), "epochs": (0, 100_000, ""), "negatives": (1, 100_000, ""), "batch_pairs": (1, 2**40, ""),
    "block_pairs": (1, 2**40, ""), "seed": (0, 2**63 - 1, ""), "threads": (0, 1024, " (0: one a core)"), "min_degree": (0, 2**31, ""),
    "walk_length": (2, 1000, " of papers"), "window": (1, 1000, " of steps"), "walks_per_paper": (1, 10_000, ""),
    "reach": (0, 1000, " of smoothing steps"), "checkpoints_on_drive": (1, 100, ""), "checkpoint_minutes": (0.0, 1e6, " of minutes"),
    "warm_up": (0.0, 0.9, ""), "start_scale": (1e-6, 1000, ""), "max_bad_fraction": (0.0, 1, ""), "heldout": (0.0, 0.9, ""),
    "noise_power": (0.0, 2, ""), "noise_slots": (0, 2**31 - 1, ""), "shared_negatives": (1, 100_000, ""), "subsample": (0.0, 1, ""),
    "gpu_memory": (0.0, 10_000, " of GB"), "learning_rate": (1e-9, 100, ""),
}  # fmt: skip
REMOTE = re.compile(r"https?://|drive:|s2:", re.IGNORECASE)  # how an entry of `dumps` begins that is to be downloaded
SIGNED = re.compile(r"\?.*(signature|sig=|token|credential|expires).*", re.IGNORECASE)  # of an address: nobody else's business

# Which stage a setting belongs to: a stage's artefacts record, and depend on, the settings of that stage.
CORPUS_SETTINGS = ("dumps", "subset", "field", "first_year", "last_year", "min_degree", "keep_unrecorded", "max_bad_fraction")
PAIRS_SETTINGS = ("heldout", "heldout_after", "noise_power", "noise_slots", "seed", "extends")
TRAINING_SETTINGS = (
    "dimensions", "epochs", "negatives", "optimizer", "learning_rate", "warm_up", "warm_start", "start_scale", "row_type", "batch_pairs",
    "shared_negatives", "block_pairs", "seed", "pairs_from", "walk_length", "window", "walks_per_paper", "subsample", "extends",
)  # fmt: skip
FIXED_SETTINGS = tuple(name for name in TRAINING_SETTINGS if name != "epochs")  # of a training: it may go on for longer


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of a run; `Config.of_preset` makes one, and raises ConfigError in one sentence where a value cannot work."""

    preset: str
    out: str  # folder of every artefact of the run
    dumps: tuple[str, ...]  # files, folders, or what to download (https://..., drive:ID, s2:NAME), all read into one corpus
    subset: str  # cs, medline or all; papers of dumps that do not say (edge lists) are always kept
    dimensions: int  # D, values a row
    epochs: int  # passes over all training pairs
    field: str = ""  # keep only papers with this field of study, as the dump spells it; "" = every field
    first_year: int | None = None  # keep only papers of this year or later; None = no bound
    last_year: int | None = None
    min_degree: int = 0  # drop papers with fewer citations, in and out together (one pass)
    keep_unrecorded: bool = True  # keep cited works that have no record of their own
    max_bad_fraction: float = 0.01  # share of malformed records that a dump may have
    heldout: float = 0.02  # share of citations hidden for the evaluation; 0 trains on every one
    heldout_after: int | None = None  # hide only references of papers of a later year than this
    noise_power: float = 0.5  # negatives are drawn with probability ~ degree ** noise_power
    noise_slots: int = 0  # of a unigram table that they are drawn from, as word2vec does; 0 = an alias table, which is exact
    pairs_from: str = "citations"  # train on citations both ways round, random walks over them, `out/pair_shards/`, or a text's windows
    walk_length: int = 5  # papers a walk
    window: int = 2  # steps of a walk, or words of a text, that the two ends of a pair lie apart, at most
    subsample: float = 1e-3  # share of a text above which a word is left out at random, the more the more frequent; 0 = none is
    walks_per_paper: int = 1  # walks that start at a paper, an epoch
    negatives: int = 5  # K, negatives a pair
    optimizer: str = "rowwise_adagrad"  # or sgd; or any of torch.optim's, by the torch engine, slower
    learning_rate: float = 0.07  # at the highest; falls linearly to a tenth at the end
    warm_up: float = 0.0  # share of the run over which the learning rate rises from nothing
    warm_start: tuple[float, ...] | None = None  # weights of 1, 2, ... smoothing steps; None = by the number of papers; () = cold start
    extends: str = ""  # folder (`out`) of a finished run, of an older dump, whose rows training starts from; "" = none
    start_scale: float = 1.0  # length of a row at a warm start; times 1 / D the range of one at a cold start
    row_type: str = "bfloat16"  # or float32: how tables are kept; all arithmetic is in float32
    batch_pairs: int = 1 << 16  # B, pairs a step of the torch engine, at most
    shared_negatives: int = 512  # that engine draws so many for a chunk of pairs, each weighing negatives / shared_negatives
    gpu_memory: float = 0.0  # GB of it that rows and a batch may take; 0 = what is free
    block_pairs: int = 1 << 19  # pairs a block, the unit of progress
    seed: int = 0
    device: str = "auto"  # cpu, cuda or auto
    engine: str = "auto"  # kernel (numba, on CPU cores), torch, or auto: torch on a GPU, kernel elsewhere
    threads: int = 0  # of the kernel engine; 0 = one a core; 1 = the same bits every time
    tables_on_disk: bool | None = None  # keep targets in a file in `out/tables/`: for tables larger than the RAM; None: where they must be
    contexts_on_disk: bool = False  # likewise, where a GPU holds their hottest rows; decided with tables_on_disk
    checkpoint_minutes: float = 10.0  # between two checkpoints; what a session that dies may cost
    checkpoints_on_drive: int = 2  # kept there: two, or one where two do not fit
    reach: int = 0  # smoothing steps over the exported target vectors: 0 finds references, 16 to 32 map topics

    @classmethod
    def of_preset(cls, preset: str, **changes) -> "Config":
        """The preset's settings with changes; a change of None or "" keeps the preset's value. Raises ConfigError."""
        if preset not in PRESETS:
            raise ConfigError(f"Preset {preset!r} does not exist; choose one of {', '.join(PRESETS)}.")
        if unknown := sorted(set(changes) - set(cls.__annotations__)):
            raise ConfigError(f"Setting {unknown[0]!r} does not exist; there are {', '.join(sorted(cls.__annotations__))}.")
        settings = {"preset": preset, "out": str(ROOT / "runs" / preset), **PRESETS[preset]}
        if changes.get("optimizer") in RATES:
            settings["learning_rate"] = RATES[changes["optimizer"]]
        settings.update({name: value for name, value in changes.items() if value not in (None, "", (), []) or name == "warm_start"})
        if settings.get("heldout_after") is not None and changes.get("heldout") is None:
            settings["heldout"] = 0.2  # by date a fifth of the later papers' references, the usual protocol
        dumps = (dump if REMOTE.match(dump) else str(Path(dump).expanduser().resolve()) for dump in map(str, settings["dumps"]))
        settings |= {name: str(Path(settings[name]).expanduser().resolve()) for name in ("out", "extends") if settings.get(name)}
        return cls(**settings | {"dumps": tuple(dumps)})

    def __post_init__(self):
        for name, choices in CHOICES.items():
            self._require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")
        for name, (least, most, unit) in RANGES.items():
            value, whole = getattr(self, name), isinstance(least, int)
            fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and least <= value <= most
            self._require(fits, name, f"a {'whole ' * whole}number{unit} from {least:g} to {most:,}")
        for name in ("first_year", "last_year", "heldout_after"):
            value = getattr(self, name)
            self._require(value is None or (isinstance(value, int) and 1000 <= value <= 3000), name, "a year")
        self._require(self.engine != "kernel" or self.optimizer not in RATES, "engine", f"'torch' or 'auto' for optimizer {self.optimizer}")
        weights = all(isinstance(weight, (int, float)) and 0 <= weight < 1e6 for weight in self.warm_start or ())
        self._require(weights, "warm_start", "weights of 0 or more")

    def _require(self, met: bool, name: str, expected: str) -> None:
        if not met:
            raise ConfigError(f"{name} = {getattr(self, name)!r} cannot work: it must be {expected}.")

    def part(self, names: tuple[str, ...]) -> dict:
        """The settings of one stage (CORPUS_SETTINGS, PAIRS_SETTINGS, TRAINING_SETTINGS) as a JSON-ready dict."""
        values = {**vars(self), "dumps": [SIGNED.sub("", dump) for dump in self.dumps]}  # they are written into artefacts, which are shared
        return {name: list(value) if isinstance(value := values[name], tuple) else value for name in names}

    def folder(self, stage: str) -> Path:
        """The folder of a stage's artefacts, `out/stage`."""
        return Path(self.out) / stage


# Words come much more often than papers are cited: what Adagrad has summed up holds them back, and word2vec's own SGD finds more.
PRESETS: dict[str, dict] = {
    "sample": dict(dumps=SAMPLE, subset="all", dimensions=64, epochs=10, block_pairs=1 << 15),  # a block is a point of the loss curve
    "cs": dict(dumps=(), subset="cs", dimensions=512, epochs=10),
    "medline": dict(dumps=(), subset="medline", dimensions=188, epochs=10, noise_power=0.75, learning_rate=0.02),  # sparse: gently
    "words": dict(dumps=(ROOT / "data" / "topics_text.txt.gz",), subset="all", dimensions=100, epochs=5, pairs_from="windows", window=5,
                  min_degree=5, noise_power=0.75, optimizer="sgd", learning_rate=0.025),
}  # fmt: skip
