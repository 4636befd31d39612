"""Semantic Scholar Open Research Corpus, JSON lines (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)."""

from typing import Any

import msgspec

from helpers.corpus.json_lines import NO_IDS
from helpers.corpus.records import PAPERS

SCHEMA = PAPERS


class Record(msgspec.Struct, gc=False):
    """The fields wanted of a line; all others are passed over."""

    id: Any = None
    title: Any = None
    year: Any = None
    venue: Any = None
    journalName: Any = None
    fieldsOfStudy: Any = None
    sources: Any = None
    pmid: Any = None
    outCitations: msgspec.Raw = NO_IDS
    inCitations: msgspec.Raw = NO_IDS


def recognises(record: dict) -> bool:
    """Whether a file's first record is of this format."""
    return "outCitations" in record or "inCitations" in record


def row(record: Record) -> tuple:
    """The values of PAPERS; raises ValueError where there is no id."""
    paper_id, fields, sources = record.id, record.fieldsOfStudy, record.sources
    if type(paper_id) is not str or not paper_id:
        raise ValueError("no id")
    if type(fields) is not list:
        fields = ()
    if type(sources) is not list:
        sources = ()
    return (
        paper_id,
        record.title,
        record.year,
        record.venue or record.journalName,
        fields,
        "Computer Science" in fields if fields else "DBLP" in sources,
        "Medline" in sources or bool(record.pmid),
        record.outCitations,
        record.inCitations,
    )
