"""Dumps to corpora: every format, everything that goes wrong in real dumps, subsets, and the contract of `corpus/`."""

import csv
import dataclasses
import gzip
import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import ROOT
from helpers.corpus.build import build_corpus, open_corpus
from helpers.errors import ArtefactError, DumpError
from helpers.pairs.build import Pairs, build_pairs
from tests.csr import csr

DATA = ROOT / "data"


def edges_of(config) -> set[tuple[str, str]]:
    """The citations of a corpus, as pairs of paper ids."""
    papers, indptr, cited, _ = open_corpus(config)
    ids = papers["paper_id"].to_numpy(zero_copy_only=False)
    return set(zip(ids[np.repeat(np.arange(len(ids)), np.diff(indptr))], ids[cited], strict=True))


@given(st.integers(1, 20).flatmap(lambda N: st.tuples(st.just(N), st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1))))))
def test_csr_holds_every_entry_once_in_order(case):
    N, entries = case
    rows, columns = (np.array([entry[side] for entry in entries], np.int64) for side in (0, 1))
    indptr, ordered = csr(rows, columns, N)
    assert indptr[0] == 0 and indptr[-1] == len(entries) and indptr.dtype == np.int64 and ordered.dtype == np.int32
    assert [(row, int(column)) for row in range(N) for column in ordered[indptr[row] : indptr[row + 1]]] == sorted(entries)


@pytest.mark.parametrize("bad", [-1, 3])
def test_csr_refuses_an_id_outside(bad):
    with pytest.raises(ValueError, match="do not fit 3 rows"):
        csr(np.array([0, bad]), np.array([0, 0]), 3)


def test_the_contract_of_a_corpus(config, dump):
    c = config(dumps=[dump("edges.csv", "citing,cited", "a,b", "c,b", "d,b", "c,a")])
    report = build_corpus(c)
    papers, indptr, cited, _ = open_corpus(c)
    assert papers["paper_id"].to_pylist() == ["b", "a", "c", "d"]  # descending degree, ties in order of appearance
    assert papers["degree"].to_pylist() == [3, 2, 2, 1] and papers.schema.field("degree").type == pa.int32()
    assert papers["few_citations"].to_pylist() == [True] * 4
    assert indptr.dtype == np.int64 and cited.dtype == np.int32 and indptr.tolist() == [0, 0, 1, 3, 4]
    assert edges_of(c) == {("a", "b"), ("c", "b"), ("d", "b"), ("c", "a")}
    assert report["citations"] == {"read": 4, "kept": 4, "dropped": {}} and report["papers_without_record"] == 4


def test_everything_wrong_is_counted_and_nothing_good_is_lost(config):
    truth = json.loads((DATA / "everything_wrong_s2.expected.json").read_text())
    c = config(dumps=[DATA / "everything_wrong_s2.jsonl"], keep_unrecorded=False, max_bad_fraction=1.0)
    report = build_corpus(c)
    assert report["papers"]["read"] == truth["lines"] - len(truth["blank"])
    assert report["papers"]["dropped"] == {
        "malformed": len(truth["malformed"]),
        "duplicate id": report["papers"]["read"] - len(truth["malformed"]) - len(truth["papers"]),
    }
    assert report["first_of_each"]["malformed"].endswith(f"line {min(map(int, truth['malformed']))}")
    papers, _, _, _ = open_corpus(c)
    assert sorted(papers["paper_id"].to_pylist()) == sorted(truth["papers"])
    assert edges_of(c) == {tuple(edge) for edge in truth["edges"]}
    dropped = report["citations"]["dropped"]
    assert dropped["self citation"] == truth["self_citations"]
    assert dropped["duplicate citation"] == truth["duplicate_citations"]
    assert dropped["dangling"] == truth["dangling_citations"]
    rows = {row["paper_id"]: row for row in papers.to_pylist()}
    assert sorted(paper for paper, row in rows.items() if row["year"] is None) == sorted(truth["bad_years"] + truth["missing_years"])
    assert sorted(paper for paper, row in rows.items() if row["title"] is None) == sorted(truth["missing_titles"])
    for paper, title in truth["last_titles"].items():
        assert rows[paper]["title"] == title


def test_too_many_malformed_records_are_an_error_that_says_where(config):
    with pytest.raises(DumpError, match=r"everything_wrong_s2.jsonl: 15 of 66 records are malformed \(first: .*line \d+\)"):
        build_corpus(config(dumps=[DATA / "everything_wrong_s2.jsonl"]))


