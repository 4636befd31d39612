"""The answer: `out/embeddings/` (two tables of vectors, their papers, a manifest), and opening it, trained here or elsewhere."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from helpers import __version__
from helpers.artefacts import MANIFEST, map_array, new_array, read_manifest, sentences_for_disk_errors, sha256
from helpers.config import Config
from helpers.corpus.build import open_corpus
from helpers.environment import commit
from helpers.errors import ArtefactError
from helpers.export.drive import open_finished
from helpers.export.formats import dequantised, write_form
from helpers.models.smoothing import smooth_trained
from helpers.neighbors.evaluate import evaluate
from helpers.neighbors.search import Search
from helpers.pairs.build import Pairs
from helpers.rows.bfloat16 import Float32Rows, ReadThrough
from helpers.training.checkpoint import trained_checkpoint

NOTEBOOK = "notebook 04_evaluate_neighbors"


def with_rows(papers: pa.Table) -> pa.Table:
    """The papers' columns of the export, with `row` int32 in front; behind them `doi` and `pmid`, if any paper has one."""
    others = [name for name in ("doi", "pmid") if name in papers.column_names and papers[name].null_count < len(papers)]
    rows = pa.array(np.arange(len(papers), dtype=np.int32))
    return papers.select(["paper_id", "title", "year", "degree", *others]).add_column(0, "row", rows)


def open_embeddings(folder: Path) -> tuple[pa.Table, np.ndarray, np.ndarray, dict]:
    """(papers, target, context, manifest) of a finished folder of .npy or int8 form, the vectors memory-mapped; raises ArtefactError."""
    manifest = read_manifest(folder, NOTEBOOK)
    form = manifest.get("form")
    if form not in ("npy_float16", "npy_float32", "int8"):
        raise ArtefactError(f"{folder} holds the form {form!r}; open the folder of form npy_float16, npy_float32 or int8 instead.")
    parts = ("_int8", "_scales") if form == "int8" else ("",)
    arrays = [[map_array(folder / f"{name}{part}.npy", NOTEBOOK) for part in parts] for name in ("target", "context")]
    tables = [ReadThrough(dequantised, *of_one) if form == "int8" else of_one[0] for of_one in arrays]
    return pa.parquet.read_table(folder / "papers.parquet"), *tables, manifest


@dataclasses.dataclass
class Answer:
    """Vectors to look at, trained in this run or opened finished."""

    where: str  # the checkpoint, or the folder they were opened from
    papers: pa.Table
    target: np.ndarray  # float (N, D), memory-mapped
    context: np.ndarray
    facts: dict  # settings, code version: what the manifest says of where they come from
    pairs: Pairs | None  # None where they were opened finished
    citations: tuple[np.ndarray, np.ndarray] | None = None  # (indptr, cited) by citing paper, likewise
    out: Path = Path(".")  # the run's folder

    def metrics(self) -> dict:
        """The held-out scores: those that came with these very vectors, else measured now."""
        return self.facts.get("metrics") or (evaluate(self.pairs, self.target, self.context, self.citations) if self.pairs else {})

    def search(self) -> Search:
        """These vectors to be searched, with any reach where the training pairs are at hand."""
        far = (lambda reach: self.reaching(reach).target) if self.pairs else None
        return Search(self.papers, self.target, self.context, self.citations, far)

    def reaching(self, reach: int) -> "Answer":
        """These vectors with targets smoothed `reach` steps over the training pairs, float16; ArtefactError for vectors opened finished."""
        # They are memory-mapped in the run's folder; the scores among the facts stay those of reach 0
        if not reach:
            return self
        if self.pairs is None:
            raise ArtefactError(f"A reach of {reach} needs the training pairs, but these vectors were opened finished; take reach 0.")
        path = self.out / f"target_reach_{reach}.npy"
        with sentences_for_disk_errors(path):
            smoothed = new_array(path, np.float16, self.target.shape)
        for columns, values in smooth_trained(self.pairs.indptr, self.pairs.contexts, self.target, reach):
            smoothed[:, columns] = values
        path.unlink()  # the mapping keeps its pages until it is let go
        return dataclasses.replace(self, target=smoothed, facts={**self.facts, "reach": reach})

    def keep(self, folder: Path, metrics: dict) -> Path:
        """Write the vectors, as float16, into `folder`, unless they were opened finished; returns where they are; ArtefactError."""
        # metrics: those of reach 0
        if self.pairs is None:
            return Path(self.where)
        tables, facts = {"target": self.target, "context": self.context}, {"dtype": "float16", **self.facts, "metrics": metrics}
        write_form(folder, "npy_float16", tables, with_rows(self.papers), facts)
        return folder


def open_answer(config: Config, place: str = "") -> Answer:
    """The vectors of the newest checkpoint in `config.out`, or the finished ones of `place` (see open_finished); ArtefactError."""
    if place:
        folder = open_finished(str(config.folder(place)) if config.folder(place).is_dir() else place, config.folder("downloads"))
        *opened, manifest = open_embeddings(folder)
        return Answer(str(folder), *opened, {name: value for name, value in manifest.items() if name != "files"}, None)
    papers, *citations, report = open_corpus(config)
    pairs = Pairs(config)
    trained = trained_checkpoint(config, pairs.fingerprint)
    settings = {**report["config"], **pairs.manifest["config"], **trained.settings}
    settings["dumps"] = [Path(dump).name for dump in settings["dumps"]]  # what is shared should not tell of somebody's folders
    settings["extends"] = Path(settings.get("extends", "")).name
    facts = {"config": settings, "epochs": trained.epoch, "commit": commit(), "checkpoint": sha256(trained.path / MANIFEST)}
    facts |= {"reach": 0, "metrics_are_of": "reach 0"}
    with contextlib.suppress(ArtefactError, KeyError):  # the scores that notebook 04 measured, if it was for these very vectors
        measured = read_manifest(config.folder("embeddings"), NOTEBOOK)
        if (measured["checkpoint"], measured["code_version"]) == (facts["checkpoint"], __version__):
            facts["metrics"] = measured["metrics"]
    return Answer(
        str(trained.path), papers, *map(Float32Rows, (trained.target, trained.context)), facts, pairs, tuple(citations), Path(config.out)
    )
