"""Every exported form opened by its usual client, and what it loses."""

import csv

import gensim
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy
from scipy.sparse import csr_matrix

from helpers.artefacts import read_manifest
from helpers.config import Config
from helpers.errors import ArtefactError, ConfigError
from helpers.export import embeddings
from helpers.export.embeddings import (
    FORMS,
    Answer,
    dequantised,
    open_answer,
    open_embeddings,
    quantised,
    recall_at_10,
    sizes,
    with_rows,
    write_form,
)
from helpers.models.smoothing import weigh

N, D = 230, 12


@pytest.fixture
def papers() -> pa.Table:
    titles = [f'Title {i} "quoted", <b>bold</b>\twith a tab' if i % 5 == 0 else f"Título {i} 漢字" for i in range(N)]
    titles[7] = None
    years = pa.array([None if i % 9 == 0 else 1990 + i % 30 for i in range(N)], pa.int32())
    return pa.table({
        "paper_id": [f"paper {i}" if i == 3 else f"W{i}" for i in range(N)], "title": titles, "year": years,
        "degree": pa.array(range(N, 0, -1), pa.int32()),
    })  # fmt: skip


@pytest.fixture
def tables() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    made = {name: generator.standard_normal((N, D)).astype(np.float32) for name in ("target", "context")}
    made["target"][11] = 0  # a row that was never trained
    return made


@pytest.fixture
def exported(tmp_path, tables, papers, monkeypatch):
    """The folder of every form, written in several chunks and parquet shards."""
    monkeypatch.setattr(embeddings, "CHUNK_ROWS", 50)
    monkeypatch.setattr(embeddings, "SHARD_BYTES", 100 * 2 * D)
    for form in FORMS:
        write_form(tmp_path / "exports" / form, form, tables, with_rows(papers), {"source": "test"})
    return tmp_path / "exports"


def write_embeddings(folder, papers, target, context, **facts):
    """As notebook 04 does with what was trained in this run."""
    Answer("a checkpoint", papers, target, context, facts, pairs=object()).keep(folder, {})


@pytest.mark.parametrize("form, dtype", [("npy_float16", np.float16), ("npy_float32", np.float32)])
def test_numpy_maps_the_npy_forms(exported, tables, form, dtype):
    for name, table in tables.items():
        mapped = np.load(exported / form / f"{name}.npy", mmap_mode="r")
        assert isinstance(mapped, np.memmap) and mapped.dtype == dtype and np.array_equal(mapped, table.astype(dtype))


def test_int8_with_scales(exported, tables):
    values, scales = (np.load(exported / "int8" / f"target_{part}.npy") for part in ("int8", "scales"))
    assert values.dtype == np.int8 and scales.dtype == np.float32 and scales.shape == (N,)
    assert np.abs(values * scales[:, None] - tables["target"]).max() <= scales.max() / 2 + 1e-6
    assert not values[11].any() and scales[11] == 0


def test_pyarrow_reads_the_parquet_shards(exported, tables, papers):
    shards = sorted((exported / "parquet").glob("target-*.parquet"))
    assert [path.name for path in shards] == [f"target-0000{i}-of-00003.parquet" for i in range(3)]
    table = pa.concat_tables(map(pq.read_table, shards))
    assert table.schema.field("vector").type == pa.list_(pa.float16(), D)
    assert table["row"].to_pylist() == list(range(N)) and table["title"].to_pylist() == papers["title"].to_pylist()
    vectors = np.stack(table["vector"].to_pandas())
    assert np.array_equal(vectors, tables["target"].astype(np.float16))


def test_safetensors_reads_its_form(exported, tables):
    loaded = safetensors.numpy.load_file(exported / "safetensors" / "embeddings.safetensors")
    assert set(loaded) == {"target", "context"}
    assert all(np.array_equal(loaded[name], tables[name].astype(np.float16)) for name in tables)
    with safetensors.safe_open(exported / "safetensors" / "embeddings.safetensors", "pt") as file:
        assert file.get_slice("target")[5:7].shape == (2, D)


