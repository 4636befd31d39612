"""The readers, one by one: records as each dump really writes them, its oddities, and what is not read told in one sentence."""

import gzip
import json
import os
import pickle
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.corpus import dumps
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.records import KEPT, Report
from helpers.errors import DumpError
from tests.test_corpus import edges_of, s2

h5py = pytest.importorskip("h5py")


def lines(*records: dict) -> list[str]:
    return [json.dumps(record) for record in records]


def papers_of(config) -> dict[str, dict]:
    return {row["paper_id"]: row for row in open_corpus(config)[0].to_pylist()}


def s2ag(corpusid, title="A title", pubmed=None, dblp=None, **fields) -> dict:
    others = {"MAG": None, "CorpusId": str(corpusid), "PubMed": pubmed, "DBLP": dblp, "DOI": None}
    record = {"corpusid": corpusid, "externalids": others, "title": title, "authors": [], "venue": "", "year": 2006}
    return record | {"s2fieldsofstudy": None, "journal": {"name": "", "pages": "1", "volume": "2"}} | fields


def s2ag_citation(citing, cited) -> dict:
    return {"citingcorpusid": citing, "citedcorpusid": cited, "isinfluential": False, "contexts": None, "intents": None}


def other_id(sha, corpusid, primary=True) -> dict:
    return {"sha": sha, "corpusid": corpusid, "primary": primary}


def fields_of_study(*categories) -> list[dict]:
    return [{"category": category, "source": source} for category in categories for source in ("s2-fos-model", "external")]


def test_s2_academic_graph(config, dump):
    papers = dump(
        "papers.jsonl",
        *lines(
            s2ag(1, "One", s2fieldsofstudy=fields_of_study("Computer Science", "Medicine"), venue="A venue"),
            s2ag("2", "Two", pubmed="123", journal={"name": "A journal"}),
            s2ag(3, None, dblp="conf/x/3", year=None, journal=None),
            s2ag(4, "Four", externalids=None),
            s2ag(5, "Five", pubmed=7),
            s2ag(None, "no id"),
            s2ag(True, "no id either"),
        ),
    )
    citations = dump(
        "citations.jsonl",
        *lines(*(s2ag_citation(*ends) for ends in [("1", "3"), (3, 2), (2, "4"), (2, 5), (None, "1"), ("1", None), (None, None)])),
    )
    c = config(dumps=[papers, citations], max_bad_fraction=0.5)
    report = build_corpus(c)
    rows = papers_of(c)
    assert {paper: (row["title"], row["year"], row["venue"], row["fields"]) for paper, row in rows.items()} == {
        "1": ("One", 2006, "A venue", ["Computer Science", "Medicine"]),
        "2": ("Two", 2006, "A journal", []),
        "3": (None, None, None, []),
        "4": ("Four", 2006, None, []),
        "5": ("Five", 2006, None, []),
    }
    assert edges_of(c) == {("1", "3"), ("3", "2"), ("2", "4"), ("2", "5")}
    assert report["papers"]["dropped"] == {"malformed": 2} and report["papers"]["incomplete"] == {"no title": 1, "no year": 1}
    assert report["citations"] == {"read": 7, "kept": 4, "dropped": {"no id": 3}}
    for subset, edge in (("cs", ("1", "3")), ("medline", ("2", "5"))):
        c = config(dumps=[papers, citations], max_bad_fraction=0.5, subset=subset)
        build_corpus(c)
        assert set(papers_of(c)) == set(edge) and edges_of(c) == {edge}


A, B, C, D, E = (digit * 40 for digit in "abcde")  # as S2's older ids look


