"""Ids as 64-bit keys, the table that numbers them, and citations between them, each against a plain Python equivalent."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.dataset import dataset

from helpers.config import Config
from helpers.corpus import citations, shards
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.keys import HASHED, NONE, KeyTable, _mixed, ids_of, keys_of
from helpers.errors import DumpError
from tests.test_corpus import edges_of

SPACES = "".join(map(chr, range(33)))  # what is no part of an id at its ends
SOME_IDS = st.text("0019Wwé\0 ", max_size=18) | st.integers(0, 10**18).map(str) | st.text()


@given(st.lists(st.none() | SOME_IDS.filter(lambda text: text.isprintable() or text.isascii())), st.integers(0, 3))
def test_keys_are_equal_where_ids_are_and_numbers_are_read_back(values, first):
    try:
        array = pa.array([*["skipped"] * first, *values], pa.string()).slice(first)
    except UnicodeEncodeError:  # half a character: no Arrow string
        return
    keys, checks = keys_of(array)
    bare = [(value or "").strip(SPACES) for value in values]
    assert [key == NONE for key in keys] == [not value for value in bare]
    assert len(set(keys.tolist())) == len(set(bare))
    assert len({*zip(keys.tolist(), checks.tolist(), strict=True)}) == len(set(bare))
    for value, key, check, back in zip(bare, keys, checks, ids_of(keys).to_pylist(), strict=True):
        digits = value[1:] if value[:1].isascii() and value[:1].isalpha() else value
        plain = digits.isascii() and digits.isdecimal() and len(digits) <= 15 and str(int(digits)) == digits
        assert (key < HASHED) == plain and (back == value or not plain) and (check == 0 or not plain)


def word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "big"))


def same_key(number: int = 0) -> tuple[str, str]:
    """Two ids of 16 letters with one key: the second half of the other undoes what its first half changes."""
    generator, first = np.random.default_rng(number), b"paperone"
    after = lambda half: _mixed(np.uint64(16) ^ word(half))  # noqa: E731
    while True:
        half = bytes(generator.integers(97, 123, 8, np.uint8))
        other = int(word(b"papertwo") ^ after(first) ^ after(half)).to_bytes(8, "big")
        if other.isalnum():
            return "paperonepapertwo", (half + other).decode()


@pytest.fixture(scope="module")
def twins() -> tuple[str, str]:
    one, other = same_key()
    keys, checks = keys_of(pa.array([one, other]))
    assert one != other and keys[0] == keys[1] and checks[0] != checks[1]
    return one, other


def s2(paper_id: str, *cites: str, year: int = 2000) -> str:
    return json.dumps({"id": paper_id, "year": year, "outCitations": cites})


def collisions(one: str, other: str) -> dict:
    return {
        "two records of a file": [[s2(one, "a"), s2(other, "b")]],
        "two records of two files": [[s2(one, "a")], [s2(other, "b")]],
        "a record and a reference": [[s2(one, "a"), s2("b", other)]],
        "a record and a reference of an earlier file": [[s2("b", other)], [s2(one, "a")]],
        "two references of a file": [[s2("a", one), s2("b", other)]],
        "two references of two files": [[s2("a", one)], [s2("b", other)]],
        "a record and one outside the subset": [[s2(one, "a"), s2(other, year=1900)]],
        "a reference and a record outside the subset": [[s2("a", one)], [s2(other, "a", year=1900)]],
        "two citations": [["citing,cited", f"a,{one}", f"{other},a"]],
    }


@pytest.mark.parametrize("keep_unrecorded", [True, False])
@pytest.mark.parametrize("kind", collisions("", ""))
def test_two_ids_that_share_a_key_are_refused(config, dump, twins, kind, keep_unrecorded):
    texts = collisions(*twins)[kind]
    files = [dump(f"{i}.{'csv' if kind == 'two citations' else 'jsonl'}", *lines) for i, lines in enumerate(texts)]
    c = config(dumps=files, first_year=1950, keep_unrecorded=keep_unrecorded)
    harmless = ("two references", "two citations", "a reference and a record outside the subset")
    if keep_unrecorded or not kind.startswith(harmless):
        with pytest.raises(DumpError, match=r"The id .* and another one share a 64-bit key .*; rename it in the dump"):
            build_corpus(c)
    else:  # neither is a paper
        with pytest.raises(DumpError, match="No citation is left"):
            build_corpus(c)


@pytest.mark.parametrize("expected", [0, 3000])
def test_a_key_table_numbers_as_a_dict_does(expected):
    generator, table, numbers = np.random.default_rng(expected), KeyTable(expected), {}
    for step in range(30):
        keys = generator.integers(0, 400 * (step + 1), generator.integers(0, 700)).astype(np.uint64) << np.uint64(step % 3 * 20)
        keys[generator.random(len(keys)) < 0.05] = NONE
        wanted = keys[::2]
        assert table.find(wanted).tolist() == [numbers.get(key, -1) for key in wanted.tolist()]
        expected_numbers = [-1 if key == NONE else numbers.setdefault(key, len(numbers)) for key in keys.tolist()]
        assert table.find(keys, add=True).tolist() == expected_numbers and table.count == len(numbers)
    assert {key: number for number, key in enumerate(table.keys().tolist())} == numbers
    assert table.count > 3000 and len(table._slots) * 0.6 >= table.count


EDGES = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(0, 1)), max_size=60),
    )
)


@given(EDGES, st.integers(1, 70))
def test_by_citing_is_a_set_of_edges(tmp_path_factory, case, at_a_time):
    state, edges = np.array(case[0], np.uint8), case[1]
    folder = tmp_path_factory.mktemp("edges")
    np.array([(citing, 2 * cited + mirrored) for citing, cited, mirrored in edges], np.uint32).reshape(-1, 2).tofile(folder / "edges")
    dropped = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(citations, "EDGES_AT_A_TIME", at_a_time)
        indptr, cited_of = citations.by_citing(folder / "edges", folder / "cited.npy", state, dropped)
    outside = [edge for edge in edges if citations.OUTSIDE in (state[edge[0]], state[edge[1]])]
    inside = Counter(edge for edge in edges if edge not in outside and edge[0] != edge[1])
    truth = {edge[:2] for edge in inside}
    assert {(i, int(cited)) for i in range(len(state)) for cited in cited_of[indptr[i] : indptr[i + 1]]} == truth
    assert len(cited_of) == len(truth) and all((np.diff(cited_of[indptr[i] : indptr[i + 1]]) > 0).all() for i in range(len(state)))
    assert +dropped == +Counter(
        {
            "outside the subset": len(outside),
            "self citation": len(edges) - len(outside) - inside.total(),
            "also listed by the cited paper": sum(inside[(*edge, 1)] - (not inside[(*edge, 0)]) for edge in truth),
            "duplicate citation": sum(max(0, inside[(*edge, 0)] - 1) for edge in truth),
        }
    )


NAMES = ("1", "W2", "third paper", "4" * 40, "5")
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),  # the paper
        st.sampled_from((1900, 2000)),  # outside and inside the subset
        st.lists(st.sampled_from((*NAMES, "6", "seventh", "")), max_size=4),  # what it cites
        st.lists(st.sampled_from((*NAMES, "8")), max_size=3),  # what cites it
    ),
    max_size=6,
)


@settings(max_examples=25)
@given(st.lists(RECORDS, min_size=1, max_size=3), st.booleans(), st.integers(1, 5))
def test_a_corpus_is_what_a_plain_dict_of_the_last_records_says(tmp_path_factory, of_files, keep_unrecorded, at_a_time):
    folder = tmp_path_factory.mktemp("corpus")
    listed = [record for records in of_files for record in records]
    last = {paper: record for paper, *record in listed}
    inside = {paper for paper, (year, _, _) in last.items() if year == 2000}
    edges = {(paper, cited) for paper in inside for cited in last[paper][1]} | {(citing, p) for p in inside for citing in last[p][2]}
    usable = lambda paper: paper in inside or (keep_unrecorded and paper and paper not in last)  # noqa: E731
    edges = {(citing, cited) for citing, cited in edges if citing != cited and usable(citing) and usable(cited)}
    paths = [folder / f"{i}.jsonl" for i in range(len(of_files))]
    for path, records in zip(paths, of_files, strict=True):
        lines = [
            json.dumps({"id": paper, "title": f"{n}", "year": year, "outCitations": cites, "inCitations": cited_by})
            for n, (paper, year, cites, cited_by) in enumerate(records)
        ]
        path.write_text("\n".join([*lines, json.dumps({"id": "other", "outCitations": [], "year": 1900})]))
    c = Config.of_preset("cs", subset="all", out=str(folder / "run"), dumps=paths, first_year=1950, keep_unrecorded=keep_unrecorded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.corpus.records.BATCH_RECORDS", at_a_time)
        if not edges:
            with pytest.raises(DumpError, match=r"No citation is left|not one citation"):
                build_corpus(c)
            return
        report = build_corpus(c)
    papers = open_corpus(c)[0]
    assert edges_of(c) == edges
    assert set(papers["paper_id"].to_pylist()) == inside | {paper for edge in edges for paper in edge}
    titles = {paper: str(n) for records in of_files for n, (paper, *_) in enumerate(records)}
    assert all(row["title"] == titles[row["paper_id"]] for row in papers.to_pylist() if row["has_record"])
    assert {row["paper_id"] for row in papers.to_pylist() if row["has_record"]} == inside
    dropped = report["papers"]["dropped"]
    assert report["papers"]["read"] == len(listed) + len(paths) == len(inside) + sum(dropped.values())
    assert report["citations"]["read"] == sum(len(record[2]) + len(record[3]) for record in listed)
    assert report["citations"]["read"] == len(edges) + sum(report["citations"]["dropped"].values())


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=3), st.data())
def test_rows_of_memory_mapped_batches_in_any_order(tmp_path_factory, files, data):
    folder, n = tmp_path_factory.mktemp("batches"), 0
    schema = pa.schema([("value", pa.int64()), ("text", pa.string())])
    for i, sizes in enumerate(files):
        (folder / str(i)).mkdir()
        with pa.ipc.new_file(str(folder / str(i) / "rows.arrow"), schema) as writer:
            for size in sizes:
                values = list(range(n, n + size))
                writer.write_batch(pa.record_batch([values, list(map(str, values))], schema=schema))
                n += size
    batches = list(shards.batches_of([*sorted(folder.iterdir()), folder / "missing"], "rows"))
    assert sum(batch.num_rows for batch in batches) == n
    if n:
        rows = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30))
        table = dataset(batches, schema).take(pa.array(rows))
        assert table["value"].to_pylist() == rows and table["text"].to_pylist() == list(map(str, rows))


def test_names_of_papers_without_a_record_are_read_back(config, dump):
    names = ["12", "W12", "0012", "1" * 16, "a name, with a comma", "ü" * 9, "  around  ", "'quoted'"]
    c = config(dumps=[dump("s2.jsonl", s2("paper", *names)), dump("edges.csv", "citing,cited", "paper,12", "x y,W12")])
    build_corpus(c)
    assert edges_of(c) == {("paper", name.strip()) for name in names} | {("x y", "W12")}