def test_gensim_reads_the_word2vec_form(exported, tables):
    vectors = gensim.models.KeyedVectors.load_word2vec_format(exported / "word2vec" / "target.bin", binary=True)
    assert len(vectors) == N and vectors.vector_size == D
    assert np.array_equal(vectors["W5"], tables["target"][5]) and np.array_equal(vectors["paper_3"], tables["target"][3])
    assert vectors.index_to_key[-1] == f"W{N - 1}"


def test_the_projector_files_keep_its_rules(exported, tables, papers):
    folder = exported / "projector"
    with open(folder / "vectors.tsv", newline="", encoding="utf-8") as file:
        vectors = np.array([[float(value) for value in row] for row in csv.reader(file, delimiter="\t")])  # no header
    lines = (folder / "metadata.tsv").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "title\tyear\tcitations\tpaper_id" and lines[-1] == ""
    assert len(lines) - 2 == len(vectors) == N - 1, "one line a vector; the paper without a title is left out"
    assert all(line.count("\t") == 3 for line in lines[:-1])
    titled = papers["title"].is_valid().to_numpy()
    assert np.allclose(vectors, tables["target"][titled], atol=1e-5)


def test_each_form_has_a_manifest_and_the_size_that_was_announced(exported):
    for form, expected in sizes(list(FORMS), N, D).items():
        manifest = read_manifest(exported / form, "", verify=True)
        rows = N - 1 if form == "projector" else N  # one paper has no title
        assert manifest["form"] == form and manifest["shape"] == [rows, D] and manifest["source"] == "test"
        written = sum(facts["bytes"] for name, facts in manifest["files"].items() if name != "papers.parquet")
        if form in ("npy_float16", "npy_float32", "int8", "safetensors"):
            assert abs(written - expected) < 1000


@pytest.mark.parametrize("form", ["npy_float16", "npy_float32", "int8"])
def test_an_export_is_opened_again(exported, tables, form):
    papers, target, context, manifest = open_embeddings(exported / form)
    assert len(target) == len(papers) == N and target.shape == (N, D) and manifest["form"] == form
    assert np.allclose(target[:], tables["target"], atol=0.02) and np.allclose(
        context[np.array([3, 5])], tables["context"][[3, 5]], atol=0.02
    )


def test_a_form_that_is_not_for_opening(exported):
    with pytest.raises(ArtefactError, match="holds the form 'word2vec'; open the folder of form npy_float16, npy_float32 or int8 instead"):
        open_embeddings(exported / "word2vec")


def test_quantising_by_hand():
    values, scales = quantised(np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32))
    assert values.tolist() == [[64, -127, 32], [0, 0, 0]] and scales.tolist() == pytest.approx([2 / 127, 0])
    assert np.allclose(dequantised(values, scales)[0], [1.0, -2.0, 0.5], atol=2 / 254)


def test_recall_counts_what_a_form_loses(monkeypatch):
    generator = np.random.default_rng(0)
    table = generator.standard_normal((3000, 32)).astype(np.float32)
    recall = recall_at_10(table, ["npy_float32", "npy_float16", "int8"])
    assert recall["npy_float32"] == 1.0 and recall["npy_float16"] > 0.995 and 0.9 < recall["int8"] < 1
    coarse = FORMS["int8"].__class__(FORMS["int8"].write, FORMS["int8"].bytes, np.sign)
    monkeypatch.setitem(FORMS, "int8", coarse)
    assert recall_at_10(table, ["int8"])["int8"] < 0.8


def test_recall_on_the_sample(sample_run):
    recall = read_manifest(sample_run / "exports" / "int8", "", verify=True)["recall_at_10"]
    assert recall["npy_float16"] >= 0.999 and recall["int8"] >= 0.985


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_values_that_do_not_fit_are_refused_and_leave_nothing(tmp_path, papers, tables, value):
    tables["context"][5, 2] = value
    sentence = "beyond 65,504" if value == 1e6 else "not numbers"
    with pytest.raises(ArtefactError, match=sentence):
        write_embeddings(tmp_path / "embeddings", papers, tables["target"], tables["context"])
    assert not list(tmp_path.iterdir())


