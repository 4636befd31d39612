"""Getting a dump from a real local server that drops, lies, changes and refuses; Drive and Colab through stand-ins."""

import base64
import dataclasses
import errno
import gzip
import hashlib
import http.server
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from helpers.config import ROOT
from helpers.corpus import download
from helpers.corpus.build import build_corpus, open_corpus
from helpers.corpus.download import Shard, remote, shards_of
from helpers.errors import DumpError

CONTENT = np.random.default_rng(3).bytes(3_000_000)
SECRET = "c2lnbmVk"  # of a signed address: never in a message or a file
MD5, SHA256 = hashlib.md5(CONTENT), hashlib.sha256(CONTENT)


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
        self.pages, self.asked, self.sent = {}, [], []
        self.first: list[Page] = []  # answered before any page, one a request
        self.drops: list[int] = []  # bytes after which the connection breaks, one a request
        self.go_on = threading.Event()  # set: a drop closes the connection; otherwise it waits first
        self.go_on.set()
        self.server = "test"

    def url(self, path: str = "/papers.jsonl.gz") -> str:
        return f"{self.address}{path}?Signature={SECRET}"

    def shard(self, page: Page | None = None, path: str = "/papers.jsonl.gz", fragment: str = "") -> Shard:
        self.pages[path] = page or Page()
        return shards_of(self.url(path) + fragment)[0]


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
            headers.setdefault("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_response(status)
        headers |= {"Transfer-Encoding": "chunked"} if page.chunked else {"Content-Length": str(page.length or len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        end = site.drops.pop(0) if site.drops else len(content)
        if page.chunked:
            self.wfile.write(b"%x\r\n" % len(content))
        self.wfile.write(content[:end])
        if page.chunked and end == len(content):
            self.wfile.write(b"\r\n0\r\n\r\n")
        site.sent.append(len(content[:end]))
        site.go_on.wait(20)
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


@pytest.fixture
def waits(monkeypatch) -> list:
    """The pauses between tries, noted instead of slept."""
    waits = []
    monkeypatch.setattr(download, "sleep", waits.append)
    return waits


def get(shard: Shard, folder: Path, on_bytes=None) -> None:
    """Download, and see that the file is whole and alone."""
    path = download.download(shard, folder, on_bytes)
    assert path == folder / shard.name and path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == [shard.name]


def refused(shard: Shard, folder: Path, sentence: str) -> None:
    """See that there is one sentence and no file, and that the address's secret is nowhere."""
    with pytest.raises(DumpError, match=sentence) as caught:
        download.download(shard, folder)
    assert "\n" not in str(caught.value) and caught.value.__suppress_context__ | (caught.value.__context__ is None)
    assert SECRET not in f"{caught.value}{shard!r}{shard}"
    if folder.is_dir():
        assert not (folder / shard.name).exists() and not any(SECRET.encode() in file.read_bytes() for file in folder.iterdir())


def ranges(site: Site) -> list:
    return [headers.get("Range") for _, headers in site.asked]


def test_a_file(site, tmp_path):
    shard, came = site.shard(), []
    get(shard, tmp_path / "new" / "folder", came.append)
    assert sum(came) == len(CONTENT) and len(came) > 1
    get(shard, tmp_path / "new" / "folder")
    assert len(site.asked) == 1, "a finished file is not asked for again"


def test_an_empty_file_and_one_of_unknown_length(site, tmp_path):
    assert download.download(site.shard(Page(b"")), tmp_path / "empty").read_bytes() == b""
    get(site.shard(Page(chunked=True)), tmp_path / "chunked")


@pytest.mark.parametrize(
    "headers, validator",
    [
        ({"ETag": '"one"'}, '"one"'),
        ({"Last-Modified": "Tue, 07 Jan 2025 10:00:00 GMT"}, "Tue, 07 Jan 2025 10:00:00 GMT"),
        ({"ETag": 'W/"one"', "Last-Modified": "Tue, 07 Jan 2025 10:00:00 GMT"}, "Tue, 07 Jan 2025 10:00:00 GMT"),
    ],
)
def test_a_dropped_connection_goes_on_where_it_stopped(site, tmp_path, waits, headers, validator):
    site.drops, came = [1_200_000, 700_000], []
    get(site.shard(Page(headers=headers)), tmp_path, came.append)
    assert ranges(site) == [None, "bytes=1200000-", "bytes=1900000-"] and site.asked[1][1]["If-Range"] == validator
    assert sum(came) == sum(site.sent) == len(CONTENT) and waits == [1, 1]


def test_drops_that_bring_something_are_not_counted(site, tmp_path, waits):
    site.drops = [100_000] * 12
    get(site.shard(), tmp_path)
    assert len(site.asked) == 13 and sum(site.sent) == len(CONTENT) and waits == [1] * 12


def test_a_broken_chunk(site, tmp_path, waits):
    site.drops = [10_000]
    get(site.shard(Page(chunked=True)), tmp_path)
    assert ranges(site) == [None, "bytes=10000-"]


@pytest.mark.parametrize("page", [Page(ranges=False), Page(headers={})], ids=["no ranges", "no validator"])
def test_what_cannot_be_resumed_starts_anew(site, tmp_path, waits, page):
    site.drops = [1_000_000]
    get(site.shard(page), tmp_path)
    assert site.sent == [1_000_000, len(CONTENT)]


def test_a_server_that_always_breaks_off_is_given_up(site, tmp_path, waits):
    site.drops, shard = [500_000] * 99, site.shard(Page(ranges=False))
    refused(shard, tmp_path, r"papers.jsonl.gz from 127.0.0.1 did not come \(500,000 of 3,000,000 bytes came\); check the network and run")
    assert len(site.asked) == download.TRIES and waits == [1, 2, 4, 8]
    site.drops = []
    get(shard, tmp_path)


def test_a_size_that_is_not_as_announced(site, tmp_path, waits):
    refused(site.shard(Page(length=len(CONTENT) + 1)), tmp_path, "3,000,000 of 3,000,001 bytes came")


def test_kill_9_in_mid_download(site, tmp_path):
    shard, site.drops = site.shard(), [2_000_000]
    part = tmp_path / f"{shard.name}.part"
    site.go_on.clear()
    code = "import sys, pathlib; from helpers.corpus.download import *; download(shards_of(sys.argv[1])[0], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, site.url(), str(tmp_path)], cwd=ROOT)
    until = time.time() + 20
    while not (part.exists() and part.stat().st_size > 1_900_000) and time.time() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    site.go_on.set()
    have = part.stat().st_size
    assert SECRET not in Path(f"{part}.json").read_text() and 1_900_000 < have <= 2_000_000
    get(shard, tmp_path)
    assert ranges(site) == [None, f"bytes={have}-"] and site.sent[1] == len(CONTENT) - have, "the first part was not sent again"


def test_killed_between_the_last_byte_and_the_new_name(site, tmp_path, monkeypatch):
    shard = site.shard()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        download.download(shard, tmp_path)
    get(shard, tmp_path)
    assert len(site.asked) == 1


def test_a_note_cut_off_by_a_kill(site, tmp_path):
    shard = site.shard()
    (tmp_path / f"{shard.name}.part").write_bytes(b"something")
    (tmp_path / f"{shard.name}.part.json").write_text('{"validator": "')
    get(shard, tmp_path)
    assert ranges(site) == [None]


CHANGED, OLD = Page(headers={"ETag": '"two"'}), CONTENT[::-1]


@pytest.mark.parametrize(
    "old, page, after",
    [
        (OLD, CHANGED, ["bytes=50-"]),  # a new ETag: the whole file comes
        (OLD, dataclasses.replace(CHANGED, if_range=False), ["bytes=50-", None]),  # told only by the answer's ETag
        (OLD[:100], Page(if_range=False, headers={}), ["bytes=50-", None]),  # told only by the size
        (OLD, Page(headers={"ETag": '"one"', "Content-Range": f"bytes 40-99/{len(OLD)}"}), ["bytes=50-", None]),
        (OLD, Page(headers={"ETag": '"one"', "Content-Range": "all of it"}), ["bytes=50-", None]),
    ],
    ids=["If-Range", "ETag", "size", "wrong place", "no place"],
)
def test_a_file_that_changed_meanwhile(site, tmp_path, waits, old, page, after):
    site.drops, site.first = [50], [Page(old), *[Page(b"", {}, 500)] * download.TRIES]  # 50 bytes come, then nothing does
    shard = site.shard(page)
    refused(shard, tmp_path, "did not come")
    assert (tmp_path / f"{shard.name}.part").stat().st_size == 50
    site.first.clear()
    site.asked.clear()
    get(shard, tmp_path)
    assert ranges(site) == after


def test_a_file_that_shrank_meanwhile(site, tmp_path, waits):
    site.drops, site.first = [4_000_000], [Page(CONTENT + CONTENT), Page(b"", {}, 404)]
    shard = site.shard(Page(if_range=False))
    refused(shard, tmp_path, "HTTP 404")
    get(shard, tmp_path)
    assert ranges(site)[2:] == ["bytes=4000000-", None], "416, then from the start"


def right_and_wrong(name: str, value, wrong) -> list:
    return [pytest.param(value, True, id=f"{name} right"), pytest.param(wrong, False, id=f"{name} wrong")]


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    "published, right",
    [
        *right_and_wrong("sha256", f"#sha256={SHA256.hexdigest().upper()}", f"#sha256={'0' * 64}"),
        *right_and_wrong("md5", f"#md5={MD5.hexdigest()}", f"#md5={'0' * 32}"),
        *right_and_wrong("Content-MD5", {"Content-MD5": base64_of(MD5.digest())}, {"Content-MD5": base64_of(bytes(16))}),
        *right_and_wrong(
            "Google's",
            {"x-goog-hash": f"crc32c=AAAAAA==,md5={base64_of(MD5.digest())}"},
            {"x-goog-hash": f"crc32c=AAAAAA==, md5={base64_of(bytes(16))}"},
        ),
        *right_and_wrong("Amazon's", {"ETag": f'"{MD5.hexdigest()}"'}, {"ETag": f'"{"0" * 32}"'}),
    ],
)
def test_checksums(site, tmp_path, waits, published, right):
    site.server, site.drops = "AmazonS3", [1_000_000]  # the checksum is known from the first answer, the end comes with the second
    fragment, headers = (published, {}) if isinstance(published, str) else ("", published)
    shard = site.shard(Page(headers={"ETag": '"one"', **headers}), fragment=fragment)
    assert shard.checksum == fragment[1:].replace("=", ":").lower()
    if right:
        get(shard, tmp_path)
    else:
        refused(shard, tmp_path, r"is damaged and was deleted: its (md5|sha256) is [0-9a-f]+, not 0+; download it again")
        assert not (tmp_path / f"{shard.name}.part").exists()
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    "server, headers",
    [
        ("nginx", {"ETag": f'"{"0" * 32}"'}),
        ("AmazonS3", {"ETag": f'"{"0" * 32}-2"'}),  # sent in parts
        ("AmazonS3", {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"}),
        ("Google", {"x-goog-hash": f"md5={base64_of(bytes(16))}", "x-goog-stored-content-encoding": "gzip"}),  # unpacked on the way
        ("any", {"Content-MD5": "not one"}),
    ],
)
def test_what_looks_like_a_checksum_but_is_none(site, tmp_path, server, headers):
    site.server = server
    get(site.shard(Page(headers=headers)), tmp_path)


@pytest.mark.parametrize(
    "status, sentence",
    [
        (401, r"papers.jsonl.gz from 127.0.0.1 is not handed out \(HTTP 401\): it needs a login or another key, or its link has expired"),
        (403, r"\(HTTP 403\): it needs a login or another key, or its link has expired"),
        (404, r"is not handed out \(HTTP 404\): check the address or release"),
        (410, r"\(HTTP 410\): check the address"),
    ],
)
def test_refusals(site, tmp_path, status, sentence):
    refused(site.shard(Page(b"<Error/>", {}, status)), tmp_path, sentence)
    assert len(site.asked) == 1


def test_a_server_in_trouble(site, tmp_path, waits):
    shard = site.shard()
    site.first = [Page(b"", {}, 500), Page(b"", {"Retry-After": "7"}, 503), Page(b"", {"Retry-After": "soon"}, 429), Page(b"", {}, 202)]
    get(shard, tmp_path)
    assert waits == [1, 7, 4, 8]
    site.first = [Page(b"", {}, 502)] * 9
    refused(shard, tmp_path / "again", r"did not come \(HTTP 502\)")


def test_a_wait_that_is_too_long(site, tmp_path, waits):
    site.first = [Page(b"", {"Retry-After": "3600"}, 429)]
    refused(site.shard(), tmp_path, r"did not come \(HTTP 429, asked to wait 3600 s\); check the network and run this again")
    assert waits == []


def test_nobody_there(tmp_path, waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/papers.gz?Signature={SECRET}"
    refused(shards_of(url)[0], tmp_path, r"papers.gz from 127.0.0.1 did not come \(Connection refused\)")


def test_a_connection_that_stands_still(site, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    site.drops = [1_500_000]
    site.go_on.clear()
    get(site.shard(), tmp_path)
    assert ranges(site) == [None, "bytes=1500000-"]


def test_a_part_that_was_not_asked_for(site, tmp_path, waits):
    refused(site.shard(Page(headers={"Content-Range": "bytes 0-9/10"}, status=206)), tmp_path, r"did not come \(HTTP 206\)")


@pytest.mark.parametrize(
    "page",
    [
        Page(b"<p>Log in first", {"Content-Type": "text/html; charset=utf-8"}),
        Page(b"\xef\xbb\xbf\n <!DOCTYPE html><title>Quota exceeded</title>", {"Content-Type": "application/octet-stream"}),
        Page(b"<html><body>Sorry", {}),
    ],
)
def test_a_web_page_instead_of_a_dump(site, tmp_path, page):
    refused(site.shard(page), tmp_path, "is a web page and not a dump: a login, a limit or an expired link")
    assert not list(tmp_path.iterdir())


def test_a_part_is_not_given_up_for_a_web_page(site, tmp_path, waits):
    site.drops, shard = [2_000_000], site.shard()
    site.first = [Page(), Page(b"<html>Log in", {"Content-Type": "text/html"})]
    refused(shard, tmp_path, "is a web page")
    get(shard, tmp_path)
    assert site.sent[2] == 1_000_000


def test_redirects(site, tmp_path, waits):
    shard = site.shard(Page(b"", {"Location": f"/store/1?Signature={SECRET}"}, 302))
    site.pages["/store/1"], site.drops = Page(), [0, 5000]
    get(shard, tmp_path)
    assert ranges(site) == [None, None, "bytes=5000-", "bytes=5000-"] and shard.name.endswith("-papers.jsonl.gz")
    loop = site.shard(Page(b"", {"Location": site.url("/loop")}, 302), "/loop")
    refused(loop, tmp_path, r"is not handed out \(HTTP 302\)")


def test_a_disk_that_is_too_small_is_told_before(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=52_000_000))
    refused(site.shard(), tmp_path, r"has 0.05 GB free, but [0-9a-f]+-papers.jsonl.gz from 127.0.0.1 needs 0.00 GB more; make room")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=53_000_000))
    get(site.shard(), tmp_path)


def test_a_disk_that_fills_up_meanwhile(site, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(site.shard(), tmp_path, r"papers.jsonl.gz was not written \(No space left on device\); free space or choose another place")
    get(site.shard(), tmp_path)


def test_a_file_in_place_of_the_folder(site, tmp_path):
    (tmp_path / "file").write_text("")
    refused(site.shard(), tmp_path / "file", r"was not written \(File exists\)")


# Entries


@pytest.mark.parametrize(
    "dump, expected",
    [
        ("https://host.org/a.gz", True), ("http://host.org/a.gz", True), ("drive:1AbCdEfGhIjKlMnOp", True), ("s2:papers", True),
        ("s2:nonsense", True), ("papers.jsonl.gz", False), ("data/s2/papers", False), ("~/http/x", False), ("/data/https:/x", False),
    ],
)  # fmt: skip
def test_remote(dump, expected):
    assert remote(dump) is expected


@pytest.mark.parametrize(
    "link",
    [
        "drive:1AbCdEfGhIjKlMnOp",
        "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOp/view?usp=sharing",
        "https://drive.google.com/open?id=1AbCdEfGhIjKlMnOp",
        "https://drive.google.com/uc?export=download&id=1AbCdEfGhIjKlMnOp",
        "https://drive.usercontent.google.com/download?id=1AbCdEfGhIjKlMnOp&export=download",
    ],
)
def test_links_to_drive(link):
    assert shards_of(link) == [Shard("drive-1AbCdEfGhIjKlMnOp", "drive:1AbCdEfGhIjKlMnOp")]
    assert shards_of(f"{link}#md5={'A' * 32}")[0].checksum == f"md5:{'a' * 32}"


@pytest.mark.parametrize(
    "dump, sentence",
    [
        ("https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOp?usp=sharing", "names no file on Drive; copy the link of a file"),
        ("drive:1", "names no file on Drive"),
        (f"https://me:{SECRET}@host.org/a.gz?{SECRET}", "^host.org/a.gz is not an address of the form https://HOST/FILE"),
        ("https:///a.gz", "is not an address"),
        ("http://[::1/a.gz", "is not an address"),
        ("http://host:port/a.gz", "is not an address"),
        ("https://host.org/a.gz#sha265=00", "#sha265=00 is not a checksum; write #sha256= and 64, or #md5= and 32"),
        ("https://host.org/a.gz#md5=00", "is not a checksum"),
        ("s2:abstracts", "s2:abstracts is not s2:papers, s2:citations or s2:paper-ids, nor one of them of a release"),
        ("s2:papers@lately", "is not s2:papers"),
    ],
)
def test_entries_that_name_nothing(dump, sentence):
    with pytest.raises(DumpError, match=sentence) as caught:
        shards_of(dump)
    assert SECRET not in str(caught.value)


def test_a_name_is_stable_unique_and_safe():
    def name(url: str) -> str:
        return shards_of(url)[0].name

    works = "https://openalex.s3.amazonaws.com/data/works/updated_date=2024-01-0{}/part_000.gz"
    assert name(works.format(1)) != name(works.format(2)) and name(works.format(1)).endswith("-part_000.gz")
    assert name("https://host.org/get?id=1") != name("https://host.org/get?id=2")
    for signed in ("AWSAccessKeyId=A&Signature={}&Expires=3", "X-Amz-Credential=x&X-Amz-Signature={}", "sv=2&sig={}", "token={}"):
        url = "https://host.org/a.gz?" + signed
        assert name(url.format(1)) == name(url.format(2)) == name("https://host.org/a.gz")
    strange = name("https://host.org/dumps/..%2F..%2Fetc/pa pers\n" + "ü" * 300 + "?x=/../y")
    assert re.fullmatch(r"[\w.-]{9,120}", strange, re.ASCII) and name("https://host.org").endswith("-dump")


def test_an_address_with_a_space_and_an_umlaut(site, tmp_path):
    site.pages["/m%C3%BC%20ller.gz"] = Page()
    get(shards_of(f"{site.address}/mü ller.gz")[0], tmp_path)


# Drive


@pytest.fixture
def gdown(monkeypatch):
    """gdown's download replaced by a function of the test's: gdown(download)."""

    def replace(download):
        monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))

    return replace


DRIVE = shards_of(f"drive:1AbCdEfGhIjKlMnOp#md5={MD5.hexdigest()}")[0]


def giving(content):
    """A download as gdown 5 and 6 do it: into a temporary file beside `output`, kept when it breaks; gdown 5 also takes `fuzzy`."""

    def give(*, id, output, use_cookies, resume):
        assert id == "1AbCdEfGhIjKlMnOp" and resume and not use_cookies
        temporary = Path(f"{output}abc.part")
        temporary.write_bytes(content)
        os.replace(temporary, output)
        return output

    return give


def test_a_file_on_drive(gdown, tmp_path):
    gdown(giving(CONTENT))
    came = []
    get(DRIVE, tmp_path, came.append)
    assert came == [len(CONTENT)]


def raising(error):
    def give(**arguments):
        raise error

    return give


class DownloadError(Exception):
    """gdown 6's."""


@pytest.mark.parametrize(
    "give, sentence",
    [
        (lambda **arguments: None, r"drive-1AbCdEfGhIjKlMnOp from Google Drive could not be downloaded \(nothing was downloaded\): check"),
        (raising(DownloadError("Too many users have viewed\nor downloaded this file recently.")), "add a copy to your own Drive"),  # 6
        (raising(RuntimeError("Cannot retrieve the public link of the file.")), "check that it is shared with «anyone with the link»"),
        (raising(ConnectionError("no route to host")), r"did not come \(ConnectionError\); check the network"),
        (raising(OSError(errno.ENOSPC, "No space left on device")), r"was not written \(No space left on device\); free space"),
        (giving(b"<!DOCTYPE html>Google Drive - Quota exceeded"), "is a web page and not a dump"),
        (giving(CONTENT[:-1]), r"is damaged and was deleted: its md5 is [0-9a-f]{32}, not"),
    ],
)
def test_what_drive_refuses(gdown, tmp_path, waits, give, sentence):
    gdown(give)
    refused(DRIVE, tmp_path, sentence)


def test_drive_drops_and_goes_on(gdown, tmp_path, waits):
    tries = [raising(ConnectionError("reset")), raising(TimeoutError()), giving(CONTENT)]
    gdown(lambda **arguments: tries.pop(0)(**arguments))
    get(DRIVE, tmp_path)
    assert waits == [1, 2]


def test_the_real_gdown_takes_the_arguments_that_are_used():
    import gdown

    assert {"id", "output", "use_cookies", "resume"} <= set(inspect.signature(gdown.download).parameters)


# Semantic Scholar

KEY = "k3y"


@pytest.fixture
def s2(site, monkeypatch):
    """The site as Semantic Scholar's API and store, with release 2025-01-07 of two shards; the key is in the environment."""
    monkeypatch.setattr(download, "S2_API", f"{site.address}/v1")
    monkeypatch.setenv("S2_API_KEY", f" {KEY}\n")
    paths = [f"/staging/2025-01-07/papers/20250110_0{i}.gz" for i in range(2)]
    listed = {"name": "papers", "files": [site.url(path) for path in paths]}
    site.pages |= {path: Page() for path in paths}
    site.pages["/v1/release/latest"] = Page(json.dumps({"release_id": "2025-01-07"}).encode())
    site.pages["/v1/release/2025-01-07/dataset/papers"] = Page(json.dumps(listed).encode())
    return site


@pytest.mark.parametrize("dump", ["s2:papers", "s2:papers@2025-01-07"])
def test_a_signed_list(s2, tmp_path, dump):
    shards = shards_of(dump)
    assert [shard.name for shard in shards] == [f"papers-2025-01-07-20250110_0{i}.gz" for i in range(2)]
    get(shards[1], tmp_path)
    assert [headers.get("X-Api-Key") for path, headers in s2.asked] == [KEY] * (len(s2.asked) - 1) + [None], "the store gets no key"
    assert len(s2.asked) == (3 if dump == "s2:papers" else 2)


def test_the_key_does_not_follow_a_redirect(s2):
    s2.pages["/elsewhere"], s2.pages["/v1/release/latest"] = s2.pages["/v1/release/latest"], Page(b"", {"Location": "/elsewhere"}, 302)
    shards_of("s2:papers")
    assert [headers.get("X-Api-Key") for _, headers in s2.asked] == [KEY, None, KEY]


def test_an_expired_address_is_asked_for_anew(s2, tmp_path, waits):
    shard = shards_of("s2:papers")[0]
    old, s2.drops, s2.asked = s2.pages.pop("/staging/2025-01-07/papers/20250110_00.gz"), [2_000_000], []
    s2.first = [old, Page(b"", {}, 403)]  # the connection drops, and its address has expired meanwhile
    s2.pages["/new/20250110_00.gz"] = Page()
    s2.pages["/v1/release/2025-01-07/dataset/papers"].content = json.dumps({"files": [s2.url("/new/20250110_00.gz")]}).encode()
    get(shard, tmp_path)
    assert [path.partition("?")[0] for path, _ in s2.asked[2:]] == ["/v1/release/2025-01-07/dataset/papers", "/new/20250110_00.gz"]
    assert ranges(s2) == [None, "bytes=2000000-", None, "bytes=2000000-"]


def test_an_address_that_stays_expired(s2, tmp_path):
    shard = shards_of("s2:papers")[0]
    s2.asked, s2.pages["/staging/2025-01-07/papers/20250110_00.gz"] = [], Page(b"", {}, 403)
    refused(shard, tmp_path, r"papers-2025-01-07-20250110_00.gz from 127.0.0.1 is not handed out \(HTTP 403\): it needs a login")
    assert len(s2.asked) == 3, "the list is asked for once"
    s2.pages["/v1/release/2025-01-07/dataset/papers"] = Page(json.dumps({"files": [s2.url("/other.gz")]}).encode())
    refused(shard, tmp_path, r"is not handed out \(HTTP 403\)")


@pytest.mark.parametrize(
    "page, sentence",
    [
        (Page(b"{}", {}, 403), r"Semantic Scholar's list of s2:papers is not handed out \(HTTP 403\): it needs a login or another key"),
        (Page(b"{}", {}, 404), r"is not handed out \(HTTP 404\): check the address or release"),
        (Page(b"{}"), "Semantic Scholar's list of s2:papers is not a list of files; try again later"),
        (Page(b'{"files": []}'), "is not a list of files"),
        (Page(b'{"files": [1]}'), "is not a list of files"),
        (Page(b"[]"), "is not a list of files"),
        (Page(b"<html>"), "is not a list of files"),
        (Page(b'"\xff'), "is not a list of files"),
        (Page(b'{"files"', length=100), r"did not come \(IncompleteRead\)"),
    ],
)
def test_a_list_that_is_refused_or_is_none(s2, waits, page, sentence):
    s2.pages["/v1/release/2025-01-07/dataset/papers"] = page
    with pytest.raises(DumpError, match=sentence) as caught:
        shards_of("s2:papers")
    assert KEY not in str(caught.value)


def test_a_list_asked_for_too_often(s2, waits):
    s2.first = [Page(b"", {"Retry-After": "2"}, 429)]
    assert len(shards_of("s2:papers")) == 2 and waits == [2]


@pytest.fixture
def userdata(monkeypatch):
    """Colab's secrets answered by a function of the test's: userdata(get)."""

    def replace(get):
        monkeypatch.delenv("S2_API_KEY", raising=False)
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
        module = types.ModuleType("google.colab")
        module.userdata = types.SimpleNamespace(get=get)
        monkeypatch.setitem(sys.modules, "google.colab", module)

    return replace


def test_the_key_from_colab(s2, userdata):
    userdata({"S2_API_KEY": KEY}.__getitem__)
    assert len(shards_of("s2:papers")) == 2 and s2.asked[1][1]["X-Api-Key"] == KEY


class SecretNotFoundError(Exception):
    pass


class NotebookAccessError(Exception):
    pass


class TimeoutException(Exception):
    pass


def no_secret(error):
    def get(name):
        raise error(f"Secret {name} does not exist.")

    return get


@pytest.mark.parametrize(
    "get", [no_secret(SecretNotFoundError), no_secret(NotebookAccessError), no_secret(TimeoutException), lambda name: None]
)
def test_no_key_on_colab(s2, userdata, get):
    userdata(get)
    with pytest.raises(
        DumpError, match=r"ask for one at semanticscholar.org/product/api and put it into the environment variable S2_API_KEY"
    ):
        shards_of("s2:papers")
    assert not s2.asked


@pytest.mark.parametrize("key", [None, "", f"{SECRET}\nHost: other", f"{SECRET}ü"])
def test_no_key_or_none_that_could_be_one(s2, monkeypatch, key):
    monkeypatch.delenv("S2_API_KEY") if key is None else monkeypatch.setenv("S2_API_KEY", key)
    with pytest.raises(DumpError, match="need an API key, but none was found") as caught:
        shards_of("s2:papers")
    assert SECRET not in str(caught.value) and not s2.asked


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