def test_openalex_and_nih_describe_the_same_papers(config, tmp_path):
    nih = config(dumps=[DATA / "medline_nih_citations.csv.gz", DATA / "medline_nih_metadata.csv.gz"], out=str(tmp_path / "nih"))
    openalex = config(dumps=[DATA / "medline_openalex_works.jsonl.gz"], out=str(tmp_path / "openalex"))
    build_corpus(nih)
    build_corpus(openalex)
    topics = pd.read_csv(DATA / "topics.csv.gz", dtype=str).dropna(subset=["pmid"]).set_index("paper_id")["pmid"].to_dict()
    pmids = set(topics.values())
    with_record = {(topics[citing], topics.get(cited)) for citing, cited in edges_of(openalex)}
    assert {edge for edge in edges_of(nih) if edge[1] in pmids} == {edge for edge in with_record if edge[1]}
    titles = {c: dict(zip(*(open_corpus(c)[0][name].to_pylist() for name in ("paper_id", "title")), strict=True)) for c in (nih, openalex)}
    assert all(titles[nih][pmid] == titles[openalex][paper] for paper, pmid in topics.items())


def test_medline_and_cs_subsets_of_the_sample(config):
    both = [DATA / "cs_s2_open_corpus.jsonl.gz", DATA / "medline_openalex_works.jsonl.gz"]
    for subset, kept in (("cs", "cs"), ("medline", "medline")):
        c = config(dumps=both, subset=subset, keep_unrecorded=False)
        report = build_corpus(c)
        assert report["papers"]["kept"] == 6000 and report["papers"]["dropped"] == {"outside the subset": 6000}
        ids = open_corpus(c)[0]["paper_id"].to_pylist()
        assert all((len(paper) == 40) == (kept == "cs") for paper in ids)


FORMS = {
    "csv": lambda path, header, rows: path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n"),
    "tsv": lambda path, header, rows: path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows])),
    "csv.gz": lambda path, header, rows: path.write_bytes(
        gzip.compress("\r\n".join(",".join(map(str, row)) for row in [header, *rows]).encode())
    ),
    "parquet": lambda path, header, rows: pq.write_table(
        pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("id_column", ["id", "paper_id"])
def test_edge_list_with_a_papers_table_in_every_form(config, tmp_path, form, id_column):
    edges, papers = tmp_path / f"edges.{form}", tmp_path / f"papers.{form}"
    FORMS[form](edges, ["citing", "cited"], [(1, 2), (3, 2), (3, 9)])
    FORMS[form](papers, [id_column, "title", "year"], [(1, "One", 2001), (2, 'Two "quoted" words', 2002), (3, "Three", 2003)])
    if form.startswith("csv"):  # a csv writer quotes what it must
        text = (gzip.decompress(papers.read_bytes()) if form == "csv.gz" else papers.read_bytes()).decode()
        text = text.replace('Two "quoted" words', '"Two ""quoted"" words"')
        papers.write_bytes(gzip.compress(text.encode()) if form == "csv.gz" else text.encode())
    for dumps in ([edges, papers], [papers, edges]):
        c = config(dumps=dumps)
        build_corpus(c)
        rows = {row["paper_id"]: (row["title"], row["year"], row["has_record"]) for row in open_corpus(c)[0].to_pylist()}
        assert rows == {
            "1": ("One", 2001, True),
            "2": ('Two "quoted" words', 2002, True),
            "3": ("Three", 2003, True),
            "9": (None, None, False),
        }
        assert edges_of(c) == {("1", "2"), ("3", "2"), ("3", "9")}


def test_a_folder_of_shards_is_one_corpus(config, tmp_path):
    for shard in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / f"edges{shard}.csv").write_text(f"citing,cited\nnew{shard},old\n")
    c = config(dumps=[tmp_path / "shards"])
    assert build_corpus(c)["citations"]["kept"] == 3


def test_filters(config, dump):
    papers = dump("papers.csv", "id,title,year,fields", "a,A,1990,Biology", "b,B,2000,Biology;Medicine", "c,C,2010,Physics", "d,D,,Biology")
    edges = dump("edges.csv", "citing,cited", "b,a", "c,a", "c,b", "d,a", "d,x")
    count = lambda **filters: build_corpus(config(dumps=[papers, edges], **filters))  # noqa: E731
    assert count()["papers"]["kept"] == 5
    years = count(first_year=1995)
    assert years["papers"]["dropped"] == {"outside the subset": 2} and years["citations"]["dropped"] == {"outside the subset": 4}
    assert count(last_year=2000)["citations"]["kept"] == 1  # b -> a; x is only cited by d, whose year is missing
    assert count(field="biology")["papers"]["dropped"] == {"outside the subset": 1}
    assert count(keep_unrecorded=False)["citations"]["dropped"] == {"dangling": 1}
    degree = count(min_degree=2)
    assert degree["papers"]["kept"] == 4 and degree["citations"]["dropped"] == {"of a paper with too few citations": 1}


