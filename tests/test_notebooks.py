"""The notebooks: their form, and every one of them executed top to bottom on the sample."""

import ast
import json
import re

import nbformat
import numpy as np
import pandas as pd
import papermill
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from helpers.__main__ import main, parser
from helpers.artefacts import read_manifest
from helpers.config import ROOT
from helpers.environment import REPOSITORY, TAG
from helpers.export.embeddings import open_embeddings
from helpers.neighbors.search import SIMILARITIES, nearest, tables_of

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FROM_THE_COMMAND_LINE = {
    "PRESET",
    "DUMPS",
    "SUBSET",
    "FILTERS",
    "OUT",
    "HELDOUT",
    "HELDOUT_AFTER",
    "DIMENSIONS",
    "EPOCHS",
    "REACH",
    "SETTINGS",
}
KNOWN = FROM_THE_COMMAND_LINE | {"QUERY", "EMBEDDINGS", "FORMS", "DRIVE_FOLDER", "EXTENDS", "OTHER", "TITLES", "REFERENCES"}
MOST_LINES = 25  # of a code cell


def code_cells(notebook) -> list:
    """The code cells of a notebook, or of the file of one."""
    notebook = notebook if hasattr(notebook, "cells") else nbformat.read(notebook, 4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python_of(cell) -> ast.Module:
    return ast.parse(cell.source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_form_of_a_notebook(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    cells = code_cells(path)
    assert notebook.cells[0].cell_type == "markdown" and f"\n# {int(path.name[:2])}. " in notebook.cells[0].source
    slug = REPOSITORY.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{slug}/blob/{TAG}/notebooks/{path.name})"
    assert notebook.cells[0].source.startswith("[![Open in Colab]") and badge in notebook.cells[0].source
    assert f'REPOSITORY, TAG = "{REPOSITORY}", "{TAG}"' in cells[0].source
    assert "| needs | makes | time |" in notebook.cells[0].source
    assert cells[0].source == code_cells(NOTEBOOKS[0])[0].source, "the setup cell is the same everywhere"
    assert cells[1].metadata.tags == ["parameters"]
    assert all("# @param" in line for line in cells[1].source.splitlines()), "each parameter is a Colab form field"
    assert "config = Config.of_preset(PRESET, " in cells[2].source, "the config is derived right after the parameters"
    for place, cell in enumerate(cells):
        assert len(cell.source.splitlines()) <= MOST_LINES
        assert not [node for node in ast.walk(python_of(cell)) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))]
        assert "keep_output" in cell.metadata.get("tags", []) or not (cell.outputs or cell.execution_count), f"cell {place} has outputs"
    before = {id(cell): previous.cell_type for previous, cell in zip(notebook.cells, notebook.cells[1:], strict=False)}
    assert all(before[id(cell)] == "markdown" for cell in notebook.cells if cell.cell_type == "code"), "a sentence before each cell"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameter_names_are_known_to_the_runner(path):
    names = set(papermill.inspect_notebook(str(path)))
    assert {"PRESET", "OUT"} <= names <= KNOWN and len(names) <= 6


def test_the_readme_lists_every_notebook():
    readme = (ROOT / "README.md").read_text()
    assert all(f"notebooks/{path.name}" in readme for path in NOTEBOOKS)


