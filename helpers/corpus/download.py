"""Getting a dump: an address, a file on Drive or Semantic Scholar's signed lists become whole files on disk, resumed and checked.

Signed addresses hold credentials: messages, file names and the notes beside a part name only host and file. Semantic Scholar's datasets
API as its OpenAPI description says it: `release/latest` gives {"release_id"}, `release/RELEASE/dataset/NAME` gives {"files": [addresses]}.
"""

import base64
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from time import sleep
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from helpers import __version__
from helpers.errors import DumpError

S2_API = "https://api.semanticscholar.org/datasets/v1"
S2_ENTRY = re.compile(r"s2:(papers|citations|paper-ids)(?:@(\d{4}-\d\d-\d\d))?")
TRIES = 5  # in a row that bring nothing new
TIMEOUT = 60  # seconds without a byte
LONGEST_WAIT = 600  # seconds that a server may ask us to wait
SPARE_BYTES = 50_000_000  # left free beside a dump
BLOCK_BYTES = 1 << 20
PASSING = (408, 416, 425, 429, 500, 502, 503, 504)  # answers that another try may change
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO)
HEADERS = {"User-Agent": f"helpers/{__version__}", "Accept-Encoding": "identity"}  # lengths and hashes are of the file as it is stored
ADDRESS = re.compile(r"https?://([\w.-]+|\[[\da-f:]+\])(:\d+)?(/.*)?", re.IGNORECASE)
DRIVE = re.compile(r"drive:|https?://(drive|docs|drive\.usercontent)\.google\.com/", re.IGNORECASE)
DRIVE_FILE = re.compile(r"(?:^drive:|/d/|[?&]id=)([\w-]{10,})")
SIGNED = re.compile(r"signature|\bsig=|expires|token|credential", re.IGNORECASE)  # in a query that changes from run to run
CHECKSUM = re.compile(r"(sha256=[\da-f]{64}|md5=[\da-f]{32})?", re.IGNORECASE)
NO_DUMP = "is a web page and not a dump: a login, a limit or an expired link; open it in a browser and take the file's own link."
WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a dump; `name` stays the same from run to run, though signed addresses change."""

    name: str
    url: str = dataclasses.field(repr=False)  # may hold credentials
    checksum: str = ""  # "sha256:HEX", "md5:HEX", or "" where none is known beforehand
    source: str = ""  # the entry whose list gives a new address when this one has expired

    def __str__(self):
        return f"{self.name} from {urlsplit(self.url).hostname or 'Google Drive'}"


def remote(dump: str) -> bool:
    """Whether an entry is something to download: http(s)://..., a Drive link, drive:FILE_ID, s2:DATASET or s2:DATASET@RELEASE."""
    return bool(re.match(r"https?://|drive:|s2:", dump, re.IGNORECASE))


def shards_of(dump: str) -> list[Shard]:
    """The files behind a remote entry, one for an address; `#sha256=HEX` or `#md5=HEX` after an address is its checksum.

    Raises DumpError where the entry names no file, or Semantic Scholar's list cannot be had.
    """
    if dump.startswith("s2:"):
        return _s2_shards(dump)
    address, _, fragment = dump.partition("#")
    if not CHECKSUM.fullmatch(fragment):
        raise DumpError(f"#{fragment} is not a checksum; write #sha256= and 64, or #md5= and 32 hexadecimal digits after the address.")
    checksum = fragment.replace("=", ":").lower()
    if DRIVE.match(address):
        if not (file := DRIVE_FILE.search(address)):
            raise DumpError(f"{address.partition('?')[0]} names no file on Drive; copy the link of a file, not of a folder.")
        return [Shard(f"drive-{file[1]}", f"drive:{file[1]}", checksum)]
    url = quote(address, safe="%/:=&?~+!$,;'@()*[]")  # urllib takes no spaces and no umlauts
    if not ADDRESS.fullmatch(url):
        raise DumpError(f"{address.partition('?')[0].rpartition('@')[2]} is not an address of the form https://HOST/FILE.")
    parts = urlsplit(url)
    same = f"{parts.netloc}{parts.path}?{'' if SIGNED.search(parts.query) else parts.query}"
    # the hash keeps the part_000.gz of two folders apart
    return [Shard(f"{hashlib.sha256(same.encode()).hexdigest()[:8]}-{_file_name(url)}", url, checksum)]