def test_a_cited_work_outside_the_subset_does_not_come_back_as_one_without_a_record(config, dump):
    papers = dump("papers.csv", "id,title,year", "a,A,1990", "b,B,2000", "c,C,2001")
    c = config(dumps=[papers, dump("edges.csv", "citing,cited", "b,a", "c,b")], first_year=1995)
    build_corpus(c)
    assert edges_of(c) == {("c", "b")}


def s2(paper_id: str, cites: list[str]) -> str:
    return json.dumps({"id": paper_id, "title": paper_id, "outCitations": cites, "inCitations": []})


def test_the_last_of_a_duplicate_id_wins_with_its_citations(config, dump):
    c = config(dumps=[dump("s2.jsonl", s2("a", ["x", "y"]), s2("b", ["a"]), s2("a", ["z"]))])
    report = build_corpus(c)
    assert edges_of(c) == {("b", "a"), ("a", "z")}
    assert report["papers"]["dropped"] == {"duplicate id": 1}
    assert report["citations"]["dropped"] == {"listed by an earlier record of a duplicate id": 2}


def broken(tmp_path, kind: str):
    path = tmp_path / f"{kind.replace(' ', '_')}.jsonl"
    lines = (s2("a", ["b"]) + "\n").encode() * 5000
    if kind == "missing":
        return path
    if kind == "empty folder":
        path.mkdir()
    elif kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "cut off":
        path.write_bytes(gzip.compress(lines)[:-20])
    elif kind == "wrong checksum":
        whole = bytearray(gzip.compress(lines))
        whole[-6] ^= 255
        path.write_bytes(whole)
    elif kind == "other json":
        path.write_text('{"name": "no paper"}\n')
    elif kind == "other columns":
        path.write_text("from,to\n1,2\n")
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 40)
    elif kind == "no citations":
        path.write_text(s2("a", []) + "\n")
    elif kind == "only self citations":
        path.write_text(s2("a", ["a"]) + "\n")
    elif kind == "header only":
        path.write_text("citing,referenced\n")
    elif kind == "bad parquet":
        path.write_bytes(b"PAR1" + bytes(100))
    return path