def test_every_numbered_notebook_of_the_run_is_executed_and_clean(sample_run):
    executed = sorted(path for path in NOTEBOOKS if int(path.name[:2]) <= 6)
    assert executed and [path.name for path in sorted(sample_run.glob("*.ipynb"))] == [path.name for path in executed]
    for path in sorted(sample_run.glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), path
        for cell in cells:
            noise = [output for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"]
            assert not noise, (path.name, noise)


def test_figures_are_drawn(sample_run):
    images = {path.name[:2]: path.read_text().count('"image/png"') for path in sample_run.glob("*.ipynb")}
    assert images == {"01": 2, "02": 0, "03": 1, "04": 1, "05": 2, "06": 0}


def test_the_artefacts_of_a_run(sample_run):
    report = json.loads((sample_run / "corpus" / "report.json").read_text())
    papers = pq.read_table(sample_run / "corpus" / "papers.parquet")
    assert len(papers) == report["papers"]["kept"] == 12_076 and report["citations"]["kept"] == 88_238
    degree = papers["degree"].to_numpy()
    assert (np.diff(degree) <= 0).all()
    pairs = read_manifest(sample_run / "pairs", "", verify=True)
    assert pairs["heldout"] == round(0.02 * 88_238) and pairs["pairs"] == 2 * (88_238 - pairs["heldout"])
    log = pd.read_csv(sample_run / "log.csv")
    assert log["epoch"].max() == 10 and log["loss"].iloc[-1] < 0.5 * np.log(2) * 6
    manifest = read_manifest(sample_run / "embeddings", "", verify=True)
    assert manifest["shape"] == [12_076, 64] and manifest["dtype"] == "float16"
    assert {"dumps", "heldout", "dimensions", "seed"} <= set(manifest["config"])
    vectors = np.load(sample_run / "embeddings" / "target.npy", mmap_mode="r")
    assert vectors.shape == (12_076, 64) and np.isfinite(vectors).all()
    assert list((sample_run / "tensorboard").glob("events*"))


def test_the_sample_is_learned(sample_run):
    metrics = json.loads((sample_run / "metrics.json").read_text())
    floor = max(metrics["baselines"][name]["mrr"] for name in ("random", "popularity"))
    assert metrics["mrr"] >= 5 * floor and metrics["mrr_low"] <= metrics["mrr"] <= metrics["mrr_high"]


def test_the_neighbours_are_the_planted_ones(sample_run):
    from tests.benchmarks.sample import planted_shares

    shares = planted_shares(sample_run)
    assert shares["same_topic_at_10"] >= 0.8 and shares["same_field_at_10"] >= 0.95


def test_the_command_line_knows_its_parameters():
    options = parser().parse_args(["run", "--preset", "sample"])
    for name in FROM_THE_COMMAND_LINE - {"FILTERS", "SETTINGS"}:
        assert hasattr(options, name.lower())


def test_the_notes_on_constrained_ram_run_on_the_pairs_of_a_run(sample_run, tmp_path):
    path = tmp_path / "07.ipynb"
    papermill.execute_notebook(
        str(ROOT / "notebooks" / "07_constrained_ram.ipynb"), str(path), {"OUT": str(sample_run)}, progress_bar=False
    )
    text = path.read_text()
    assert text.count('"image/png"') == 2 and "14,886,544 papers x 512 need" in text and "would fit" in text
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    told = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    assert "12,076 papers x 64" in told and "GB of RAM at the peak" in told


def test_the_notes_on_many_devices_start_two_ranks(sample_run, tmp_path):
    """On the pairs of a run: pages equal one table, two ranks train an epoch, and what they leave is evaluated."""
    for stage in ("corpus", "pairs"):
        (tmp_path / stage).symlink_to(sample_run / stage)
    path, given = tmp_path / "11.ipynb", {"OUT": str(tmp_path), "DIMENSIONS": 16}
    papermill.execute_notebook(str(ROOT / "notebooks" / "11_many_devices.ipynb"), str(path), given, progress_bar=False)
    cells = code_cells(path)
    told = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    assert "torch.Size([1, 2, 4]) True True" in told and "mirrors equal: True" in told and "distributed is trained" in told
    assert float(re.search(r"difference from one table (\S+);", told)[1]) < 1e-6
    log = pd.read_csv(tmp_path / "distributed" / "log.csv")
    assert log["pairs"].iloc[-1] == read_manifest(sample_run / "pairs", "")["pairs"] and log["loss"].iloc[-1] < np.log(2) * 6
    scores = ast.literal_eval(next(cell for cell in cells if "of_ranks" in cell.source).outputs[-1]["data"]["text/plain"])
    assert scores["mrr"] > 0.2


def test_the_forms_of_notebook_05_do_what_they_say(sample_run, tmp_path):
    """On finished vectors: a paper of one's own by its references, filtered answers, judgements that notebook 04 then shows."""
    papers = pq.read_table(sample_run / "embeddings" / "papers.parquet")
    ids, titles = (papers[name].to_pylist() for name in ("paper_id", "title"))
    filled = {"REFERENCES": f"{ids[3]} | {titles[5]} | nothing of the kind", "FIRST_YEAR": 2005, "GOOD": "1, 3-4", "BAD": "2"}
    notebook = nbformat.read(ROOT / "notebooks" / "05_explore_papers.ipynb", 4)
    for name, value in filled.items():
        cell = next(cell for cell in code_cells(notebook) if f"\n{name} = " in cell.source)
        cell.source = re.sub(rf"^{name} = .*", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
    nbformat.write(notebook, tmp_path / "filled.ipynb")
    given = {"EMBEDDINGS": str(sample_run / "embeddings"), "OUT": str(tmp_path / "out")}
    for name, path in (("05", tmp_path / "filled.ipynb"), ("04", ROOT / "notebooks" / "04_evaluate_neighbors.ipynb")):
        papermill.execute_notebook(str(path), str(tmp_path / f"{name}.ipynb"), given, cwd=str(ROOT / "notebooks"), progress_bar=False)
    explored = (tmp_path / "05.ipynb").read_text()
    assert "not found: nothing of the kind" in explored and explored.count('"image/png"') == 2
    said = pd.read_csv(tmp_path / "out" / "judgements.csv", dtype=str)
    assert said["query"].unique().tolist() == [f"{ids[3]} | {ids[5]}"] and sorted(said["good"]) == ["0", "1", "1", "1"]
    judged = papers.filter(pc.is_in(papers["paper_id"], pa.array(said["paper_id"])))
    assert len(judged) == 4 and min(judged["year"].to_pylist()) >= 2005
    assert f"{ids[3]} | {ids[5]}" in (tmp_path / "04.ipynb").read_text()
    assert (tmp_path / "out" / "maps" / "papers.html").stat().st_size > 1e6


def test_word_vectors_of_the_bundled_text(tmp_path):
    """`helpers run --preset words` is notebook 08 alone: planted topics are neighbours, planted analogies are found, nothing is lost."""
    assert main(["run", "--preset", "words", "--out", str(tmp_path)]) == 0
    notebook = nbformat.read(tmp_path / "08_word_vectors.ipynb", 4)
    assert [path.name for path in tmp_path.glob("*.ipynb")] == ["08_word_vectors.ipynb"]
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    told = "".join(output.text for output in outputs if output.output_type == "stream")
    for analogy in ("lion : lioncub = bear : bearcub", "cat : cats = dog : dogs", "duck : ducknest = goose : goosenest"):
        assert analogy in told
    papers, target, _, manifest = open_embeddings(tmp_path / "embeddings")
    words, topics = papers["title"].to_pylist(), json.loads((ROOT / "data" / "words.json").read_text())["Text"]["topics"]
    topic_of = {word: topic for topic, names in topics.items() for word in names.split()}
    near, _ = nearest(tables_of(target, target)["centred"], [words.index(word) for word in topic_of], 5)
    assert np.mean([topic_of.get(words[row]) == topic for rows, topic in zip(near, topic_of.values(), strict=True) for row in rows]) > 0.95
    log = pd.read_csv(tmp_path / "log.csv")
    assert log["loss"].iloc[-1] < 0.4 * log["loss"].iloc[0] and log["pip_loss"].iloc[-1] < log["pip_loss"].iloc[0]
    assert log["mrr"].iloc[-1] > 0.7 and manifest["shape"] == [len(words), 100] and set(manifest["metrics"]) == set(SIMILARITIES)
    assert "152,465 of 152,465" in told and (tmp_path / "pair_shards" / "shard-00000.parquet").exists()
    assert list((tmp_path / "tensorboard" / "projector").rglob("metadata.tsv"))


def test_new_papers_are_embedded_from_their_titles(sample_run, tmp_path):
    path, given = tmp_path / "09.ipynb", {"OUT": str(sample_run), "EPOCHS": 1, "TITLES": "Flaky tests | Insulin pumps for children"}
    given["REFERENCES"] = pq.read_table(sample_run / "corpus" / "papers.parquet")["paper_id"][7].as_py()
    papermill.execute_notebook(str(ROOT / "notebooks" / "09_new_papers.ipynb"), str(path), given, progress_bar=False)
    cells = code_cells(nbformat.read(path, 4))
    assert not [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    told = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    tfidf, encoder, blend, chance = map(
        float, re.search(r"TF-IDF (\S+), encoder (\S+), the best blend (\S+), at random (\S+)", told).groups()
    )
    assert min(tfidf, encoder) > 10 * chance and blend >= max(tfidf, encoder)
    manifest = read_manifest(sample_run / "new_papers", "", verify=True)
    assert manifest["shape"] == [2, 64] and manifest["references"] == [given["REFERENCES"]]
    assert np.isfinite(np.load(sample_run / "new_papers" / "target.npy")).all()
    assert path.read_text().count('"image/png"') == 2 and (sample_run / "title_encoder.pt").exists()


def test_compressed_tables_are_trained_on_the_pairs_of_a_run(sample_run, tmp_path):
    path = tmp_path / "10.ipynb"
    given = {"OUT": str(sample_run), "EPOCHS": 2, "DIMENSIONS": 32}
    papermill.execute_notebook(str(ROOT / "notebooks" / "10_compressed_tables.ipynb"), str(path), given, progress_bar=False)
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert path.read_text().count('"image/png"') == 1 and not [output for output in outputs if output.get("name") == "stderr"]
    told = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "12,076 papers x 32" in told and "the same, by hand: True" in told and "1/64: loss a pair" in told
    lines = [line.rsplit(maxsplit=1) for line in outputs[-1].data["text/plain"].splitlines()[1:]]
    table = {name: float(mrr) for name, mrr in lines}
    assert len(table) == 9 and table["full"] > 0.3 > table["1/64"] and table["PMI, full"] > 0.2