@pytest.mark.parametrize("keep_unrecorded", [True, False])
@pytest.mark.parametrize("backwards", [False, True])
def test_old_and_new_s2_ids_are_joined_by_the_paper_ids(config, dump, keep_unrecorded, backwards):
    files = [
        dump("s2_2018.jsonl", s2(A, [B]), s2(B, []), s2(C, [A, E]), s2(D, [A])),
        dump("citations.jsonl", *lines(*(s2ag_citation(*ends) for ends in [("1", "2"), (3, "1"), (3, 2), (2, 3)]))),
        dump("paper-ids.jsonl", *lines(other_id(A, 1), other_id(B, "2", False), other_id(C, 3), other_id("f" * 40, 9), other_id(None, 4))),
    ]
    c = config(dumps=files[::-1] if backwards else files, keep_unrecorded=keep_unrecorded, max_bad_fraction=0.5)
    report = build_corpus(c)
    joined = {("1", "2"), ("3", "1"), ("3", "2"), ("2", "3"), (D, "1")}
    assert edges_of(c) == (joined | {("3", E)} if keep_unrecorded else joined)
    rows = papers_of(c)
    assert {paper: row["title"] for paper, row in rows.items() if row["has_record"]} == {"1": A, "2": B, "3": C, D: D}
    assert report["other_ids"] == {"read": 5, "dropped": {"malformed": 1}}
    dropped = {"duplicate citation": 2} if keep_unrecorded else {"duplicate citation": 2, "outside the subset": 1}
    assert report["citations"]["dropped"] == dropped and report["papers"]["dropped"] == {}


def test_the_record_of_the_dumps_own_id_wins_over_that_of_another_id(config, dump):
    files = [
        dump("s2_2018.jsonl", s2(A, [C]), s2(B, [C]), s2(C, [])),
        dump("papers.jsonl", *lines(s2ag(1, "New one"))),
        dump("citations.jsonl", *lines(s2ag_citation(1, 2))),
        dump("paper-ids.jsonl", *lines(other_id(A, 1), other_id(B, 1, False))),
    ]
    for order in (files, files[::-1]):
        c = config(dumps=order)
        report = build_corpus(c)
        assert edges_of(c) == {("1", C), ("1", "2")}
        assert {paper: row["title"] for paper, row in papers_of(c).items()} == {"1": "New one", C: C, "2": None}
        assert report["papers"]["read"] == 4 and report["papers"]["dropped"] == {"duplicate id": 2}
        assert report["citations"]["dropped"] == {"duplicate citation": 1}


def test_a_paper_that_its_other_id_puts_outside_the_subset_stays_outside(config, dump):
    old = [{"id": A, "title": "A", "year": 1980, "outCitations": [], "inCitations": []}]
    old += [{"id": paper, "title": paper, "year": 2000, "outCitations": [], "inCitations": []} for paper in (B, C)]
    files = [
        dump("s2_2018.jsonl", *lines(*old)),
        dump("citations.jsonl", *lines(s2ag_citation(2, 1), s2ag_citation(2, 3))),
        dump("paper-ids.jsonl", *lines(other_id(A, 1), other_id(B, 2), other_id(C, 3))),
    ]
    c = config(dumps=files, first_year=1990)
    report = build_corpus(c)
    assert edges_of(c) == {("2", "3")}
    assert report["papers"]["dropped"] == {"outside the subset": 1} and report["citations"]["dropped"] == {"outside the subset": 1}
    papers = dump("papers.jsonl", *lines(s2ag(1, "A", year=1980), s2ag(2, "B"), s2ag(3, "C")))
    edges = dump("edges.csv", "citing,cited", f"{B},{A}", f"{B},{C}")  # now the old ids are named, and the new one's record is outside
    c = config(dumps=[papers, edges, files[2]], first_year=1990)
    build_corpus(c)
    assert edges_of(c) == {("2", "3")}


AMINER = {
    "v10.json": lines(
        {"id": "00127ee2", "title": "One", "year": 2013, "venue": "a conference", "n_citation": 0, "references": ["51c7e02e", "001c58d3"]},
        {"id": "001c58d3", "title": "Two", "year": 1998, "venue": "", "n_citation": 50, "authors": ["A"]},
    ),
    "v12.json": [
        "[",
        json.dumps(
            {"id": 1091, "title": "One", "year": 2013, "n_citation": 1, "venue": {"raw": "a conference", "id": 5}, "references": [3, 2]}
        ),
        ","
        + json.dumps(
            {"id": 2, "title": "Two", "year": 1998, "n_citation": 7, "doc_type": "Conference", "fos": [{"name": "Logic", "w": 0.4}]}
        ),
        "]",
    ],
    "v14.json": [
        "["
        + json.dumps({"id": "53e99784", "title": "One", "keywords": ["k"], "year": 2013, "n_citation": 0, "references": ["b", "a"]})
        + ",",
        json.dumps(
            {"id": "a", "title": "Two", "year": 1998, "n_citation": 1, "venue": {"_id": "5", "name_d": "a conference"}, "doc_type": ""}
        )
        + "]",
    ],
}


