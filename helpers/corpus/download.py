"""Getting a dump: an address, a file on Drive or Semantic Scholar's signed lists become whole files on disk, resumed and checked."""

# curl makes one connection and hands over what comes, headers first; this process writes it. curl's own --output, --continue-at and --retry
# are not used: curl would go on writing after a kill -9 of this process, and before another try it throws away what the last one brought.
# Signed addresses are credentials: curl reads them from standard input; messages, file names and the note beside a part do not hold them.

import base64
import contextlib
import hashlib
import json
import os
import re
from collections import namedtuple
from http.client import HTTPException, parse_headers
from pathlib import Path
from subprocess import PIPE, Popen, run
from time import sleep
from urllib.parse import quote, unquote

from helpers.errors import DumpError, UserError

S2_API = "https://api.semanticscholar.org/datasets/v1/release"  # /latest gives {"release_id"}, /RELEASE/dataset/NAME {"files": [addresses]}
CURL = "curl --disable -sS --fail --suppress-connect-headers --globoff --proto =http,https --speed-time 60 --config -".split()
TRIES = 6  # in a row that bring nothing new, a minute in all
# What is noted of an answer. In this order MD5 finds the checksum: S3's ETag of a file sent in one part and under no other key,
# Content-MD5, or Google's hash, which is of another file where Google unpacks what it stores.
NOTED = "Last-Modified Content-Length Server x-amz-server-side-encryption ETag Content-MD5 x-goog-stored-content-encoding x-goog-hash"
MD5 = re.compile(r'AmazonS3 (?:AES256)? "([\da-f]{32})"|(?: |md5=)([\w+/]{22}==)|gzip')


class Shard(namedtuple("Shard", "name url checksum", defaults=("",))):
    """A file of a dump: name, the same in every run; url, a credential; checksum, "md5:HEX", "sha256:HEX" or ""."""

    def __repr__(self):
        return self.name


def shards_of(dump: str) -> list[Shard]:
    """The files behind a remote entry; `#sha256=HEX` or `#md5=HEX` after an address is its checksum. Raises DumpError."""
    if dump.startswith("s2:"):
        return _s2_shards(dump)
    address, _, checksum = quote(dump, safe="%/:=&?~+!$,;'@()*[]#").partition("#")  # curl takes no spaces and no umlauts
    url = re.sub(r"https?://(?:drive|docs)[\w.]*\.google\.com/.*(?:/d/|\bid=)([\w-]{10,}).*", r"drive:\1", address)
    if not re.fullmatch(r"(drive:[\w-]{10,}|https?://[^/?@]+([/?].*)?)#((sha256=[\da-f]{32}|md5=)[\da-f]{32})?", f"{url}#{checksum}", re.I):
        raise DumpError(f"{url.partition('?')[0].rpartition('@')[2]} is not https://HOST/FILE or drive:ID, or #{checksum} is no checksum.")
    same = re.sub(r"\?.*(signature|\bsig=|expires|token|credential).*", "", url, flags=re.I)  # a signature changes from run to run
    file = re.sub(r"[^\w.=+-]", "_", unquote(re.search(r"([^/?]*)/*(\?.*)?$", url)[1]), flags=re.ASCII)[-100:]
    # the hash keeps the part_000.gz of two folders apart
    return [Shard(f"{hashlib.sha256(same.encode()).hexdigest()[:8]}-{file}", url, checksum.replace("=", ":").lower())]


def _s2_shards(dump: str) -> list[Shard]:
    with contextlib.suppress(Exception):  # no Colab, no such secret, no access for this notebook, nobody who answers in time
        from google.colab import userdata

        os.environ.setdefault("S2_API_KEY", userdata.get("S2_API_KEY"))  # other processes, which find it there, cannot ask Colab

    def ask(path: str) -> dict:
        config = f"retry = 5\nurl = {S2_API}/{path}\nheader = x-api-key:{os.environ['S2_API_KEY'].strip()}"
        return json.loads(run(CURL, input=config.encode(), capture_output=True).stdout)

    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        dataset, release = re.fullmatch(r"s2:(papers|citations|paper-ids)(?:@(\d{4}-\d\d-\d\d))?", dump).groups()
        release = release or ask("latest")["release_id"]  # by its name, so that asking again gives the same
        first, *more = [shards_of(url)[0] for url in ask(f"{release}/dataset/{dataset}")["files"]]
        return [Shard(f"{dataset}-{release}-{file.name[9:]}", file.url) for file in (first, *more)]
    raise DumpError(f"{dump} gave no list: write s2:papers, s2:citations or s2:paper-ids, and put an API key into S2_API_KEY.")