def test_an_unknown_form():
    for forms in (["xml"], [], "int8"):
        with pytest.raises(ConfigError, match="must be a list of at least one form; choose among npy_float16"):
            sizes(forms, 1, 1)


def test_the_contract_of_embeddings(tmp_path, papers, tables):
    write_embeddings(tmp_path / "embeddings", papers, tables["target"], tables["context"], source="test")
    opened, target, _, manifest = open_embeddings(tmp_path / "embeddings")
    assert opened.column_names == ["row", "paper_id", "title", "year", "degree"] and opened["row"].to_pylist() == list(range(N))
    assert target.dtype == np.float16 and np.array_equal(target, tables["target"].astype(np.float16))
    assert manifest["dtype"] == "float16" and manifest["shape"] == [N, D] and manifest["source"] == "test"
    nothing, some = pa.nulls(N, pa.string()), pa.array([None, *["10.1/a"] * (N - 1)])
    assert with_rows(papers.append_column("doi", nothing).append_column("pmid", nothing)).column_names == opened.column_names
    assert with_rows(papers.append_column("doi", some).append_column("pmid", nothing)).column_names == [*opened.column_names, "doi"]
    assert set(manifest["files"]) == {"target.npy", "context.npy", "papers.parquet"}
    assert len(pd.read_parquet(tmp_path / "embeddings" / "papers.parquet")) == N


def test_finished_vectors_are_opened_without_a_run(exported, config):
    c = config(dumps=["/nowhere"])
    answer = open_answer(c, str(exported / "int8"))
    assert answer.pairs is None and answer.metrics() == {} and len(answer.papers) == N
    assert answer.keep(c.folder("embeddings"), {}) == exported / "int8", "they are not written again"


def test_vectors_and_papers_of_two_runs(exported, tmp_path, tables, papers):
    write_embeddings(tmp_path / "other", papers.slice(0, 9), tables["target"][:9], tables["context"][:9])
    (tmp_path / "other" / "papers.parquet").write_bytes((exported / "npy_float16" / "papers.parquet").read_bytes())
    with pytest.raises(ArtefactError, match=r"papers.parquet is missing or not as its manifest says"):
        open_embeddings(tmp_path / "other")


def test_the_target_vectors_with_a_reach(sample_run, tmp_path):
    """What `--reach 3` writes: the warm start's smoothing, over the training pairs, centred, beside what all share; contexts stay."""
    answer = open_answer(Config.of_preset("sample", out=str(sample_run)))
    assert answer.reaching(0) is answer
    reaching = answer.reaching(3)
    near, far = answer.target, reaching.target
    assert far.dtype == np.float16 and not list(sample_run.glob("target_reach*"))
    indptr, contexts = answer.pairs.indptr, np.asarray(answer.pairs.contexts)
    paired = np.diff(indptr)[:, None] > 0
    rows = near[:] - near[:].mean(axis=1, keepdims=True)
    rows = np.where(paired, rows - rows.mean(axis=0, where=paired), rows)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    total, weights = rows.copy(), weigh(np.maximum(np.diff(indptr), 1))[:, None]
    for _ in range(3):
        rows = csr_matrix((np.ones(len(contexts)), contexts, indptr), shape=(len(rows), len(rows))) @ (rows * weights)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        total += rows
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    total = np.where(paired, total - total.mean(axis=0, where=paired), total)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    expected = (total + paired / np.sqrt(near.shape[1])) * np.maximum(np.diff(indptr), 1)[:, None] ** 0.15
    assert np.allclose(far, expected, atol=2e-3)
    folder = reaching.keep(tmp_path / "kept", {"mrr": 0.5})
    manifest = read_manifest(folder, "")
    assert (manifest["reach"], manifest["metrics"], manifest["metrics_are_of"]) == (3, {"mrr": 0.5}, "reach 0")
    assert np.array_equal(np.load(folder / "target.npy"), far)
    assert np.array_equal(np.load(folder / "context.npy"), answer.context[:].astype(np.float16))
    finished = open_answer(Config.of_preset("sample", out=str(tmp_path / "none")), str(folder))
    with pytest.raises(ArtefactError, match="A reach of 16 needs the training pairs, but these vectors were opened finished"):
        finished.reaching(16)