@pytest.mark.parametrize("release", AMINER)
def test_aminer(config, dump, release):
    path = dump(release, *AMINER[release])
    c = config(dumps=[path], subset="cs")
    report = build_corpus(c)
    ids = {"v10.json": ("00127ee2", "001c58d3", "51c7e02e"), "v12.json": ("1091", "2", "3"), "v14.json": ("53e99784", "a", "b")}
    one, two, missing = ids[release]
    rows = papers_of(c)
    assert edges_of(c) == {(one, two), (one, missing)} and report["papers"]["read"] == 2 and report["papers"]["dropped"] == {}
    assert (rows[one]["title"], rows[one]["year"], rows[two]["title"], rows[two]["year"]) == ("One", 2013, "Two", 1998)
    assert {rows[one]["venue"], rows[two]["venue"]} == {"a conference", None}
    assert rows[two]["fields"] == (["Logic"] if release == "v12.json" else [])
    with pytest.raises(DumpError, match="No citation is left: 2 outside the subset"):
        build_corpus(config(dumps=[path], subset="medline"))


def write_hdf5(path, lists: dict[int, list[int]], rows_a_batch: int = 3) -> str:
    with h5py.File(path, "w") as file:
        rows = list(lists)
        for part, first in enumerate(range(0, len(rows), rows_a_batch)):
            some = rows[first : first + rows_a_batch]
            file[f"labels{part}"] = np.array(some)
            batch = file.create_dataset(f"batch{part}", (len(some),), h5py.vlen_dtype(np.int32))
            for i, row in enumerate(some):
                batch[i] = np.array(lists[row], np.int32)
    return str(path)


LISTS = {row: [] for row in range(3, 40)} | {0: [1, 2, 38], 1: [0], 2: [0, 2, -1], 38: [0], 39: [50]}  # 0 and 2: only 2 lists it again


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", [dict, list])
def test_the_ancestors_hdf5_and_pickles(config, tmp_path, protocol, form):
    folder = tmp_path / "medline"
    folder.mkdir()
    write_hdf5(folder / "citations.h5", LISTS)
    titles, ids = {row: f"Title {row}" for row in range(39)}, {row: f"{row:040x}" for row in range(39)}
    for name, values in (("titles.p", titles), ("ids.PICKLE", ids)):
        (folder / name).write_bytes(pickle.dumps(values if form is dict else list(values.values()), protocol))
    c = config(dumps=[folder])
    report = build_corpus(c)
    name = ids | {39: "39", 50: "50"}
    assert edges_of(c) == {(name[a], name[b]) for a, b in [(0, 1), (0, 2), (0, 38), (39, 50)]}
    rows = papers_of(c)
    assert rows[name[38]]["title"] == "Title 38" and rows["39"]["title"] is None and not rows["50"]["has_record"]
    assert report["papers"] == {"read": 40, "kept": 41, "dropped": {}, "incomplete": {"no title": 1}}
    assert report["citations"]["read"] == 9
    assert report["citations"]["dropped"] == {"also listed by the cited paper": 3, "self citation": 1, "no id": 1}


