"""Fetching a file: downloads that go on where they were cut off and are verified.

The final name appears only when what stands under it is complete and checked. Until then the bytes live beside it, in
`<path>.part`.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from esc_lib.files import explain_write_errors

if TYPE_CHECKING:  # at run time they are imported late: whoever has the recordings needs neither
    import requests
    import urllib3

CHUNK = 1 << 16  # bytes per read: at most this much is lost when a connection breaks
TIMEOUT = (10, 60)  # seconds to connect, seconds of silence while reading
LONGEST_WAIT = 60  # seconds between two attempts
BUSY = (429, 500, 502, 503, 504)  # the answers that are worth another attempt
BY_HAND = "If it stays so, fetch the file by hand and pass it as `source=`."


class DownloadError(OSError):
    """A file could not be fetched or is not the expected one; the message says what to do next."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    retries: int = 5,
) -> Path:
    """Fetches `url` to `path`, going on where an earlier attempt was cut off.

    The bytes collect in `<path>.part`, across restarts too; `<path>.part.json` keeps the ETag of the version they
    belong to. A resumed file that is not the expected one is fetched once more whole. One process at a time: two would
    write into the same `.part`.

    Args:
        path: final file name; its folder is made if need be. A file that is there is verified and not requested.
        sha256, md5: expected hash as hex digits.
        size: expected length in bytes.
        retries: how many attempts may follow the first, after network faults and the answers in `BUSY`: one at once,
            the others after 2, 4, 8, ... seconds or what the server asks for, at most 60.

    Returns:
        `path`. The file has the given size and hashes.

    Raises:
        DownloadError: the server refuses or the attempts are used up (the `.part` is kept), or the content is not the
            expected one (the `.part` is deleted).
        WriteError: the disk cannot be written (the `.part` is kept).
    """
    path, part = Path(path), Path(f"{path}.part")
    if path.exists():
        if problem := _problem(path, sha256, md5, size):
            raise DownloadError(f"{path} exists but {problem}: move it away or delete it, then call again.")
        return path
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    resumed = _fetch(url, part, size, retries)
    problem = _problem(part, sha256, md5, size)
    if problem and resumed:
        _discard(part)
        _fetch(url, part, size, retries)
        problem = _problem(part, sha256, md5, size)
    if problem:
        _discard(part)
        raise DownloadError(f"what arrived from {url} {problem}. It was deleted; call again. {BY_HAND}")
    with explain_write_errors(path):
        os.replace(part, path)
    _discard(part)  # only the side file is left
    return path


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """The hash of a file as lower-case hex digits; `algorithm` is a name that hashlib knows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _problem(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str:
    """What is wrong with the file at `path`: "has ..., expected ...", or "" when it is right."""
    if not path.is_file():
        return "is not a file"
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, expected {size}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := file_hash(path, algorithm)) != expected.strip().lower():
            return f"has {algorithm} {found}, expected {expected}"
    return ""


def _fetch(url: str, part: Path, size: int | None, retries: int) -> bool:
    """Brings `part` to its full length; returns whether its last bytes were added to earlier ones."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import HTTPError

    adapter = HTTPAdapter(max_retries=_retries(retries))  # for all that goes wrong before the body
    try:
        with requests.Session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            while True:
                start, record = _resume_point(url, part)
                if start and start == record.get("total"):
                    return True  # an earlier run ended just before the renaming
                headers = {"Accept-Encoding": "identity"}  # byte counts and hashes are those of the plain file
                if start:
                    headers |= {"Range": f"bytes={start}-", "If-Range": record["etag"]}
                with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                    resumed = bool(start) and response.status_code in (206, 416)
                    if resumed and not _continues(response, start, record):
                        _discard(part)
                        continue  # once: without a part no Range is asked for
                    try:
                        _save(response, url, part, resumed, size)
                        return resumed
                    except HTTPError as error:  # the body broke off: the same count goes on
                        left = response.raw.retries or adapter.max_retries
                        adapter.max_retries = left.increment("GET", url, error=error)
                        adapter.max_retries.sleep()
    except (requests.RequestException, HTTPError) as error:
        reason = getattr(error, "reason", error)  # what the count that ran out says of the last attempt
        raise DownloadError(
            f"{url} could not be fetched in up to {retries + 1} attempts: {reason}. Check the address; what has "
            f"arrived is kept in {part}: call again to go on. {BY_HAND}"
        ) from error