BROKEN = {
    "missing": "does not exist",
    "empty folder": "holds no dump's files",
    "zero bytes": "is empty",
    "cut off": "cut off in the middle",
    "wrong checksum": "is damaged",
    "other json": "none of the first 200 lines is a record of a known format",
    "other columns": "expected the columns citing,cited",
    "binary": "no citation dump of a known format",
    "no citations": "1 papers but not one citation",
    "only self citations": r"No citation is left: 1 self citation \(subset all\)",
    "header only": "not one citation",
    "bad parquet": "is damaged",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_dump_gets_one_sentence_and_leaves_nothing(config, tmp_path, kind):
    c = config(dumps=[broken(tmp_path, kind)])
    with pytest.raises(DumpError, match=BROKEN[kind]) as caught:
        build_corpus(c)
    assert "\n" not in str(caught.value)
    left = [path for path in (tmp_path / "run").rglob("*") if path.name != "shards" and path.parent.parent.name != "shards"]
    assert all((path / "report.json").exists() for path in left), "nothing but files that were read whole"


def test_a_bad_row_of_a_table_is_counted_with_its_place(config, dump):
    rows = [f"{i},{i + 1}" for i in range(300)]
    c = config(dumps=[dump("edges.csv", "citing,cited", *rows, "1,2,3", ",5")])
    report = build_corpus(c)
    assert report["citations"]["dropped"] == {"malformed": 1, "no id": 1}
    assert report["first_of_each"]["malformed"] == "edges.csv, line 302"
    assert report["first_of_each"]["no id"] == "edges.csv, row 301"
    assert report["citations"]["read"] == 302 and report["citations"]["kept"] == 300


def test_headers_may_be_spelled_otherwise(config, dump):
    for name, lines in (("a.csv", (" Citing, Cited", "x,y")), ("b.csv", ("citing;cited", "x;y")), ("c.csv", ("\ufeffciting,cited", "x,y"))):
        c = config(dumps=[dump(name, *lines)])
        build_corpus(c)
        assert edges_of(c) == {("x", "y")}


def test_a_folder_is_read_for_dump_files_only(config, tmp_path):
    (tmp_path / "dump").mkdir()
    for name, content in (
        ("README.md", "# read me\n"),
        ("edges.csv", "citing,cited\na,b\n"),
        (".hidden.csv", "x\n"),
        ("map.png", "\x89PNG"),
    ):
        (tmp_path / "dump" / name).write_text(content)
    assert build_corpus(config(dumps=[tmp_path / "dump"]))["citations"]["kept"] == 1


def test_a_trained_run_is_not_overwritten_with_another_corpus(config, dump):
    c = config(dumps=[dump("a.csv", "citing,cited", "a,b")])
    build_corpus(c)
    (c.folder("checkpoints") / "000001").mkdir(parents=True)
    (c.folder("checkpoints") / "000001" / "manifest.json").write_text("{}")
    build_corpus(c)  # the same settings: made again
    other = config(dumps=[dump("b.csv", "citing,cited", "a,c")], min_degree=1)
    with pytest.raises(
        ArtefactError,
        match=r"run trained otherwise \(dumps \[.*a.csv'\] there, \[.*b.csv'\] here; min_degree 0 there, 1 here\): choose another --out",
    ):
        build_corpus(other)
    assert edges_of(c) == {("a", "b")}


def test_titles_in_a_papers_table_may_span_lines(config, dump, tmp_path):
    with open(tmp_path / "papers.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "title", "year"], ["a", "One,\ntwo", "1998.0"], ["b", "B", "n.d."]])
    c = config(dumps=[tmp_path / "papers.csv", dump("edges.csv", "citing,cited", "a,b")])
    report = build_corpus(c)
    rows = {row["paper_id"]: (row["title"], row["year"]) for row in open_corpus(c)[0].to_pylist()}
    assert rows == {"a": ("One, two", 1998), "b": ("B", None)} and report["papers"]["incomplete"] == {"impossible year": 1}


def test_a_corpus_that_is_not_there_is_named_with_its_notebook(config):
    with pytest.raises(ArtefactError, match=r"report.json does not exist yet; run notebook 01_preprocess first"):
        open_corpus(config(dumps=["/nowhere"]))


def test_shards_that_a_killed_process_left_behind_a_whole_corpus_go(config, dump):
    c = config(dumps=[dump("edges.csv", "citing,cited", "1,2", "2,3")])
    made = build_corpus(c)
    (c.folder("shards") / "00000-0").mkdir(parents=True)
    (c.folder("shards") / "00000-0" / "report.json").write_text("{}")
    assert build_corpus(c) == made and not c.folder("shards").exists()


def test_a_finished_corpus_stays_until_its_files_or_settings_change(config, dump, capsys):
    edges = dump("edges.csv", "citing,cited", "a,b", "b,c", "c,a", "d,a")
    c = config(dumps=[edges])
    first, made = build_corpus(c), c.folder("corpus").stat().st_mtime_ns

    def built_again(c) -> bool:
        nonlocal made
        capsys.readouterr()
        before, made = made, (build_corpus(c), c.folder("corpus").stat().st_mtime_ns)[1]
        assert ("it stays as it is" in capsys.readouterr().out) == (made == before)
        return made != before

    assert not built_again(c) and build_corpus(c) == first
    assert built_again(dataclasses.replace(c, min_degree=2)) and built_again(c)
    (c.folder("corpus") / "citations.npy").write_bytes(b"damaged")
    assert built_again(c) and build_corpus(c) == first
    dump("edges.csv", "citing,cited", "a,b", "b,c", "c,a", "d,a", "d,b")
    assert built_again(c) and build_corpus(c)["citations"]["kept"] == 5
    os.unlink(edges)
    with pytest.raises(DumpError, match="does not exist"):
        build_corpus(c)


def test_finished_pairs_stay_until_corpus_or_settings_change(config, dump, capsys):
    c = config(dumps=[dump("edges.csv", "citing,cited", *(f"{i},{i * 7 % 50}" for i in range(1, 50)))], heldout=0.1)
    build_corpus(c)
    build_pairs(c)
    made = (c.folder("pairs") / "manifest.json").read_bytes()
    build_pairs(c)
    assert "it stays as it is" in capsys.readouterr().out and (c.folder("pairs") / "manifest.json").read_bytes() == made
    build_pairs(dataclasses.replace(c, heldout=0.2))
    assert "it stays as it is" not in capsys.readouterr().out
    build_pairs(c)
    assert (c.folder("pairs") / "manifest.json").read_bytes() == made, "the same corpus and settings give the same pairs"
    (c.folder("pairs") / "noise.npy").write_bytes(b"damaged")
    build_pairs(c)
    assert (c.folder("pairs") / "manifest.json").read_bytes() == made and len(Pairs(c).noise) == Pairs(c).papers