def test_the_ancestors_hdf5_alone_names_papers_by_row(config, tmp_path):
    c = config(dumps=[write_hdf5(tmp_path / "citations.hdf5", LISTS)])
    build_corpus(c)
    assert edges_of(c) == {("0", "1"), ("0", "2"), ("0", "38"), ("39", "50")}


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_does_not_run(config, tmp_path):
    write_hdf5(tmp_path / "citations.h5", LISTS)
    proof = tmp_path / "it ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "titles.pkl").write_bytes(pickle.dumps({0: "A title", 1: Malicious(proof)}, protocol))
        with pytest.raises(DumpError, match="is not a pickle of plain dicts, lists, strings and numbers"):
            build_corpus(config(dumps=[tmp_path / "citations.h5"]))
        assert not proof.exists()
    (tmp_path / "titles.pkl").write_bytes(b"cos\nmkdir\n(V" + str(proof).encode() + b"\ntR.")  # by hand: GLOBAL and REDUCE
    with pytest.raises(DumpError, match="is not a pickle of plain"):
        build_corpus(config(dumps=[tmp_path / "citations.h5"]))
    assert not proof.exists()
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "elsewhere it would have run"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps(np.arange(3)), "is not a pickle of plain"),
        (pickle.dumps({1: "a"})[:-3], "is not a pickle of plain"),
        (b"", "is not a pickle of plain"),
        (pickle.dumps({"a": "one", "b": "two"}), "is not a pickle of plain"),
    ],
)
def test_pickles_that_are_not_titles_or_ids(config, tmp_path, content, told):
    write_hdf5(tmp_path / "citations.h5", LISTS)
    (tmp_path / "titles.pickle").write_bytes(content)
    with pytest.raises(DumpError, match=told) as caught:
        build_corpus(config(dumps=[tmp_path]))
    assert "\n" not in str(caught.value)