def _retries(total: int) -> "urllib3.Retry":
    import urllib3

    class Retry(urllib3.Retry):
        def get_retry_after(self, response: "urllib3.BaseHTTPResponse") -> float:
            """Seconds that the server asks for; 0, for the usual wait, where it asks for none or nonsense."""
            try:
                return min(super().get_retry_after(response) or 0, LONGEST_WAIT)
            except urllib3.exceptions.InvalidHeader:
                return 0

    return Retry(total, status_forcelist=BUSY, backoff_factor=1, backoff_max=LONGEST_WAIT)


def _resume_point(url: str, part: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes of `part` to keep and the record of their version, or (0, {}) if that is not certain."""
    try:
        record = json.loads(Path(f"{part}.json").read_text(encoding="utf-8"))
        if record["url"] == url and record["etag"]:
            return part.stat().st_size, record
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no part, no side file, or one that was cut off itself
    return 0, {}


def _discard(part: Path) -> None:
    """Deletes `part`, then its side file: in this order no part ever stands beside a later version's ETag."""
    with explain_write_errors(part):
        part.unlink(missing_ok=True)
        Path(f"{part}.json").unlink(missing_ok=True)


def _continues(response: "requests.Response", start: int, record: dict[str, Any]) -> bool:
    """Whether an answer goes on exactly where `part` ends, in the same version; a 416 never does."""
    if response.headers.get("ETag", record["etag"]) != record["etag"]:
        return False  # a server that does not know If-Range
    match = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and (match[1] == "*" or record.get("total") in (None, int(match[1])))


def _save(response: "requests.Response", url: str, part: Path, resumed: bool, size: int | None) -> None:
    """Checks an answer, then appends its body to `part`, or replaces `part` if it is the whole file.

    Raises:
        DownloadError: it is not what was asked for; nothing on the disk was touched.
        urllib3.exceptions.HTTPError: the body broke off.
    """
    from urllib3.exceptions import ProtocolError

    stated = response.headers.get("Content-Range" if resumed else "Content-Length", "").rpartition("/")[2]
    total = int(stated) if stated.isdecimal() else size
    if refusal := _refusal(response, part.stem.lower(), 206 if resumed else 200, size, total):
        raise DownloadError(f"{url} {refusal}. {BY_HAND}")
    with explain_write_errors(part):  # it leaves those of the network alone, which urllib3 makes its own
        if not resumed:  # the first request, another version, or Range ignored
            _discard(part)
            etag = response.headers.get("ETag", "")  # a weak one (W/...) does not promise equal bytes
            record = {"url": url, "etag": "" if etag.startswith("W/") else etag, "total": total}
            Path(f"{part}.json").write_text(json.dumps(record), encoding="utf-8")
        with open(part, "ab") as file:
            progress = {"desc": part.stem, "initial": file.tell(), "unit": "B", "unit_scale": True, "leave": False}
            with tqdm.wrapattr(file, "write", total, bytes=False, **progress) as target:
                shutil.copyfileobj(response.raw, target, CHUNK)  # as sent: nothing is decoded
            file.flush()
            os.fsync(file.fileno())
    if total is not None and part.stat().st_size < total:
        raise ProtocolError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _refusal(response: "requests.Response", name: str, good: int, size: int | None, total: int | None) -> str:
    """Why the body is not (a piece of) the file, such as the login page of a network; "" if it may be."""
    if response.status_code != good:
        return f"answered {response.status_code} {response.reason}: check the address"
    if "text/html" in response.headers.get("Content-Type", "").lower() and not name.endswith((".html", ".htm")):
        return f"sent an HTML page in place of {name}: open it in a browser, it may ask you to log in"
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not name.endswith((".gz", ".tgz")):  # some servers label .tar.gz itself so
        return f"was sent with Content-Encoding {encoding}, not as it is"
    if None not in (size, total) and size != total:
        return f"offers {total} bytes, expected {size}: the file there has changed, or this is an error page"
    return ""
