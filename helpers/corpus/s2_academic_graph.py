"""Semantic Scholar Academic Graph, JSON lines (checked against records of the 2022 release): `papers`, `citations`, `paper-ids`.

The papers name no citations and the citations have no titles: a dump needs both. The paper-ids tell which of the older ids (`sha`, 40
hexadecimal digits, as in the Open Research Corpus) are whose: with them, dumps of both kinds make one corpus.
"""

from helpers.corpus.json_lines import JsonFormat, wanted
from helpers.corpus.records import CITATIONS, OTHER_IDS, PAPERS, identifier, mapping, named, text

Paper = wanted("corpusid title year venue journal externalids s2fieldsofstudy")
Citation = wanted("citingcorpusid citedcorpusid")  # either end may be null: it is then counted as without an id
PaperId = wanted("sha corpusid")  # one pair of ids, whether the sha is `primary` (of several) or not


def _paper(record) -> tuple:
    paper_id = identifier(record.corpusid)
    if paper_id is None:
        raise ValueError("no id")
    fields, others = named(record.s2fieldsofstudy, "category"), mapping(record.externalids)
    is_cs = "Computer Science" in fields or identifier(others.get("DBLP")) is not None
    venue = text(record.venue) or text(mapping(record.journal).get("name"))
    return paper_id, text(record.title), record.year, venue, fields, is_cs, identifier(others.get("PubMed")) is not None, (), ()


def _citation(record) -> tuple:
    return identifier(record.citingcorpusid), identifier(record.citedcorpusid)


def _paper_id(record) -> tuple:
    ids = identifier(record.sha), identifier(record.corpusid)
    if None in ids:
        raise ValueError("an id is missing")
    return ids


FORMATS = (
    JsonFormat(PAPERS, Paper, {"corpusid", "title"}.issubset, _paper),
    JsonFormat(CITATIONS, Citation, {"citingcorpusid", "citedcorpusid"}.issubset, _citation),
    JsonFormat(OTHER_IDS, PaperId, {"sha", "corpusid"}.issubset, _paper_id),
)
