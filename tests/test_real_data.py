"""Real records of every dump that is read, with counts checked by hand (`zcat ... | wc -l`, `cut`, `sort -u`)."""

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
    kept, citations, _ = counts(c)
    assert citations == 351_485 and kept == 29_557
    assert sum(open_corpus(c)[0]["degree"].to_numpy() > 0) == 27_750


def test_paperscape(config, tmp_path):
    papers, citations, _ = counts(config(dumps=real_data.paperscape(tmp_path)))
    assert citations == 146_934 and papers == 49_904


def test_s2_open_corpus_2018(config):
    c = config(dumps=[real_data.paper_data() / "raw-formats" / "s2-open-corpus-2018.jsonl.gz"])
    report = build_corpus(c)
    assert report["papers"]["read"] == 92 and "malformed" not in report["papers"]["dropped"]


def test_a_header_without_rows(config):
    with pytest.raises(DumpError, match="not one citation"):
        build_corpus(config(dumps=[real_data.paper_data() / "raw-formats" / "nih-occ-header-only.csv"]))
