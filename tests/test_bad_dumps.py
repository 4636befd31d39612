"""Everything that can be wrong with a dump: one sentence that names the file, or a count by reason, and what is good stays."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.config import ROOT
from helpers.corpus import dumps, records, tables
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.records import Report
from helpers.errors import DumpError
from tests.test_corpus import edges_of, s2

RECORDS = [s2(f"paper{i}", [f"paper{j}" for j in range(i)]) for i in range(12)]
PLAIN = ("\n".join(RECORDS) + "\n").encode()


def rows_of(path: Path) -> list[dict]:
    """What is read of a file or an archive's files."""
    return [row for file in dumps.files_of((str(path),)) for batch in dumps.read(file, Report()) for row in batch.to_pylist()]


def refused(path: Path) -> str:
    """The sentence that refuses a file, which is one line and names it."""
    with pytest.raises(DumpError) as caught:
        rows_of(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.isprintable()
    return sentence


def test_a_gzip_cut_anywhere_is_refused(tmp_path):
    path, half = tmp_path / "s2.jsonl.gz", PLAIN.index(b"\n", len(PLAIN) // 2) + 1
    first, second = gzip.compress(PLAIN[:half]), gzip.compress(PLAIN[half:])  # each member ends with a record
    path.write_bytes(first + second)
    assert len(rows_of(path)) == len(RECORDS)
    for cut in range(1, len(first + second)):
        path.write_bytes((first + second)[:cut])
        if cut != len(first):  # there the file is whole: nothing says that more should follow
            assert ("cut off" if cut > 1 else "no citation dump of a known format") in refused(path)
    path.write_bytes(first + second[:-1])
    assert refused(path) == f"{path} is cut off in the middle, at byte {len(first + second) - 1:,}; download it again."


def test_a_gzip_cut_at_the_end_of_a_record_is_refused(tmp_path):
    path, packer = tmp_path / "s2.jsonl.gz", io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb") as file:
        file.write(PLAIN)
        file.flush()  # what is written so far can be read, and ends with a record
        whole = packer.tell()
    path.write_bytes(packer.getvalue()[:whole])
    assert "cut off in the middle" in refused(path)


@pytest.mark.parametrize("form", ["gz", "zip"])
def test_no_flipped_bit_of_an_archive_changes_what_is_read(tmp_path, form):
    path, packed = tmp_path / f"s2.jsonl.{form}", io.BytesIO()
    if form == "gz":
        packed.write(gzip.compress(PLAIN))
    else:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("s2.jsonl", PLAIN)
    path.write_bytes(packed.getvalue())
    truth, refusals = rows_of(path), 0
    for place in range(len(packed.getvalue())):
        damaged = bytearray(packed.getvalue())
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert rows_of(path) == truth
        except DumpError as error:
            assert str(path) in str(error) and str(error).isprintable()
            refusals += 1
    assert refusals > len(damaged) / 2


def test_damage_names_the_byte_before_which_it_lies(tmp_path):
    path = tmp_path / "s2.jsonl.gz"
    whole = bytearray(gzip.compress(os.urandom(3_000_000).hex().encode()))
    whole[2_500_000] ^= 1
    path.write_bytes(gzip.compress(PLAIN) + whole)
    sentence = refused(path)
    byte = int(sentence.partition("before byte ")[2].partition(" ")[0].replace(",", ""))
    assert 2_500_000 <= byte <= len(whole) + 5000 and "is damaged" in sentence


ARCHIVES = {
    "../edges.csv": "climbs out of the archive",
    "/edges.csv": "climbs out of the archive",
    "a/../../edges.csv": "climbs out of the archive",
    "..\\edges.csv": "climbs out of the archive",
    "new\nline/edges.csv": "climbs out of the archive",
    "notes.md": "holds no dump's files",
    "dump.parquet": "is a parquet file inside an archive; unpack it first",
}


@pytest.mark.parametrize("member", ARCHIVES)
def test_a_bad_member_of_an_archive(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        content = io.BytesIO()
        pq.write_table(pa.table({"citing": ["a"], "cited": ["b"]}), content)
        archive.writestr(member, content.getvalue() if member.endswith("parquet") else b"citing,cited\na,b\n")
    assert ARCHIVES[member] in refused(tmp_path / "dump.zip")
    assert not list(tmp_path.parent.glob("edges.csv"))


def test_an_encrypted_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        archive.writestr("edges.csv", b"citing,cited\na,b\n")
    content = bytearray((tmp_path / "dump.zip").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    (tmp_path / "dump.zip").write_bytes(content)
    assert "encrypted" in refused(tmp_path / "dump.zip")


@pytest.mark.parametrize("name", ["edges.csv", "s2.jsonl"])
def test_bad_utf8_costs_the_record_it_is_in(tmp_path, name):
    lines = [b"citing,cited", b"a,b", b"c,\xff", b"d,e", b"f,\xe2\x82", "ü,ö".encode(), b"g,h\xc3"]
    if name.endswith("jsonl"):
        lines = [b'{"id": "%s", "outCitations": ["%s"]}' % tuple(line.split(b",")) for line in lines[1:]]
    (tmp_path / name).write_bytes(b"\n".join(lines))
    report, file = Report(), dumps.DumpFile(tmp_path / name)
    found = [tuple(row.values()) for batch in dumps.read(file, report) for row in batch.to_pylist()]
    assert [row[0] for row in found] == ["a", "d", "ü"]
    kind = "citations" if name == "edges.csv" else "papers"
    assert report.dropped[kind] == {"malformed": 3} and report.read[kind] == 6
    assert report.first["malformed"] == f"{name}, {'row' if name == 'edges.csv' else 'line'} 2"


def test_nuls_around_an_id_are_no_part_of_it_and_a_line_of_them_is_malformed(config, tmp_path):
    (tmp_path / "edges.csv").write_bytes(b"citing,cited\na\0,b\n" + b"c,b \n" * 300 + b"\0" * 5000 + b"\nc,a\n")
    c = config(dumps=[tmp_path / "edges.csv"])
    report = build_corpus(c)
    assert edges_of(c) == {("a", "b"), ("c", "b"), ("c", "a")}
    assert report["citations"]["dropped"] == {"malformed": 1, "duplicate citation": 299}
    (tmp_path / "s2.jsonl").write_bytes(s2("a", ["b"]).encode() + b"\n" + b"\0" * 5000 + b"\n" + s2("b", [" a\0"]).encode())
    c = config(dumps=[tmp_path / "s2.jsonl"], max_bad_fraction=0.5)
    assert build_corpus(c)["papers"]["dropped"] == {"malformed": 1} and edges_of(c) == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("chunk", [64, 1000, 10_000])
def test_a_line_that_is_too_long_is_malformed_and_the_next_ones_are_read(tmp_path, monkeypatch, ending, chunk):
    monkeypatch.setattr(dumps, "CHUNK", chunk)
    monkeypatch.setattr(dumps, "MOST_LINE", 5000)
    long = b'{"id": "long", "title": "' + b"x" * 20_000 + b'"}'
    content = b"\n".join([*PLAIN.splitlines(), long, b"", *PLAIN.splitlines(), long])
    (tmp_path / f"s2.{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    report = Report()
    batches = list(dumps.read(dumps.DumpFile(tmp_path / f"s2.{ending}"), report))
    assert sum(batch.num_rows for batch in batches) == 2 * len(RECORDS)
    assert report.dropped["papers"] == {"malformed": 2} and report.first["malformed"] == f"s2.{ending}, line {len(RECORDS) + 1}"


def test_a_row_that_is_too_long_is_an_error_that_says_after_which(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 1000)
    (tmp_path / "papers.csv").write_text("id,title,year\n" + "1,a,1998\n" * 400 + '2,"' + "3,b,1999\n" * 400)
    sentence = refused(tmp_path / "papers.csv")
    assert "one of more than 1,000 bytes, perhaps for want of a closing quotation mark" in sentence
    assert 300 < int(sentence.partition("after row ")[2].partition(":")[0]) <= 400


LOST_MARKS = {
    "papers, to the end": (
        "id,title,year",
        "{},title,1998",
        '100,"title,1998',
        "401 of 501 records are malformed (first: x.csv, line 102)",
    ),
    "papers, to the next": (
        "id,title,year",
        "{},title,1998",
        '1,"t\n{}\n2",1998',
        "52 of 552 records are malformed (first: x.csv, row 101)",
    ),
    "citations, to the end": ("citing,cited", "{},5", '100,"5', "402 of 502 records are malformed (first: x.csv, row 101)"),
    "citations, in a column that is not read": (
        "citing,note,cited",
        "{},n,5",
        '1,"t\n{}\n2",5',
        "52 of 552 records are malformed (first: x.csv, row 101)",
    ),
    "citations, to the next": ("citing,cited", "{},5", '1,"5\n{}\n2"', "52 of 552 records are malformed (first: x.csv, row 101)"),
}


@pytest.mark.parametrize("kind", LOST_MARKS)
def test_lines_that_a_lost_quotation_mark_takes_along_are_counted(config, dump, kind):
    header, good, lost, sentence = LOST_MARKS[kind]
    rows, between = [good.format(i) for i in range(500)], "\n".join(good.format(i) for i in range(50))
    path = dump("x.csv", header, *rows[:100], lost.replace("{}", between), *rows[100:])
    with pytest.raises(DumpError) as caught:
        build_corpus(config(dumps=[path, dump("z.csv", "citing,cited", "1,2")]))
    assert sentence in str(caught.value)


def test_quotation_marks_in_their_place_are_no_harm(config, dump):
    papers = dump("papers.csv", '"id","title","year"', '"a","One,\ntwo, ""three""",1998', '"b","","1999"')
    c = config(dumps=[papers, dump("edges.csv", '"citing","cited"', '"a","b"', '"b","c d"')])
    assert build_corpus(c)["citations"]["dropped"] == {} and edges_of(c) == {("a", "b"), ("b", "c d")}
    assert open_corpus(c)[0]["title"].to_pylist() == [None, 'One, two, "three"', None]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["s2_open_corpus", "openalex"])
@given(data=st.data())
def test_any_json_in_any_field_harms_no_other_record(name, data):
    reader = next(reader for reader in dumps.JSON_FORMATS if reader.name == name)
    if name == "openalex":
        good = [{"id": f"https://openalex.org/W{i}", "title": "T", "referenced_works": ["https://openalex.org/W9"]} for i in (1, 2)]
    else:
        good = [{"id": f"W{i}", "title": "T", "outCitations": ["W9"]} for i in (1, 2)]
    field = data.draw(st.sampled_from(reader.Record.__struct_fields__))
    bad = {**good[0], "id": good[0]["id"].replace("1", "3"), field: data.draw(JSON)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.jsonl"
        path.write_text("\n".join(map(json.dumps, [good[0], bad, good[1]])), encoding="utf-8")
        report = Report()
        rows = [row for batch in dumps.read(dumps.DumpFile(path), report) for row in batch.to_pylist()]
    kept = {row["paper_id"]: row for row in rows}
    assert report.read["papers"] == 3 == len(rows) + report.dropped["papers"]["malformed"]
    for paper in ("W1", "W2"):
        assert (kept[paper]["title"], kept[paper]["references"]) == ("T", ["W9"])


@given(lists=st.lists(st.lists(st.text('ab0\\"[],\n é\ud800') | st.none() | st.integers() | JSON) | st.lists(st.text("0af")), min_size=1))
def test_of_lists_of_ids_the_strings_are_read(lists):
    read = records.array_of(lists, records.TEXTS).to_pylist()
    assert [records.texts(some) for some in read] == [records.texts(some) for some in lists]


@pytest.mark.parametrize("value", ['"abc"', '{"a": "b"}', "5", "null", "true", '["W2","\\u0057\\"3", 5, [null], {}, true, "é]"]'])
def test_the_strings_of_a_list_of_ids_are_read_and_what_is_no_list_has_none(tmp_path, value):
    s2_record, work = f'{{"id": "W1", "title": "T", "outCitations": {value}}}', f'{{"id": "W1", "title": "T", "referenced_works": {value}}}'
    for name, record in (("s2.jsonl", s2_record), ("works.jsonl", work)):
        (tmp_path / name).write_text(record + "\n", encoding="utf-8")
        assert [row["references"] for row in rows_of(tmp_path / name)] == [["W2", 'W"3', "é]"] if value[0] == "[" else []]


@pytest.mark.parametrize("fields", ['[null, "Biology"]', '["Biology", 5, {}]', '["Biology", ["Biology"]]', '["Biology", "\\u0000"]'])
def test_a_field_filter_reads_past_what_is_no_field(config, dump, fields):
    records = [f'{{"id": "{i}", "outCitations": ["9"], "fieldsOfStudy": {some}}}' for i, some in enumerate((fields, "5", "[null]", "null"))]
    report = build_corpus(config(dumps=[dump("s2.jsonl", *records)], field="biology"))
    assert report["papers"]["dropped"] == {"outside the subset": 3} and report["citations"]["kept"] == 1


@pytest.mark.parametrize("value", ["5", "-1", "1.5", "null", "[]", "{}", '""', '" "', '"\\u0000"', "1" * 5000, "true", "[" * 5000])
def test_a_record_whose_id_is_no_name_is_malformed(tmp_path, value):
    (tmp_path / "s2.jsonl").write_text(f'{RECORDS[1]}\n{{"id": {value}, "outCitations": []}}\n')
    report = Report()
    rows = [row for batch in dumps.read(dumps.DumpFile(tmp_path / "s2.jsonl"), report) for row in batch.to_pylist()]
    assert [row["paper_id"] for row in rows] == ["paper1"] and report.dropped["papers"] == {"malformed": 1}
    assert report.first["malformed"] == "s2.jsonl, line 2"


YEARS = {
    "1998": 1998, '"1998"': 1998, '" 1998 "': 1998, "1998.0": 1998, '"1998.0"': 1998, "20011": None, '"20011"': None, '"n.d."': None,
    "true": None, "[1998]": None, "{}": None, "-1998": None, "1998.5": None, "1e300": None, "9" * 4000: None, '"１９９８"': None, "0": None,
    '""': None, "null": None, "[" * 400 + "]" * 400: None, '"%s"' % ("9" * 100_000): None,
}  # fmt: skip


def test_years(tmp_path):
    (tmp_path / "s2.jsonl").write_text("\n".join(f'{{"id": "a", "outCitations": [], "year": {year}}}' for year in YEARS))
    report = Report()
    rows = [row for batch in dumps.read(dumps.DumpFile(tmp_path / "s2.jsonl"), report) for row in batch.to_pylist()]
    assert [row["year"] for row in rows] == list(YEARS.values())
    assert report.incomplete == {"no title": len(YEARS), "no year": 2, "impossible year": len(YEARS) - 5 - 2}


def test_ids_of_any_size_stay_apart_and_are_read_back(config, dump):
    ids = ["0", "7", "007", "-1", "1.5", "1e9", "2147483648", "4294967296", "9223372036854775808", "18446744073709551615",
           "18446744073709551616", "999999999999999", "1000000000000000", "W1", "w1", "W01", "W", "é", "٣", "x" * 5000]  # fmt: skip
    edges = {(citing, cited) for citing in ids for cited in ids if citing != cited}
    c = config(dumps=[dump("edges.csv", "citing,cited", *(",".join(edge) for edge in sorted(edges)))])
    build_corpus(c)
    assert edges_of(c) == edges


def test_ids_of_floating_point(config, tmp_path):
    table = {"citing": [1.0, float("nan"), 2.5, 2.0**53, None, 3.0], "cited": [2.0, 1.0, 1.0, 1.0, 1.0, -1.0]}
    pq.write_table(pa.table(table), tmp_path / "edges.parquet")
    c = config(dumps=[tmp_path / "edges.parquet"])
    assert build_corpus(c)["citations"]["dropped"] == {"no id": 4}
    assert edges_of(c) == {("1", "2"), ("3", "-1")}


def test_lists_in_parquet(config, tmp_path):
    table = {"id": ["a", "b"], "title": ["A", "B"], "fields": [["x", None], None], "references": pa.array([["b", None, "c"], []])}
    pq.write_table(pa.table(table), tmp_path / "papers.parquet")
    c = config(dumps=[tmp_path / "papers.parquet"])
    build_corpus(c)
    assert edges_of(c) == {("a", "b"), ("a", "c")} and open_corpus(c)[0]["fields"].to_pylist() == [["x"], [], None]
    c = config(dumps=[tmp_path / "papers.parquet"], field="x")
    build_corpus(c)
    assert edges_of(c) == {("a", "c")}


WRONG_TABLES = {
    ("citing,year", "a,1"): "expected the columns citing,cited",
    ("id,year", "a,1"): "expected the columns citing,cited",
    ("citing,cited,citing", "a,b,c"): "has more than one column 'citing'",
    ("x" * 200_000, "a"): "is no citation dump of a known format",
    ("\x1c", "a"): "is no citation dump of a known format",
    ("\ufeff", "a"): "none of the first 200 lines is a record of a known format",
    ("a\0,b\x01", "1,2"): "is no citation dump of a known format",
}


@pytest.mark.parametrize("lines", WRONG_TABLES, ids=range(len(WRONG_TABLES)))
def test_a_missing_column_or_a_wrong_header(dump, lines):
    assert WRONG_TABLES[lines] in refused(dump("table.csv", *lines))


@pytest.mark.parametrize("blank", ["\n", " \t\r\n", "\r\n"])
@pytest.mark.parametrize("at_the_start", [True, False])
def test_two_records_in_one_line_are_malformed_also_where_a_blank_line_makes_up_for_them(config, tmp_path, blank, at_the_start):
    glued, others = "".join(RECORDS[:2]) + "\n", "\n".join(RECORDS[2:]) + "\n"
    (tmp_path / "s2.jsonl").write_text(blank + glued + others if at_the_start else glued + blank + others)
    report = build_corpus(config(dumps=[str(tmp_path / "s2.jsonl")], max_bad_fraction=1))
    assert report["papers"]["dropped"] == {"malformed": 1} and report["papers"]["read"] == len(RECORDS) - 1


def test_an_id_of_control_characters_is_none(config, dump):
    papers = dump("papers.csv", "id,title,year", "\x01,nothing,1999", "a,A,1999")
    report = build_corpus(config(dumps=[papers, dump("edges.csv", "citing,cited", "a,b", "\x01,b")]))
    assert report["papers"]["dropped"] == {"no id": 1} and report["citations"]["dropped"] == {"no id": 1}


@pytest.mark.parametrize("header", ['"citing"\t"cited"', '"citing"\tCited \tyear', "Citing\tcited"])
def test_a_tsv_whose_header_is_quoted(config, dump, header):
    c = config(dumps=[dump("edges.tsv", header, *("\t".join(("a", "b", "1999")[: header.count("\t") + 1]) for _ in range(2)))])
    assert build_corpus(c)["citations"]["read"] == 2 and edges_of(c) == {("a", "b")}


def test_a_byte_order_mark_before_json(config, tmp_path):
    for name, content in (("s2.jsonl", PLAIN), ("s2.jsonl.gz", None)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + PLAIN if content else gzip.compress(b"\xef\xbb\xbf" + PLAIN))
        assert len(rows_of(tmp_path / name)) == len(RECORDS)


def test_damaged_parquet_is_told_in_one_line(tmp_path):
    pq.write_table(pa.table({"citing": ["a"] * 100, "cited": ["b"] * 100}), tmp_path / "edges.parquet")
    whole = (tmp_path / "edges.parquet").read_bytes()
    for cut in range(5, len(whole), 7):
        (tmp_path / "edges.parquet").write_bytes(whole[:cut])
        refused(tmp_path / "edges.parquet")


def test_files_that_are_none(tmp_path):
    (tmp_path / "s2.jsonl.gz").mkdir()
    assert "holds no dump's files" in refused(tmp_path / "s2.jsonl.gz")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "or is no file" in refused(tmp_path / "pipe.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")
    assert "does not exist" in refused(tmp_path / "link.csv")
    assert "too long" in refused(tmp_path / ("x" * 300))
    shutil.move(tmp_path / "link.csv", tmp_path / "s2.jsonl.gz" / "link.csv")
    with pytest.raises(DumpError, match=r"link.csv cannot be read: No such file"):  # a shard that is missing is not passed over
        rows_of(tmp_path / "s2.jsonl.gz")


def test_no_permission(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can take another user's place and come back")
    edges = tmp_path / "dump" / "edges.csv"
    edges.parent.mkdir()
    edges.write_text("citing,cited\na,b\n")
    assert len(rows_of(edges)) == 1
    parents = [folder for folder in edges.parents if not folder.stat().st_mode & 0o001]  # pytest's are root's alone
    modes = {path: path.stat().st_mode for path in {edges, edges.parent, *parents}}
    try:
        for closed in (edges, edges.parent):
            for path in modes:
                path.chmod(0o755 if path != closed else 0)
            os.seteuid(65534)
            try:
                with pytest.raises(DumpError, match=r"dump.* cannot be read: Permission denied; check the path and its permissions"):
                    rows_of(edges.parent)
            finally:
                os.seteuid(0)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_shards_of_two_formats_are_read_each_as_what_it_is(config, dump):
    works = json.dumps({"id": "https://openalex.org/W1", "title": "T", "referenced_works": ["https://openalex.org/W2"]})
    files = [dump("part_000.jsonl", s2("a", ["b"])), dump("works.jsonl", works), dump("part_010.jsonl", s2("c", ["b"]))]
    assert build_corpus(config(dumps=files))["citations"]["kept"] == 3
    files.append(dump("part_011.jsonl", works))
    report = build_corpus(config(dumps=files))
    assert report["citations"]["kept"] == 3 and report["papers"]["dropped"] == {"duplicate id": 1}


def test_two_releases_of_one_dump_are_one_corpus_in_which_the_later_file_wins(config, dump):
    old = dump("release_2018.jsonl", s2("a", ["x"]), s2("b", ["a"]))
    new = dump("release_2019.jsonl", s2("a", ["b"]), s2("c", ["a"]))
    c = config(dumps=[old, new])
    report = build_corpus(c)
    assert edges_of(c) == {("b", "a"), ("a", "b"), ("c", "a")}
    assert report["papers"]["dropped"] == {"duplicate id": 1}
    assert report["citations"]["dropped"] == {"listed by an earlier record of a duplicate id": 1}


def test_a_file_name_of_odd_bytes(config, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xffedges.csv")
    Path(path).write_text("citing,cited\n" + "a,b\n" * 200 + "a\n")
    c = config(dumps=[path])
    build_corpus(c)
    report = open_corpus(c)[3]
    assert report["config"]["dumps"] == [path] and report["first_of_each"]["malformed"].endswith("edges.csv, line 202")


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from helpers.config import Config
from helpers.corpus.build import build_corpus
from helpers.errors import ArtefactError
disk, dump = Path(sys.argv[1]), sys.argv[2]
out, told = disk / "run", []
for size in range(16, 4000, 48):  # KiB; each step ends somewhere else
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
    try:
        build_corpus(Config.of_preset("cs", subset="all", out=str(out), dumps=[dump]))
        break
    except ArtefactError as error:
        told.append(str(error))
        assert "was not written: the disk is full; free space or choose another --out." in told[-1], told[-1]
        left = [path for path in out.rglob("*") if path.name != "shards" and path.parent.name != "shards"]
        assert all((path.parent / "report.json").exists() for path in left), left
assert sorted(path.name for path in out.iterdir()) == ["corpus"]
print("at the", *sorted({Path(sentence.partition(" was")[0]).parent.name for sentence in told}))
"""


def test_a_full_disk(tmp_path, dump):
    command = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        'mount -t tmpfs -o size=16k tmpfs "$1" && exec "$2" -c "$3" "$1" "$4"',
        "-",
        str(tmp_path / "disk"),
    ]
    (tmp_path / "disk").mkdir()
    path = dump("edges.csv", "citing,cited", *(f"p{i},p{i * 7 % 5000}" for i in range(20_000)))
    if not shutil.which("unshare") or subprocess.run([*command, "true", "", ""], capture_output=True, check=False).returncode:
        pytest.skip("this system gives a test no small disk of its own (unshare, tmpfs)")
    done = subprocess.run([*command, sys.executable, FULL_DISK, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "at the run shards"  # some stopped at the shard, some at the corpus
