"""Getting a dump from a real local server that drops, lies, changes and refuses; Drive and Colab through stand-ins."""

import base64
import contextlib
import dataclasses
import gzip
import hashlib
import http.server
import inspect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from helpers.config import REMOTE, ROOT
from helpers.corpus import download
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.download import Shard, shards_of
from helpers.errors import DumpError

CONTENT = np.random.default_rng(3).bytes(3_000_000)
SECRET, KEY = "c2lnbmVk", "k3y"  # of a signed address, and of the API: never in a message, a file or a command line
MD5, TUESDAY = hashlib.md5(CONTENT).hexdigest(), "Tue, 07 Jan 2025 10:00:00 GMT"
RIGHT, WRONG = (base64.b64encode(digest).decode() for digest in (bytes.fromhex(MD5), bytes(16)))


@dataclasses.dataclass
class Page:
    """What the server gives at a path, and how."""

    content: bytes = CONTENT
    headers: dict = dataclasses.field(default_factory=lambda: {"ETag": '"one"'})
    status: int = 200
    ranges: bool = True  # knows Range
    if_range: bool = True  # and compares If-Range
    length: int | None = None  # what Content-Length says, where that is a lie
    chunked: bool = False


class Site:
    """A server's pages by path, what it was asked, and what goes wrong next."""

    def __init__(self):
        self.pages, self.asked, self.sent, self.server = {}, [], [], "test"
        self.first: list[Page] = []  # answered before any page, one a request
        self.drops: list[int] = []  # bytes after which the connection breaks, one a request
        self.pauses: list[int] = []  # bytes after which the server waits for go_on, one a request
        self.go_on = threading.Event()

    def url(self, path: str = "/papers.jsonl.gz") -> str:
        return f"{self.address}{path}?Signature={SECRET}"

    def shard(self, page: Page | None = None, path: str = "/papers.jsonl.gz", fragment: str = "") -> Shard:
        self.pages[path] = page or Page()
        return shards_of(self.url(path) + fragment)[0]

    def ranges(self) -> list:
        return [headers.get("Range") for _, headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def version_string(self):
        return self.server.site.server

    def do_GET(self):
        site = self.server.site
        site.asked.append((self.path, dict(self.headers)))
        page = site.first.pop(0) if site.first else site.pages.get(self.path.partition("?")[0], Page(b"", {}, 404))
        status, content, headers = page.status, page.content, dict(page.headers)
        asked, whole = self.headers.get("Range"), len(content)
        same = self.headers.get("If-Range") in (headers.get("ETag"), headers.get("Last-Modified")) or not page.if_range
        if status == 200 and asked and page.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            status, content = (206, content[start:]) if start < whole else (416, b"")
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        self.send_response(status)
        headers |= {"Transfer-Encoding": "chunked"} if page.chunked else {"Content-Length": str(page.length or len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        end, pause = (values.pop(0) if values else len(content) for values in (site.drops, site.pauses))
        with contextlib.suppress(OSError):  # whoever asked is gone
            self.wfile.write(b"%x\r\n" % len(content) * page.chunked + content[: min(pause, end)])
            if pause < len(content):
                site.go_on.wait(20)
            self.wfile.write(content[pause:end] + b"\r\n0\r\n\r\n" * (page.chunked and end == len(content)))
        site.sent.append(len(content[:end]))
        self.close_connection = True


@pytest.fixture
def site(monkeypatch):
    """A real server in a thread."""
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site, site.address = site, f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list:
    """The pauses between tries, noted instead of slept."""
    waits = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


def get(shard: Shard, folder: Path, on_bytes=lambda count: None) -> None:
    """Download, and see that the file is whole and nothing of a part is left."""
    path = download.download(shard, folder, on_bytes)
    assert path == folder / shard.name and path.read_bytes() == CONTENT and not list(folder.glob("*.part*"))


def refused(shard: Shard, folder: Path, sentence: str) -> None:
    """See that there is one sentence and no file, and that the address's secret is nowhere."""
    with pytest.raises(DumpError, match=sentence) as caught:
        download.download(shard, folder)
    assert "\n" not in str(caught.value) and caught.value.__suppress_context__ | (caught.value.__context__ is None)
    assert SECRET not in f"{caught.value}{shard!r}{shard}" and not (folder / shard.name).exists()
    assert not any(SECRET.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_file(site, tmp_path):
    shard, came = site.shard(), []
    for _ in range(2):
        get(shard, tmp_path / "new" / "folder", came.append)
    assert sum(came) == len(CONTENT) and len(came) > 1 and len(site.asked) == 1, "a finished file is not asked for again"
    get(site.shard(Page(chunked=True)), tmp_path / "of unknown length")
    assert download.download(site.shard(Page(b"")), tmp_path / "empty").read_bytes() == b""


WEAK = {"ETag": 'W/"one"', "Last-Modified": TUESDAY}


@pytest.mark.parametrize("headers, tag", [({"ETag": '"one"'}, '"one"'), ({"Last-Modified": TUESDAY}, TUESDAY), (WEAK, TUESDAY)])
def test_a_dropped_connection_goes_on_where_it_stopped(site, tmp_path, waits, headers, tag):
    site.drops, came = [1_200_000, 700_000, *[100_000] * 9], []  # more than the tries: they bring something
    get(site.shard(Page(headers=headers)), tmp_path, came.append)
    assert site.ranges()[:3] == [None, "bytes=1200000-", "bytes=1900000-"] and site.asked[1][1]["If-Range"] == tag
    assert sum(came) == sum(site.sent) == len(CONTENT) and not any(waits)


@pytest.mark.parametrize("page", [Page(ranges=False), Page(headers={}), Page(chunked=True)], ids=["no ranges", "no tag", "chunked"])
def test_what_starts_anew_or_goes_on_without_a_size(site, tmp_path, page):
    site.drops = [1_000_000]
    get(site.shard(page), tmp_path)
    assert site.sent == [1_000_000, 2_000_000 if page.chunked else len(CONTENT)]


def test_a_server_that_always_breaks_off_is_given_up(site, tmp_path, waits):
    site.drops, shard = [500_000] * 99, site.shard(Page(ranges=False))
    refused(shard, tmp_path, r"papers.jsonl.gz did not come \(HTTP 200; curl: \(18\) .* 2500000 bytes remaining .*\): check address")
    assert len(site.asked) == download.TRIES + 1 and waits == [0, 0, 1, 3, 7, 15, 31]
    site.drops = []
    get(shard, tmp_path)


def test_kill_9_in_mid_download(site, tmp_path):
    shard, site.pauses = site.shard(), [2_000_000]
    part = tmp_path / f"{shard.name}.part"
    code = "import sys, pathlib; from helpers.corpus.download import *; download(shards_of(sys.argv[1])[0], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, site.url(), str(tmp_path)], cwd=ROOT)
    until = time.time() + 20
    while not (part.exists() and part.stat().st_size > 1_900_000) and time.time() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    site.go_on.set()
    while not site.sent and time.time() < until:
        time.sleep(0.01)
    have = part.stat().st_size
    assert 1_900_000 < have <= 2_000_000, "nobody goes on writing, though the server went on sending"
    assert SECRET not in Path(f"{part}.json").read_text()
    get(shard, tmp_path)
    assert site.ranges() == [None, f"bytes={have}-"] and site.sent[1] == len(CONTENT) - have, "the first part was not sent again"


def test_killed_between_the_last_byte_and_the_new_name(site, tmp_path, monkeypatch):
    shard = site.shard()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        download.download(shard, tmp_path)
    get(shard, tmp_path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("tag", ["ETag", "Last-Modified"])
def test_a_file_that_changed_meanwhile_is_not_spliced(site, tmp_path, tag):
    site.drops, site.first = [50], [Page(CONTENT[::-1], {tag: '"one"'}), Page(b"", {}, 404)]
    shard = site.shard(Page(headers={tag: '"two"'}))
    refused(shard, tmp_path, "HTTP 404")
    get(shard, tmp_path)
    assert site.ranges()[2:] == ["bytes=50-"]


def test_a_file_that_shrank_and_a_note_that_a_kill_left_empty(site, tmp_path):
    site.drops, site.first = [4_000_000], [Page(CONTENT + CONTENT), Page(b"", {}, 404)]
    shard = site.shard(Page(if_range=False))
    refused(shard, tmp_path, "HTTP 404")
    get(shard, tmp_path)
    assert site.ranges()[2:] == ["bytes=4000000-", None], "416, then from the start"
    (tmp_path / shard.name).rename(tmp_path / f"{shard.name}.part")
    (tmp_path / f"{shard.name}.part.json").write_text("")
    get(shard, tmp_path)
    assert site.ranges()[4:] == [None]


@pytest.mark.parametrize(
    "right, wrong",
    [
        (f"#sha256={hashlib.sha256(CONTENT).hexdigest().upper()}", f"#sha256={'0' * 64}"), (f"#md5={MD5}", f"#md5={'0' * 32}"),
        ({"Content-MD5": RIGHT}, {"Content-MD5": WRONG}), ({"x-goog-hash": f"crc32c=AAAAA==,md5={RIGHT}"}, {"x-goog-hash": f"md5={WRONG}"}),
        ({"ETag": f'"{MD5}"'}, {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "AES256"}),
    ],
    ids=["sha256", "md5", "Content-MD5", "Google", "Amazon"],
)  # fmt: skip
def test_checksums(site, tmp_path, right, wrong):
    site.server = "AmazonS3"
    for published, good in ((right, True), (wrong, False)):
        site.asked, site.drops = [], [1_000_000]  # the checksum is known from the first answer, the end comes with the second
        fragment, headers = (published, {}) if isinstance(published, str) else ("", published)
        shard = site.shard(Page(headers={"ETag": '"one"', **headers}), f"/{good}", fragment)
        assert shard.checksum == fragment[1:].replace("=", ":").lower()
        get(shard, tmp_path) if good else refused(shard, tmp_path, r"is damaged \(not (md5|sha256) 0+\) and was deleted")
        assert len(site.asked) == 2 and not list(tmp_path.glob("*.part"))


NO_CHECKSUMS = [
    ("nginx", {"ETag": f'"{"0" * 32}"'}), ("AmazonS3", {"ETag": f'"{"0" * 32}-2"'}),  # sent in parts
    ("AmazonS3", {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"}), ("any", {"Content-MD5": "not one"}),
    ("Google", {"x-goog-hash": f"md5={WRONG}", "x-goog-stored-content-encoding": "gzip"}),  # unpacked on the way
]  # fmt: skip


def test_what_looks_like_a_checksum_but_is_none(site, tmp_path):
    for i, (site.server, headers) in enumerate(NO_CHECKSUMS):
        get(site.shard(Page(headers=headers), f"/{i}"), tmp_path)
    get(site.shard(Page(headers={"Content-MD5": WRONG}), fragment=f"#md5={MD5}"), tmp_path)  # the entry's goes before


def test_refusals(site, tmp_path):
    for status, code in ((401, 22), (403, 22), (404, 22), (410, 22), (304, "")):
        site.asked = []
        refused(site.shard(Page(b"", {}, status)), tmp_path, rf"papers.jsonl.gz did not come \(HTTP {status}; .*{code}.*\): check address")
        assert len(site.asked) == 1
    for content in (b"\xef\xbb\xbf\n <!DOCTYPE html><title>Quota exceeded</title>", b"<html><body>Sorry"):
        refused(site.shard(Page(content)), tmp_path, "is a web page and was deleted")
        assert not list(tmp_path.glob("*.part"))


def test_trouble_that_passes_and_trouble_that_stays(site, tmp_path, waits, monkeypatch):
    site.first = [Page(b"", {}, status) for status in (500, 503, 429, 202)]
    get(site.shard(), tmp_path)
    assert waits == [0, 0, 1, 3, 7]
    refused(site.shard(Page(length=len(CONTENT) + 1), "/short"), tmp_path, r"\(18\) .* 1 bytes remaining")
    refused(site.shard(Page(b"", {"Location": site.url("/loop")}, 302), "/loop"), tmp_path, r"did not come \(HTTP 302; curl: ")
    refused(shards_of(f"http://127.0.0.1:1/a.gz?{SECRET}")[0], tmp_path, r"a.gz did not come \(HTTP 0; curl: \(7\) Failed [^/]*\)")


def test_a_redirect_and_a_server_that_falls_silent(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CURL", [option.replace("60", "1") for option in download.CURL])
    shard = site.shard(Page(b"<html>HTTP/1.1 200 OK", {"Location": f"/store/1?Signature={SECRET}"}, 302))
    site.pages["/store/1"], site.drops, site.pauses = Page(), [0, 5000], [3_000_000] * 4 + [0]
    get(shard, tmp_path)
    assert site.ranges() == [None, None, "bytes=5000-", "bytes=5000-"] and shard.name.endswith("-papers.jsonl.gz")
    site.pages["/silent"] = Page()
    get(shards_of(site.url("/silent"))[0], tmp_path)
    assert site.ranges()[4:] == [None, None]


def test_no_place_no_curl(site, tmp_path, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        refused(site.shard(), tmp_path, r"was not written \(\[Errno 27\] File too large\): it takes curl, free space and a place")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    get(site.shard(), tmp_path)
    assert site.ranges()[1:] == ["bytes=1000000-"]
    (tmp_path / "file").touch()
    refused(site.shard(), tmp_path / "file", r"was not written \(\[Errno 17\] File exists")
    (tmp_path / site.shard().name).unlink()
    monkeypatch.setenv("PATH", "")
    refused(site.shard(), tmp_path, r"was not written \(\[Errno 2\] No such file or directory: 'curl'\): it takes curl")


# Entries


def test_remote_entries_and_links_to_drive():
    assert all(REMOTE.match(entry) for entry in ("https://host.org/a.gz", "http://a/b", "drive:1AbCdEfGhIjKlMnOp", "s2:nonsense"))
    assert not any(REMOTE.match(entry) for entry in ("papers.jsonl.gz", "data/s2/papers", "~/http/x", "/data/https:/x"))
    for link in ("file/d/{}/view?usp=sharing", "open?id={}", "uc?export=download&id={}"):
        assert shards_of("https://drive.google.com/" + link.format("1AbCdEfGhIjKlMnOp"))[0] == DRIVE._replace(checksum="")
    link = f"https://drive.usercontent.google.com/download?id=1AbCdEfGhIjKlMnOp&export=download#md5={MD5.upper()}"
    assert shards_of(link)[0] == DRIVE and DRIVE[1:] == ("drive:1AbCdEfGhIjKlMnOp", f"md5:{MD5}")


NOTHING = [
    ("drive:1", "^drive:1 is not https://HOST/FILE or drive:ID"), ("https:///a.gz", "is not https://HOST/FILE"),
    (f"https://me:{SECRET}@host.org/a.gz?{SECRET}", "^host.org/a.gz is not https://HOST/FILE"),
    ("https://host.org/a.gz#sha265=00", "#sha265=00 is no checksum"), ("https://host.org/a.gz#md5=00", "#md5=00 is no checksum"),
    ("s2:abstracts", "^s2:abstracts gave no list: write s2:papers, s2:citations or s2:paper-ids"), ("s2:papers@lately", "gave no list"),
]  # fmt: skip


@pytest.mark.parametrize("dump, sentence", NOTHING)
def test_entries_that_name_nothing(dump, sentence):
    with pytest.raises(DumpError, match=sentence) as caught:
        shards_of(dump)
    assert SECRET not in str(caught.value)


def test_a_name_is_stable_unique_and_safe(site, tmp_path):
    def name(url: str) -> str:
        return shards_of(url)[0].name

    works = "https://openalex.s3.amazonaws.com/data/works/updated_date=2024-01-0{}/part_000.gz"
    assert name(works.format(1)) != name(works.format(2)) and name(works.format(1)).endswith("-part_000.gz")
    assert name("https://host.org/get?id=1") != name("https://host.org/get?id=2")
    for signed in ("AWSAccessKeyId=A&Signature={}&Expires=3", "X-Amz-Credential=x&X-Amz-Signature={}", "sv=2&sig={}", "token={}"):
        url = "https://host.org/a.gz?" + signed
        assert name(url.format(1)) == name(url.format(2)) == name("https://host.org/a.gz")
    strange = name("https://host.org/dumps/..%2F..%2Fetc/pa pers\n" + "ü" * 300 + "?x=/../y")
    assert re.fullmatch(r"[\w.-]{9,120}", strange, re.ASCII)
    site.pages["/m%C3%BC%20ller[1].gz"] = Page()
    get(shards_of(f"{site.address}/mü ller[1].gz")[0], tmp_path)


# Drive


DRIVE = shards_of(f"drive:1AbCdEfGhIjKlMnOp#md5={MD5}")[0]


def answering(outcome):
    """gdown's `download`, as 5 and 6 both take it, or Colab's `get`: it raises `outcome`, writes it to `output`, or returns it."""

    def answer(name="", *, id="", output="", use_cookies=False, resume=True):
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, bytes):
            assert id == "1AbCdEfGhIjKlMnOp" and resume and not use_cookies
            return Path(output).write_bytes(outcome) and output
        return outcome

    return answer


@pytest.mark.parametrize(
    "outcome, sentence",
    [
        (CONTENT, ""), (CONTENT[:-1], r"is damaged \(not md5 [0-9a-f]{32}\) and was deleted"), (b"<!DOCTYPE html>Quota", "is a web page"),
        (None, r"1AbCdEfGhIjKlMnOp could not be downloaded \(nothing was downloaded\): check that it is shared"),  # gdown 5
        (RuntimeError("Too many users have viewed\nor downloaded this file recently."), "add a copy to your own Drive"),
    ],
    ids=["whole", "cut off", "a page", "nothing", "too many"],
)  # fmt: skip
def test_a_file_on_drive(monkeypatch, tmp_path, outcome, sentence):
    import gdown

    assert {"id", "output", "use_cookies", "resume"} <= set(inspect.signature(gdown.download).parameters)
    monkeypatch.setattr(gdown, "download", answering(outcome))
    came = []
    refused(DRIVE, tmp_path, sentence) if sentence else get(DRIVE, tmp_path, came.append)
    assert sum(came) == (0 if sentence else len(CONTENT))


# Semantic Scholar

LIST, PATHS = "/v1/2025-01-07/dataset/papers", [f"/staging/2025-01-07/papers/20250110_0{i}.gz" for i in range(2)]


@pytest.fixture
def s2(site, monkeypatch):
    """The site as Semantic Scholar's API and store, with release 2025-01-07 of two shards; the key is in the environment."""
    monkeypatch.setattr(download, "S2_API", f"{site.address}/v1")
    monkeypatch.setenv("S2_API_KEY", f" {KEY}\n")
    site.pages |= {"/v1/latest": Page(b'{"release_id": "2025-01-07"}')} | {path: Page() for path in PATHS}
    site.pages[LIST] = Page(json.dumps({"name": "papers", "files": [site.url(path) for path in PATHS]}).encode())
    return site


def test_a_signed_list(s2, tmp_path, monkeypatch):
    curl, log = tmp_path / "curl", tmp_path / "log"
    curl.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("curl")} "$@"\n')
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    s2.first = [Page(b"", {"Retry-After": "1"}, 429)]
    shards = shards_of("s2:papers")
    assert shards == shards_of("s2:papers@2025-01-07")
    assert [shard.name for shard in shards] == [f"papers-2025-01-07-20250110_0{i}.gz" for i in range(2)]
    get(shards[1], tmp_path)
    assert [headers.get("x-api-key") for path, headers in s2.asked] == [KEY] * 4 + [None], "the store gets no key"
    assert log.read_text().count("--config -") == 4 and not any(secret in log.read_text() for secret in (SECRET, KEY, "127.0.0.1"))


NO_LISTS = (b"{}", b'{"files": []}', b'{"files": [1]}', b"[]", b"<html>", b'"\xff', b'{"files": ["file:///etc/passwd"]}')
ELSEWHERE = Page(b"", {"Location": "/elsewhere"}, 302)  # the key is not sent there


@pytest.mark.parametrize("page", [*map(Page, NO_LISTS), Page(b"{}", {}, 403), Page(b'{"files"', length=100), ELSEWHERE])
def test_a_list_that_is_refused_or_is_none(s2, page):
    s2.pages[LIST] = page
    with pytest.raises(DumpError) as caught:
        shards_of("s2:papers")
    assert KEY not in str(caught.value) and len(s2.asked) == 2


@pytest.mark.parametrize("secret", [KEY, None, RuntimeError("SecretNotFoundError, NotebookAccessError, TimeoutException")])
def test_the_key_from_colab(s2, monkeypatch, secret):
    monkeypatch.delenv("S2_API_KEY")
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(userdata=types.SimpleNamespace(get=answering(secret))))
    with contextlib.nullcontext() if secret == KEY else pytest.raises(DumpError, match="put an API key into S2_API_KEY"):
        assert len(shards_of("s2:papers")) == 2 and s2.asked[1][1]["x-api-key"] == KEY
    assert len(s2.asked) == (2 if secret == KEY else 0)


def test_a_remote_dump_is_read_file_by_file_and_not_twice(site, config, tmp_path, waits):
    """A dump at several addresses: the corpus of the same local files; nothing downloaded is left, no file is read twice."""
    edges = {f"/edges{i}.csv.gz": gzip.compress(f"citing,cited\np{i},q\np{i},p{i + 1}\n".encode()) for i in range(3)}
    for path, content in edges.items():
        site.pages[path] = Page(content)
        (tmp_path / path[1:]).write_bytes(content)
    site.pages["/edges2.csv.gz"] = Page(b"", {}, 404)
    c = config(dumps=[site.url(path) for path in edges])
    with pytest.raises(DumpError, match=r"edges2\.csv\.gz"):
        build_corpus(c)
    site.pages["/edges2.csv.gz"] = Page(edges["/edges2.csv.gz"])
    site.asked.clear()
    remote_report = build_corpus(c)
    assert [path.partition("?")[0] for path, _ in site.asked] == ["/edges2.csv.gz"]
    local = config(dumps=[tmp_path / path[1:] for path in edges], out=str(tmp_path / "local"))
    assert build_corpus(local)["citations"] == remote_report["citations"]
    ids = [open_corpus(of)[0]["paper_id"].to_pylist() for of in (c, local)]
    assert ids[0] == ids[1] and len(ids[0]) == 5
    left = [file for file in Path(c.out).rglob("*") if file.is_file()]
    assert {file.parent.name for file in left} == {"corpus"} and not any(SECRET.encode() in file.read_bytes() for file in left)