def download(shard: Shard, folder: Path, on_bytes: Callable[[int], None] | None = None) -> Path:
    """The shard's file in `folder`, whole and checked; goes on where an earlier try stopped, returns at once where it is there.

    `on_bytes(n)` hears of n bytes as they come (of a Drive file: once, at the end). Raises DumpError; what came stays as NAME.part.
    """
    whole, part = folder / shard.name, folder / f"{shard.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            connect = _from_drive if shard.url.startswith("drive:") else _go_on
            published = _persist(lambda: connect(shard, part, on_bytes or (lambda n: None)), str(shard), part)
            _check(shard, part, shard.checksum or published)
            os.replace(part, whole)
        Path(f"{part}.json").unlink(missing_ok=True)
    except OSError as error:
        raise DumpError(f"{whole} was not written ({error.strerror or error}); free space or choose another place.") from None
    return whole


def drive_refusal(what: str, reason: str) -> str:
    """The sentence for what Google does not hand out: a file or folder that is not shared, or was downloaded too often today."""
    if "many" in reason.lower() and ("users" in reason.lower() or "accesses" in reason.lower()):
        return f"Google lends {what} no more today, too many have downloaded it: add a copy to your own Drive and open that instead."
    return f"{what} could not be downloaded ({reason}): check that it is shared with «anyone with the link», then run this cell again."


def _file_name(url: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]), flags=re.ASCII)[-100:] or "dump"


def _s2_shards(dump: str) -> list[Shard]:
    if not (entry := S2_ENTRY.fullmatch(dump)):
        raise DumpError(f"{dump} is not s2:papers, s2:citations or s2:paper-ids, nor one of them of a release (s2:papers@2025-01-07).")
    dataset, release = entry.groups()
    key, where, shards = _s2_key(), f"Semantic Scholar's list of {dump}", []

    def ask(path: str) -> dict:
        request = Request(f"{S2_API}/{path}", headers=HEADERS)
        request.add_unredirected_header("x-api-key", key)  # for this host alone
        with urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)

    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        release = (
            release or _persist(lambda: ask("release/latest"), where)["release_id"]
        )  # by its name, so that asking again gives the same
        files = _persist(lambda: ask(f"release/{release}/dataset/{dataset}"), where)["files"]
        shards = [Shard(f"{dataset}-{release}-{_file_name(url)}", url, source=f"s2:{dataset}@{release}") for url in files]
    if not shards:
        raise DumpError(f"{where} is not a list of files; try again later, or another release.")
    return shards


def _s2_key() -> str:
    key = os.environ.get("S2_API_KEY", "")
    if not key:
        with contextlib.suppress(Exception):  # no Colab, no such secret, no access for this notebook, nobody who answers in time
            from google.colab import userdata

            key = userdata.get("S2_API_KEY") or ""
    if not re.fullmatch(r"[!-~]+", key.strip()):
        raise DumpError(
            "Semantic Scholar's dumps need an API key, but none was found: ask for one at semanticscholar.org/product/api and put it "
            "into the environment variable S2_API_KEY or, on Colab, under this name into Secrets (with access for this notebook)."
        )
    return key.strip()


def _persist(attempt: Callable, where: str, part: Path | None = None):
    """`attempt()` until it returns, with growing pauses; raises DumpError after TRIES in a row that did not lengthen `part`."""
    failures = longest = wait = 0
    while True:
        try:
            return attempt()
        except HTTPError as error:
            error.close()
            asked = error.headers.get("Retry-After", "")  # in seconds; as a date it is hardly ever sent
            wait = int(asked) if asked.isdigit() else 0
            reason = f"HTTP {error.code}" + (f", asked to wait {wait} s" if wait else "")
            if error.code not in PASSING:
                todo = (
                    "it needs a login or another key, or its link has expired"
                    if error.code in (401, 403)
                    else "check the address or release"
                )
                raise DumpError(f"{where} is not handed out ({reason}): {todo}.") from None
            if error.code == 416 and part:  # longer than the file: of another one
                part.unlink(missing_ok=True)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in DISK:
                raise
            cause = error.reason if isinstance(getattr(error, "reason", None), Exception) else error
            reason, wait = getattr(cause, "strerror", None) or type(cause).__name__, 0  # never its text: that may hold the address
        size = part.stat().st_size if part and part.exists() else 0
        failures, longest = 1 if size > longest else failures + 1, max(size, longest)
        if failures == TRIES or wait > LONGEST_WAIT:
            raise DumpError(f"{where} did not come ({reason}); check the network and run this again, it goes on where it stopped.")
        sleep(max(wait, 2 ** (failures - 1)))


