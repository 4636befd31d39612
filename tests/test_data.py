"""The bundled sample is what its generator makes, and small."""

import gzip
import subprocess
import sys

import numpy as np
import pandas as pd

from helpers.config import ROOT
from helpers.corpus.build import build_corpus, open_corpus

DATA = ROOT / "data"


def test_the_committed_files_are_what_the_generator_makes(tmp_path):
    subprocess.run([sys.executable, DATA / "generate.py", "--out", tmp_path], check=True, capture_output=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert len(made) == 8
    for name in made:
        read = gzip.decompress if name.endswith(".gz") else bytes  # another zlib may pack the same bytes otherwise
        assert read((tmp_path / name).read_bytes()) == read((DATA / name).read_bytes()), name


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file() and "__pycache__" not in path.parts) <= 4_000_000


def test_the_planted_structure(config):
    c = config(dumps=[DATA / "cs_s2_open_corpus.jsonl.gz", DATA / "medline_openalex_works.jsonl.gz"])
    build_corpus(c)
    papers, indptr, cited, _ = open_corpus(c)
    topics = pd.read_csv(DATA / "topics.csv.gz", dtype=str).set_index("paper_id")
    ids, years = papers["paper_id"].to_pandas(), papers["year"].to_numpy()
    citing = np.repeat(np.arange(len(ids)), np.diff(indptr))
    known = np.isfinite(years[citing]) & np.isfinite(years[cited])
    assert (years[citing][known] >= years[cited][known]).all(), "citations point back in time"
    subtopic = ids.map(topics["field"] + topics["topic"] + topics["subtopic"]).to_numpy()
    both = pd.notna(subtopic[citing]) & pd.notna(subtopic[cited])
    assert 0.65 < (subtopic[citing][both] == subtopic[cited][both]).mean() < 0.75
    cited_by = np.sort(np.bincount(cited, minlength=len(ids)))[::-1]
    assert 0.1 < cited_by[: len(ids) // 100].sum() / len(cited) < 0.2, "heavy tail: what the most cited 1 % hold"
