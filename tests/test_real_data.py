"""Real records of every dump that is read, with counts checked by hand (`zcat ... | wc -l`, `cut`, `sort -u`)."""

import gzip
import json

import pyarrow.compute as pc
import pytest

from helpers.corpus.build import build_corpus, open_corpus
from helpers.errors import DumpError
from tests import real_data

pytestmark = pytest.mark.paper_data


def counts(c) -> tuple[int, int, int]:
    report = build_corpus(c)
    return report["papers"]["kept"], report["citations"]["kept"], report["papers_without_record"]


def test_openalex(config):
    c = config(dumps=[real_data.paper_data() / "openalex-medline-works.jsonl.gz"])
    assert counts(c) == (172_122, 261_071, 172_122 - 7_518)
    papers = open_corpus(c)[0]
    assert (pc.count(papers["doi"]).as_py(), pc.count(papers["pmid"]).as_py()) == (7_107, 6_987)
    titles = dict(zip(papers["paper_id"].to_pylist(), papers["title"].to_pylist(), strict=True))
    assert titles["W2125158795"] == "Pheochromocytoma in Italy: a multicentric retrospective study"


def test_openalex_medline_subset(config):
    report = build_corpus(config(dumps=[real_data.paper_data() / "openalex-medline-works.jsonl.gz"], subset="medline"))
    assert report["papers"]["dropped"] == {"outside the subset": 7_518 - 6_987}


def test_acl(config):
    c = config(dumps=real_data.acl())
    assert counts(c) == (9_975 + 8_658, 162_745, 0)


def test_cit_hepth_is_an_adjacency_list(config, tmp_path):
    c = config(dumps=real_data.cit_hepth(tmp_path))
    report = build_corpus(c)
    assert report["citations"] == {"read": 351_524, "kept": 351_485, "dropped": {"self citation": 39}}
    assert report["papers"]["kept"] == report["papers"]["read"] == 29_557
    assert sum(open_corpus(c)[0]["degree"].to_numpy() > 0) == 27_750


def test_paperscape(config, tmp_path):
    report = build_corpus(config(dumps=real_data.paperscape(tmp_path)))
    assert report["citations"] == {"read": 146_964, "kept": 146_934, "dropped": {"self citation": 30}}
    assert (report["papers"]["read"], report["papers"]["kept"], report["papers_without_record"]) == (49_264, 49_904, 49_904 - 49_264)


def test_linqs_pubmed(config, tmp_path):
    report = build_corpus(config(dumps=[real_data.linqs_pubmed(tmp_path)]))
    assert report["citations"] == {"read": 44_338, "kept": 44_335, "dropped": {"self citation": 3}}
    assert report["papers"]["kept"] == report["papers_without_record"] == 19_717


PLANETOID = {"cora": (10_858, 5_278, 0, 2_708), "citeseer": (9_464, 4_552, 248, 3_279), "pubmed": (88_676, 44_324, 6, 19_717)}


@pytest.mark.parametrize("name", PLANETOID)
def test_planetoid_lists_every_link_at_both_ends(config, tmp_path, name):
    """Of Citeseer's 3,327 papers 48 have no link but perhaps one to themselves: an edge list does not name them."""
    entries, links, selves, papers = PLANETOID[name]
    report = build_corpus(config(dumps=[real_data.planetoid(tmp_path, name)]))
    dropped = {"duplicate citation": entries - selves - links} | ({"self citation": selves} if selves else {})
    assert report["citations"] == {"read": entries, "kept": links, "dropped": dropped}
    assert report["papers"]["kept"] == papers


def raw(name: str) -> str:
    return str(real_data.paper_data() / "raw-formats" / name)


def test_s2_open_corpus_2018(config):
    report = build_corpus(config(dumps=[raw("s2-open-corpus-2018.jsonl.gz")]))
    assert report["papers"] == {"read": 92, "kept": 753, "dropped": {}, "incomplete": {"no year": 2}}
    assert report["citations"] == {"read": 349 + 312, "kept": 661, "dropped": {}}
    for subset, inside in (("medline", 72), ("cs", 7)):
        report = build_corpus(config(dumps=[raw("s2-open-corpus-2018.jsonl.gz")], subset=subset))
        assert report["papers"]["dropped"] == {"outside the subset": 92 - inside}


def test_s2_academic_graph_2022(config):
    files = [raw(f"s2ag-2022-{name}.jsonl.gz") for name in ("papers", "citations", "paper-ids")]
    report = build_corpus(config(dumps=files))
    assert report["papers"] == {"read": 100, "kept": 100 + 166, "dropped": {}, "incomplete": {}}
    assert report["citations"] == {"read": 100, "kept": 83, "dropped": {"no id": 17}}
    assert report["other_ids"] == {"read": 100, "dropped": {}} and report["papers_without_record"] == 166
    for subset, inside in (("medline", 1), ("cs", 2)):
        report = build_corpus(config(dumps=files, subset=subset))
        assert report["papers"]["dropped"] == {"outside the subset": 100 - inside}


def test_s2_paper_ids_join_real_records(config, tmp_path):
    """The samples have no paper in common: three old records are given the ids of three citations here."""
    with gzip.open(raw("s2-open-corpus-2018.jsonl.gz"), "rt") as old, gzip.open(raw("s2ag-2022-citations.jsonl.gz"), "rt") as new:
        shas = [json.loads(line)["id"] for line in old][:3]
        corpus_ids = [citation["citedcorpusid"] for citation in map(json.loads, new) if citation["citedcorpusid"]][:3]
    ids = tmp_path / "paper-ids.jsonl"
    lines = (json.dumps({"sha": sha, "corpusid": int(paper), "primary": True}) for sha, paper in zip(shas, corpus_ids, strict=True))
    ids.write_text("\n".join(lines) + "\n")
    c = config(dumps=[raw("s2-open-corpus-2018.jsonl.gz"), raw("s2ag-2022-citations.jsonl.gz"), str(ids)])
    report = build_corpus(c)
    assert report["papers"]["kept"] == 753 + 166 - 3 and report["citations"]["kept"] == 661 + 83
    rows = {row["paper_id"]: row for row in open_corpus(c)[0].to_pylist()}
    assert all(rows[paper]["title"] and sha not in rows for sha, paper in zip(shas, corpus_ids, strict=True))


def test_aminer_dblp_v10(config):
    report = build_corpus(config(dumps=[raw("aminer-dblp-v10.jsonl")], subset="cs"))
    assert report["papers"] == {"read": 10, "kept": 10 + 25, "dropped": {}, "incomplete": {}}
    assert report["citations"] == {"read": 25, "kept": 25, "dropped": {}}


def test_a_header_without_rows(config):
    with pytest.raises(DumpError, match="not one citation"):
        build_corpus(config(dumps=[raw("nih-occ-header-only.csv")]))
