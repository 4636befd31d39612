"""The formats of JSON lines: by what a record of each is known, and what of it is kept."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from helpers.corpus.records import CITATIONS, OTHER_IDS, PAPERS, identifier, mapping, named, text, texts

NO_IDS = msgspec.Raw(b"[]")
OPENALEX_CS, OPENALEX = "17", "https://openalex.org/"
AMINER_UNREAD = re.compile(rb"NumberInt\(\d|^#(\*|index)", re.MULTILINE)  # what v13, and the text releases, are known by
AMINER_READ = "is a release of AMiner's DBLP that is not read (v13 is no valid JSON, those up to v8 are text); get v10, v11, v12 or v14."


class JsonFormat(NamedTuple):
    """A reader of JSON lines."""

    name: str
    SCHEMA: pa.Schema
    Record: type[msgspec.Struct]  # the fields that are wanted; lists of ids stay JSON (msgspec.Raw)
    recognises: Callable[[dict], bool]  # whether a file with such a record is of this format
    row: Callable[[msgspec.Struct], tuple]  # the values of SCHEMA, as they come, lists of ids perhaps as JSON; ValueError: no id


JSON_FORMATS = []


def _format(recognises: Callable[[dict], bool], fields: str, id_lists: str = "", schema: pa.Schema = PAPERS) -> Callable:
    def add(row: Callable) -> None:
        kinds = [(field, Any, None) for field in fields.split()] + [(field, msgspec.Raw, NO_IDS) for field in id_lists.split()]
        Record = msgspec.defstruct("Record", kinds, gc=False)
        JSON_FORMATS.append(JsonFormat(row.__name__.strip("_"), schema, Record, recognises, row))

    return add


def _needed(paper_id: str | None) -> str:
    if not paper_id:
        raise ValueError("no id")
    return paper_id


# Semantic Scholar Open Research Corpus (checked against records of the 2018 release; `fieldsOfStudy` came in 2019)
@_format(
    lambda record: "outCitations" in record or "inCitations" in record,
    "id title year venue journalName fieldsOfStudy sources pmid",
    id_lists="outCitations inCitations",
)
def _s2_open_corpus(record) -> tuple:
    fields, sources = record.fieldsOfStudy, record.sources
    fields, sources = fields if type(fields) is list else (), sources if type(sources) is list else ()
    is_cs, is_medline = "Computer Science" in fields if fields else "DBLP" in sources, "Medline" in sources or bool(record.pmid)
    paper_id, venue = _needed(type(record.id) is str and record.id), record.venue or record.journalName
    return paper_id, record.title, record.year, venue, fields, is_cs, is_medline, record.outCitations, record.inCitations


def _short(url) -> str | None:
    # `W123` from `https://openalex.org/W123`
    return text(url).rsplit("/", 1)[-1] if text(url) else None


# OpenAlex works (checked against records of the 2023 snapshot schema and the documented 2025 one)
@_format(
    lambda record: "referenced_works" in record or str(record.get("id", "")).startswith(OPENALEX + "W"),
    "id title display_name publication_year ids primary_topic concepts primary_location host_venue",
    id_lists="referenced_works",
)
def _openalex(record) -> tuple:
    topic_field = mapping(mapping(record.primary_topic).get("field"))
    concepts = record.concepts if isinstance(record.concepts, list) else []
    fields = named([topic_field, *(concept for concept in concepts if mapping(concept).get("level") == 0)], "display_name")
    venue = mapping(mapping(record.primary_location).get("source")) or mapping(record.host_venue)
    references = bytes(record.referenced_works).replace(b'"' + OPENALEX.encode(), b'"')
    if b"/" in references or b"\\" in references:  # other addresses
        references = msgspec.json.encode([_short(work) for work in texts(msgspec.json.decode(references))])
    title, is_medline = text(record.title) or text(record.display_name), text(mapping(record.ids).get("pmid")) is not None
    is_cs = _short(str(topic_field.get("id", ""))) == OPENALEX_CS or "Computer science" in fields
    paper_id, venue = _needed(_short(record.id)), text(venue.get("display_name"))
    return paper_id, title, record.publication_year, venue, fields, is_cs, is_medline, msgspec.Raw(references), NO_IDS


# Semantic Scholar Academic Graph (checked against records of the 2022 release). The papers name no citations and the citations have no
# titles: a dump needs both. The paper-ids tell which of the older ids (`sha`, 40 hexadecimal digits, as in the Open Research Corpus),
# `primary` or not, are whose: with them, dumps of both kinds make one corpus.
@_format({"corpusid", "title"}.issubset, "corpusid title year venue journal externalids s2fieldsofstudy")
def _s2_papers(record) -> tuple:
    fields, others = named(record.s2fieldsofstudy, "category"), mapping(record.externalids)
    is_cs = "Computer Science" in fields or identifier(others.get("DBLP")) is not None
    paper_id, is_medline = _needed(identifier(record.corpusid)), identifier(others.get("PubMed")) is not None
    venue = text(record.venue) or text(mapping(record.journal).get("name"))
    return paper_id, text(record.title), record.year, venue, fields, is_cs, is_medline, (), ()


@_format({"citingcorpusid", "citedcorpusid"}.issubset, "citingcorpusid citedcorpusid", schema=CITATIONS)
def _s2_citations(record) -> tuple:
    return identifier(record.citingcorpusid), identifier(record.citedcorpusid)  # either may be null: it is counted as without an id


@_format({"sha", "corpusid"}.issubset, "sha corpusid", schema=OTHER_IDS)
def _s2_paper_ids(record) -> tuple:
    return _needed(identifier(record.sha)), _needed(identifier(record.corpusid))


# AMiner's DBLP citation network, v10 to v12 and v14 (checked against records of v10 and the described forms of v12 and v14): v10 and v11
# are JSON lines, v12 and v14 one JSON array with an object a line. All of it is computer science.
@_format({"id", "n_citation"}.issubset, "id title year venue fos references")
def _aminer(record) -> tuple:
    place = mapping(record.venue)
    venue = text(record.venue) or text(place.get("raw")) or text(place.get("name_d"))
    references = [identifier(reference) for reference in record.references] if isinstance(record.references, list) else ()
    return _needed(identifier(record.id)), text(record.title), record.year, venue, named(record.fos, "name"), True, False, references, ()