def broken_hdf5(folder, kind: str):
    path = folder / "citations.h5"
    write_hdf5(path, LISTS)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "gzipped":
        (folder / "citations.h5.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = folder / "citations.h5.gz"
    elif kind == "in a zip":
        with zipfile.ZipFile(folder / "citations.zip", "w") as archive:
            archive.write(path, "citations.h5")
        path = folder / "citations.zip"
    else:
        with h5py.File(path, "w") as file:
            if kind == "of something else":
                file["vectors"] = np.zeros((3, 4))
            elif kind == "without lists":
                file["labels0"], file["batch0"] = np.arange(3), np.arange(3)
            elif kind == "of too few labels":
                file["labels0"] = np.arange(2)
                file.create_dataset("batch0", (3,), h5py.vlen_dtype(np.int32))
            elif kind == "of a negative label":
                file["labels0"] = np.array([-1, 3])
                file.create_dataset("batch0", (2,), h5py.vlen_dtype(np.int32))
    return path


BROKEN_HDF5 = {
    "cut off": "is damaged or not the ancestor's",
    "gzipped": "HDF5 file inside an archive; unpack it first",
    "in a zip": "HDF5 file inside an archive; unpack it first",
    "of something else": "0 papers but not one citation",
    "without lists": "is damaged or not the ancestor's",
    "of too few labels": "batch0 does not belong to labels0",
    "of a negative label": "batch0 does not belong to labels0",
}


@pytest.mark.parametrize("kind", BROKEN_HDF5)
def test_a_broken_hdf5_gets_one_sentence(config, tmp_path, kind):
    with pytest.raises(DumpError, match=BROKEN_HDF5[kind]) as caught:
        build_corpus(config(dumps=[broken_hdf5(tmp_path, kind)]))
    assert "\n" not in str(caught.value)


def test_without_h5py_one_sentence_says_so(config, tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "citations.h5", LISTS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DumpError, match=r"h5py.*; download it again, or pip install h5py"):
        build_corpus(config(dumps=[path]))


ICITE = [
    "pmid,doi,title,authors,year,journal,is_research_article,citation_count,cited_by,references",
    '1,10.1/a,"One, first",A B,1998,J One,Yes,1,3,',
    "2,,Two,,1999,J Two,Yes,0,,1 3",
    "3,,Three,,2000,J Two,Yes,1,2,1",
]


def make_zip(path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def as_bytes(rows: list[str]) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def test_nih_citations_and_icite_metadata_inside_their_zips(config, tmp_path):
    citations = make_zip(
        tmp_path / "open_citation_collection.zip",
        {
            "open_citation_collection.csv": as_bytes(["citing,referenced", "3,1", "2,1", "2,9"]),
            "more/part.csv.gz": gzip.compress(as_bytes(["citing,referenced", "9,2"])),
            "README.md": b"not a dump",
            "__MACOSX/._part.csv": b"\0\0",
        },
    )
    metadata = make_zip(tmp_path / "icite_metadata.zip", {"icite_metadata.csv": as_bytes(ICITE)})
    c = config(dumps=[citations, metadata], subset="medline")
    report = build_corpus(c)
    assert edges_of(c) == {("3", "1"), ("2", "1"), ("2", "9"), ("9", "2"), ("2", "3")}
    assert report["citations"]["read"] == 4 + 3 and report["citations"]["dropped"] == {"duplicate citation": 2}
    assert {paper: (*row.values(),)[1:7] for paper, row in papers_of(c).items()} == {
        "1": ("One, first", 1998, "J One", [], "10.1/a", "1"),
        "2": ("Two", 1999, "J Two", [], None, "2"),
        "3": ("Three", 2000, "J Two", [], None, "3"),
        "9": (None, None, None, None, None, None),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["icite_metadata.zip", "open_citation_collection.zip", "run"]


def broken_zip(path, kind: str):
    edges = as_bytes(["citing,referenced", *(f"{i},{i + 1}" for i in range(5000))])
    if kind == "climbing":
        return make_zip(path, {"../x.csv": edges})
    if kind == "climbing, as Windows writes it":
        return make_zip(path, {"a\\..\\..\\x.csv": edges})
    if kind == "without a dump":
        return make_zip(path, {"README.md": b"nothing"})
    make_zip(path, {"edges.csv": edges})
    whole = bytearray(path.read_bytes())
    if kind == "damaged":
        whole[200:260] = bytes(60)
    elif kind == "cut off":
        whole = whole[:-30]
    elif kind == "encrypted":  # the flag in the member's own header and in the archive's list
        whole[6] |= 1
        whole[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(whole)
    return path


BROKEN_ZIP = {
    "climbing": r"climbs out of the archive \('../x.csv'\)",
    "climbing, as Windows writes it": "climbs out of the archive",
    "without a dump": "holds no dump's files",
    "damaged": "is damaged",
    "cut off": "is damaged",
    "encrypted": "is encrypted, password required",
}


@pytest.mark.parametrize("kind", BROKEN_ZIP)
def test_a_broken_zip_gets_one_sentence(config, tmp_path, kind):
    with pytest.raises(DumpError, match=BROKEN_ZIP[kind]) as caught:
        build_corpus(config(dumps=[broken_zip(tmp_path / "dump.zip", kind)]))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.parent.glob("x.csv")] == []


@pytest.mark.parametrize(
    "layout", ["data/works/updated_date=2023-01-01/part_000.gz", "data/jsonl/works/updated_date=2025-06-01/part_0000.gz"]
)
def test_both_layouts_of_the_openalex_snapshot(config, tmp_path, layout):
    work = {"id": "https://openalex.org/W1", "title": "One", "publication_year": 2000, "referenced_works": ["https://openalex.org/W2"]}
    for name in (layout, layout.replace("-01/", "-02/")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(gzip.compress(as_bytes(lines(work | {"id": f"https://openalex.org/W{len(name) + name.count('2')}"}))))
    (tmp_path / layout).parents[1].joinpath("manifest").write_text('{"entries": []}')
    c = config(dumps=[tmp_path / "data"])
    assert build_corpus(c)["papers"]["read"] == 2 and {cited for _, cited in edges_of(c)} == {"W2"}


IDENTIFIERS = {  # as dumps write them: (doi, pmid), None where there is none
    ("10.1234/ABC", "123"): ("10.1234/abc", "123"),
    ("https://doi.org/10.1234/a/b(c)", "https://pubmed.ncbi.nlm.nih.gov/123"): ("10.1234/a/b(c)", "123"),
    ("http://dx.doi.org/10.1/x", "https://pubmed.ncbi.nlm.nih.gov/123/"): ("10.1/x", "123"),
    ("doi:10.1234/ÄB", "24568020v1"): ("10.1234/Äb", "24568020"),
    (" DOI: 10.1/x ", "pmid: 7"): ("10.1/x", "7"),
    ("", ""): (None, None),
    (None, None): (None, None),
    ("n/a", "0"): (None, None),
    ("10.1234", "PMC123"): (None, None),
    ("https://doi.org/", "https://pubmed.ncbi.nlm.nih.gov/"): (None, None),
    (5, False): (None, None),
}
FORMS_WITH_IDENTIFIERS = {
    "s2_open_corpus": lambda doi, pmid: {"id": "a", "outCitations": ["b"], "doi": doi, "pmid": pmid},
    "openalex": lambda doi, pmid: {"id": "https://openalex.org/W1", "referenced_works": ["W2"], "doi": doi, "ids": {"pmid": pmid}},
    "openalex, in its ids": lambda doi, pmid: {
        "id": "https://openalex.org/W1",
        "referenced_works": ["W2"],
        "ids": {"doi": doi, "pmid": pmid},
    },
    "s2_papers": lambda doi, pmid: {"corpusid": 1, "title": "A", "externalids": {"DOI": doi, "PubMed": pmid}},
    "aminer": lambda doi, pmid: {"id": "a", "n_citation": 1, "references": ["b"], "doi": doi},
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("form", FORMS_WITH_IDENTIFIERS)
def test_dois_and_pmids_are_kept_in_short_form(dump, form, together):
    known = [[*IDENTIFIERS]] if together else [[given] for given in IDENTIFIERS]
    for number, some in enumerate(known):
        path = dump(f"{number}.jsonl", *lines(*(FORMS_WITH_IDENTIFIERS[form](*given) for given in some)))
        rows = [row for batch in dumps.read(*dumps.files_of((path,)), Report()) for row in batch.to_pylist()]
        kept = [IDENTIFIERS[given] if form != "aminer" else (IDENTIFIERS[given][0], None) for given in some]
        assert [(row["doi"], row["pmid"]) for row in rows] == kept


def test_dois_and_pmids_of_tables(config, tmp_path):
    edges = tmp_path / "edges.csv"
    edges.write_text("citing,cited\na,b\nb,c\n")
    table = {"id": ["a", "b"], "title": ["A", "B"], "doi": ["https://doi.org/10.1/A", None], "pmid": [None, 7.0]}
    pq.write_table(pa.table(table), tmp_path / "papers.parquet")
    (tmp_path / "papers.csv").write_text("PMID,DOI,id,title\n,10.1/A,a,A\n7.0,,b,B\n")
    for name in ("papers.parquet", "papers.csv"):
        c = config(dumps=[edges, tmp_path / name])
        build_corpus(c)
        rows = papers_of(c)
        assert {paper: (row["doi"], row["pmid"]) for paper, row in rows.items()} == {
            "a": ("10.1/a", None),
            "b": (None, "7"),
            "c": (None, None),
        }
        assert list(rows["a"]) == [*KEPT.names, "degree", "has_record", "few_citations"]


def test_no_format_is_taken_for_another():
    records = {
        "s2_open_corpus": json.loads(s2(A, [B])),
        "openalex": {"id": "https://openalex.org/W1", "title": "One", "publication_year": 2000, "referenced_works": []},
        "papers": s2ag(1),
        "citations": s2ag_citation(1, 2),
        "paper-ids": other_id(A, 1),
        "aminer": json.loads(AMINER["v10.json"][0]),
    }
    recognised = {name: [i for i, reader in enumerate(dumps.JSON_FORMATS) if reader.recognises(record)] for name, record in records.items()}
    assert all(len(readers) == 1 for readers in recognised.values()) and len({readers[0] for readers in recognised.values()}) == 6
    others = [
        {"corpusid": 1, "model": "tldr", "text": "x"},
        {"id": "1", "name": "a venue"},
        {"authorid": 1, "name": "x"},
    ]  # of S2's datasets
    assert not [other for other in others for reader in dumps.JSON_FORMATS if reader.recognises(other)]