def download(shard: Shard, folder: Path, on_bytes=lambda count: None) -> Path:
    """The shard's file in `folder`, whole and checked; `on_bytes(n)` hears of n bytes as they come. Raises DumpError; NAME.part stays."""
    whole, part = folder / shard.name, folder / f"{shard.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            if of_drive := shard.url.startswith("drive:"):
                from_drive("download", shard, DumpError, id=shard.url[6:], output=str(part))
                on_bytes(part.stat().st_size)
            algorithm, _, expected = (shard.checksum if of_drive else _from_address(shard, part, on_bytes)).partition(":")
            with open(part, "rb") as file:
                page = re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)\b", file.peek(), re.I)
                if page or (expected and hashlib.file_digest(file, algorithm).hexdigest() != expected):
                    part.unlink()
                    fault = "a web page" if page else f"damaged (not {algorithm} {expected})"
                    raise DumpError(f"{shard} is {fault} and was deleted: check the address (and the checksum), then run this again.")
            part.replace(whole)
            Path(f"{part}.json").unlink(missing_ok=True)
    except (OSError, ValueError, HTTPException) as error:
        raise DumpError(f"{whole} was not written ({error}): it takes curl, free space and a place you may write to.") from None
    return whole


def from_drive(download: str, what, refused: type[UserError], **asked) -> None:
    """gdown's `download` or `download_folder`; raises `refused` for what is not shared, or was downloaded too often today."""
    import gdown  # here: only what is on Drive needs it

    try:  # gdown keeps what came beside NAME.part and goes on with it; 5 returns None where 6 raises
        if not getattr(gdown, download)(**asked, use_cookies=False, resume=True):
            raise ValueError("nothing was downloaded")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        often = re.search("many.*(users|accesses)", reason, re.I)
        todo = "add a copy to your own Drive" if often else "check that it is shared with «anyone with the link»"
        raise refused(f"{what} could not be downloaded ({reason}): {todo}, then run this again.") from None


def _from_address(shard: Shard, part: Path, on_bytes) -> str:
    # have: bytes, -1 where there is no part; status: of the last answer, 0 where none came; failed, said: of curl
    note, failures, longest, status, failed, said = Path(f"{part}.json"), 0, -2, 0, True, ""
    known = json.loads(text) if note.exists() and (text := note.read_text()) else dict.fromkeys(NOTED.split(), "")
    while (size := known["Content-Length"]) != str(have := part.stat().st_size if part.exists() else -1) and (size or failed):
        failures, longest = (0, have) if have > longest else (failures + 1, longest)
        if failures == TRIES or (300 <= status < 500 and status not in (408, 416, 425, 429)):
            todo = "check address and network, then run this again; what came is kept"
            raise DumpError(f"{shard} did not come (HTTP {status}; {said}): {todo}.")
        sleep(2**failures - 1)
        tag = known["ETag"] if known["ETag"].startswith('"') else known["Last-Modified"]  # a weak ETag, W/..., may not stand in If-Range
        rest, status = (f"range = {have}-\nheader = {json.dumps(f'If-Range: {tag}')}" if tag and have > 0 and status != 416 else ""), 0
        with Popen([*CURL, "--location", "--include"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as curl, open(part, "ab") as file:
            curl.stdin.write(f'url = "{shard.url}"\n{rest}'.encode())
            curl.stdin.close()
            while status // 100 != 2 and (line := curl.stdout.readline()).startswith(b"HTTP/"):  # redirects come first
                status, head = int(line.split()[1]), parse_headers(curl.stdout)
            if status == 200:  # the first time, or the server knows no ranges, or the file changed
                known = {name: ",".join(head.get_all(name, [])) for name in NOTED.split()}
                file.truncate(0)
                note.write_text(json.dumps(known))
            while status in (200, 206) and (block := curl.stdout.read1(1 << 20)):
                on_bytes(file.write(block))
            failed, said = curl.stdout.close() or curl.wait() or status not in (200, 206), str(curl.stderr.readline(), "latin-1").strip()
    md5 = MD5.search(" ".join(known.values()))
    return shard.checksum or (f"md5:{md5[1] or base64.b64decode(md5[2]).hex()}" if md5 and md5.lastindex else "")