def _go_on(shard: Shard, part: Path, on_bytes: Callable) -> str:
    """One connection: what `part` still lacks, as far as it gets; returns the checksum that the server published first, or ""."""
    note = Path(f"{part}.json")  # what the first answer said of the file
    try:
        known, have = json.loads(note.read_text()), part.stat().st_size
    except (OSError, ValueError):  # none yet, or cut off by a kill
        known, have = {}, 0
    if have and have == known["size"]:
        return known["checksum"]
    headers = HEADERS | ({"Range": f"bytes={have}-", "If-Range": known["validator"]} if have and known["validator"] else {})
    try:
        answer = urlopen(Request(shard.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        expired = shard.source and error.code in (401, 403)
        if not (new := [other for other in shards_of(shard.source) if other.name == shard.name] if expired else []):
            raise
        error.close()
        answer = urlopen(Request(new[0].url, headers=headers), timeout=TIMEOUT)
    with answer:
        if answer.headers.get_content_type() == "text/html":  # before a part is given up for it
            raise DumpError(f"{shard} {NO_DUMP}")
        if answer.status != 200 and not (have and answer.status == 206):  # 202: still being prepared
            raise ConnectionError(0, f"HTTP {answer.status}")
        if answer.status == 206:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            same = place and int(place[1]) == have and known["size"] in (None, int(place[2]))
            if not same or _facts(answer.headers)["validator"] not in ("", known["validator"]):
                part.unlink()
                raise ConnectionError(0, "the file changed")
        else:  # the whole file: the first time, or the server knows no ranges, or the file changed
            known, have = _facts(answer.headers), 0
            part.write_bytes(b"")
            note.write_text(json.dumps(known))
        need, free = (known["size"] or 0) - have, shutil.disk_usage(part.parent).free
        if need + SPARE_BYTES > free:
            raise DumpError(f"{part.parent} has {free / 1e9:.2f} GB free, but {shard} needs {need / 1e9:.2f} GB more; make room.")
        with open(part, "ab") as file:
            while block := answer.read1(BLOCK_BYTES):
                file.write(block)
                have += len(block)
                on_bytes(len(block))
            file.flush()
            os.fsync(file.fileno())
    if known["size"] not in (None, have):
        raise ConnectionError(0, f"{have:,} of {known['size']:,} bytes came")
    return known["checksum"]


def _facts(headers) -> dict:
    """What an answer says of the file: "validator" for If-Range, "size" in bytes or None, "checksum" "md5:HEX" or ""."""
    etag, length, hashes = headers.get("ETag", ""), headers.get("Content-Length", ""), [f"md5={headers.get('Content-MD5', '')}"]
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":  # else Google unpacks it, but hashes what it stores
        hashes += headers.get_all("x-goog-hash", [])
    found = re.search(r"\bmd5=([A-Za-z\d+/]{22}==)", ",".join(hashes))
    md5 = base64.b64decode(found[1]).hex() if found else ""
    if headers.get("Server") == "AmazonS3" and headers.get("x-amz-server-side-encryption", "AES256") == "AES256":
        md5 = md5 or "".join(re.findall(r'^"([\da-f]{32})"$', etag))  # S3's ETag of a file sent in one part and under no other key
    validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")  # a weak ETag (W/...) may not stand in If-Range
    return {"validator": validator, "size": int(length) if length.isdigit() else None, "checksum": md5 and f"md5:{md5}"}


def _from_drive(shard: Shard, part: Path, on_bytes: Callable) -> str:
    import gdown  # here: only a file on Drive needs it

    try:  # gdown keeps what came as NAME.part*.part and goes on with it; 6 has no `fuzzy` any more
        done = gdown.download(id=shard.url.removeprefix("drive:"), output=str(part), use_cookies=False, resume=True)
    except OSError:  # the network's, requests' errors among them, or the disk's
        raise
    except Exception as error:  # gdown 6: DownloadError, 5: several kinds
        raise DumpError(drive_refusal(str(shard), " ".join(str(error).split())[:200])) from None
    if not done or not part.exists():  # gdown 5 returns None where 6 raises
        raise DumpError(drive_refusal(str(shard), "nothing was downloaded"))
    on_bytes(part.stat().st_size)
    return ""


def _check(shard: Shard, part: Path, checksum: str) -> None:
    """Raise DumpError, and delete `part`, where it is a web page or not what `checksum` says."""
    algorithm, _, expected = checksum.partition(":")
    with open(part, "rb") as file:
        wrong = NO_DUMP if WEB_PAGE.match(file.read(1000)) else ""
        file.seek(0)
        if not wrong and expected and (found := hashlib.file_digest(file, algorithm).hexdigest()) != expected:
            wrong = f"is damaged and was deleted: its {algorithm} is {found}, not {expected}; download it again."
    if wrong:
        part.unlink()
        Path(f"{part}.json").unlink(missing_ok=True)
        raise DumpError(f"{shard} {wrong}")
