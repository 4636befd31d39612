"""Lines of JSON -> batches: by what a record of each format is known, what of it is kept, and how lines are read."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa

from helpers.corpus import records
from helpers.corpus.records import CITATIONS, OTHER_IDS, PAPERS, Report, batch_of, text, texts

BAD_LINE = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, AttributeError)
BLANK = b" \t\r\n,[]"  # what stands between the records of a JSON array, one a line
OPENALEX_CS, OPENALEX = "17", "https://openalex.org/"
JSON_FORMATS = []


def _format(recognises: Callable[[dict], bool], fields: str, schema: pa.Schema = PAPERS) -> Callable:
    # recognises: whether a file with such a record is of this format; fields: those that are wanted; row: the values of the schema, as
    # they come
    def add(row: Callable[[msgspec.Struct], tuple]) -> None:
        record = msgspec.defstruct("Record", [(field, Any, None) for field in fields.split()], gc=False)
        name = row.__name__.strip("_")
        JSON_FORMATS.append(SimpleNamespace(name=name, SCHEMA=schema, Record=record, recognises=recognises, row=row))

    return add


def _identifier(value) -> str | None:
    # an id, which some dumps write as a string and some as a number; None for anything else or empty
    return str(value) if type(value) is int else text(value)


def _mapping(value) -> dict:
    # an object field; {} where it is missing or of another type
    return value if isinstance(value, dict) else {}


def _named(value, key: str) -> list[str]:
    # what the objects of a list field have under `key`, each text once; [] where the field is missing or of another type
    return list(dict.fromkeys(texts([_mapping(entry).get(key) for entry in value]))) if isinstance(value, list) else []


# Semantic Scholar Open Research Corpus (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)
@_format(
    lambda record: "outCitations" in record or "inCitations" in record,
    "id title year venue journalName fieldsOfStudy sources doi pmid outCitations inCitations",
)
def _s2_open_corpus(record) -> tuple:
    fields, sources, doi, pmid = record.fieldsOfStudy, record.sources, record.doi or None, record.pmid or None
    fields, sources = fields if type(fields) is list else (), sources if type(sources) is list else ()
    is_cs, is_medline = "Computer Science" in fields if fields else "DBLP" in sources, "Medline" in sources or pmid is not None
    venue = record.venue or record.journalName
    cites, cited_by = record.outCitations, record.inCitations
    cites, cited_by = cites if type(cites) is list else (), cited_by if type(cited_by) is list else ()  # of a text Arrow makes letters
    return record.id, record.title, record.year, venue, fields, doi, pmid, is_cs, is_medline, cites, cited_by


def _short(url) -> str | None:
    # `W123` from `https://openalex.org/W123`
    return url.rpartition("/")[2] if type(url) is str else None


# OpenAlex works (checked against records of the 2023 snapshot schema and the documented 2025 one)
@_format(
    lambda record: "referenced_works" in record or str(record.get("id", "")).startswith(OPENALEX + "W"),
    "id title display_name publication_year doi ids primary_topic concepts primary_location host_venue referenced_works",
)
def _openalex(record) -> tuple:
    topic_field = _mapping(_mapping(record.primary_topic).get("field"))
    concepts = record.concepts if isinstance(record.concepts, list) else []
    fields = _named([topic_field, *(concept for concept in concepts if _mapping(concept).get("level") == 0)], "display_name")
    venue = _mapping(_mapping(record.primary_location).get("source")) or _mapping(record.host_venue)
    references = record.referenced_works if type(record.referenced_works) is list else ()
    references = [work.rpartition("/")[2] for work in references if type(work) is str]
    title, ids = record.title or record.display_name, _mapping(record.ids)
    doi, pmid = record.doi or ids.get("doi"), text(ids.get("pmid"))
    is_cs = _short(str(topic_field.get("id", ""))) == OPENALEX_CS or "Computer science" in fields
    paper_id, venue = _short(record.id), venue.get("display_name")
    return paper_id, title, record.publication_year, venue, fields, doi, pmid, is_cs, pmid is not None, references, ()


# Semantic Scholar Academic Graph (checked against records of the 2022 release). The papers name no citations and the citations have no
# titles: a dump needs both. The paper-ids tell which of the older ids (`sha`, 40 hexadecimal digits, as in the Open Research Corpus),
# `primary` or not, are whose: with them, dumps of both kinds make one corpus.
@_format({"corpusid", "title"}.issubset, "corpusid title year venue journal externalids s2fieldsofstudy")
def _s2_papers(record) -> tuple:
    fields, others = _named(record.s2fieldsofstudy, "category"), _mapping(record.externalids)
    is_cs = "Computer Science" in fields or _identifier(others.get("DBLP")) is not None
    paper_id, doi, pmid = _identifier(record.corpusid), others.get("DOI"), _identifier(others.get("PubMed"))
    venue = text(record.venue) or text(_mapping(record.journal).get("name"))
    return paper_id, text(record.title), record.year, venue, fields, doi, pmid, is_cs, pmid is not None, (), ()


@_format({"citingcorpusid", "citedcorpusid"}.issubset, "citingcorpusid citedcorpusid", schema=CITATIONS)
def _s2_citations(record) -> tuple:
    return _identifier(record.citingcorpusid), _identifier(record.citedcorpusid)  # either may be null: it is counted as without an id


@_format({"sha", "corpusid"}.issubset, "sha corpusid", schema=OTHER_IDS)
def _s2_paper_ids(record) -> tuple:
    return _identifier(record.sha), _identifier(record.corpusid)


# AMiner's DBLP citation network, v10 to v12 and v14 (checked against records of v10 and the described forms of v12 and v14): v10 and v11
# are JSON lines, v12 and v14 one JSON array with an object a line. All of it is computer science.
@_format({"id", "n_citation"}.issubset, "id title year venue fos doi references")
def _aminer(record) -> tuple:
    place = _mapping(record.venue)
    venue = text(record.venue) or text(place.get("raw")) or text(place.get("name_d"))
    references = [_identifier(reference) for reference in record.references] if isinstance(record.references, list) else ()
    paper_id, title, fields = _identifier(record.id), text(record.title), _named(record.fos, "name")
    return paper_id, title, record.year, venue, fields, record.doi, None, True, False, references, ()


def json_batches(lines: Iterator[bytes], file, reader: SimpleNamespace, report: Report) -> Iterator[pa.RecordBatch]:
    """Batches of reader.SCHEMA from lines of JSON."""
    decode, schema, rows, numbers = msgspec.json.Decoder(reader.Record).decode, reader.SCHEMA, [], []

    def batch() -> pa.RecordBatch:
        columns, no_id = list(zip(*rows, strict=True)) or [()] * len(schema), "no id" if schema is CITATIONS else "malformed"
        return batch_of(columns, schema, report, lambda i: f"{file.name}, line {numbers[i]}", no_id)

    for number, line in enumerate(lines, 1):
        try:
            if line := line.strip(BLANK):  # the records of a JSON array have commas around them
                rows.append(reader.row(decode(line)))
                numbers.append(number)
        except BAD_LINE:
            report.drop(schema, "malformed", f"{file.name}, line {number}")
        if len(rows) == records.BATCH_RECORDS:
            yield batch()
            rows, numbers = [], []
    yield batch()
