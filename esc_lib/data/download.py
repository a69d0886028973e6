"""Downloads that resume where they were interrupted, and that are verified.

A file gets its final name only once it is complete and verified. Until then its bytes are beside it, in `<path>.part`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from esc_lib.arguments import as_path, check
from esc_lib.files import explain_write_errors, read_json
from esc_lib.progress import message_stream

if TYPE_CHECKING:  # imported late at run time: with the recordings at hand, neither is needed
    import requests
    import urllib3

CHUNK = 1 << 16  # bytes per read: at most this much is lost when a connection breaks
TIMEOUT = (10, 60)  # seconds to connect, seconds of silence while reading
SLOWEST = 5_000  # bytes a second, the mean over a minute: ESC-50 would take a day and a half
LONGEST_WAIT = 60  # seconds between two attempts
BUSY = (429, 500, 502, 503, 504)  # HTTP status codes that are worth another attempt
BY_HAND = "If this keeps happening, download the file by hand and pass it as `source=`."


class DownloadError(OSError):
    """A file could not be downloaded or is not the expected one; the message says what to do next."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    max_bytes: int = 10_000_000,
    retries: int = 5,
) -> Path:
    """Downloads `url` to `path`, resuming where an earlier attempt was interrupted.

    The bytes accumulate in `<path>.part`, across restarts too; `<path>.part.json` records the ETag of the version they
    belong to. If a resumed file is not the expected one, it is downloaded once more from the start. One process at a
    time: two would write to the same `.part`. Redirects are followed, but never from https to http; a password in
    `.netrc` is not sent.

    Args:
        url: address of the file.
        path: final file name; its folder is created if needed. An existing file is verified, not downloaded again.
        sha256, md5: expected hash as hex digits.
        size: expected size in bytes.
        max_bytes: upper limit for the size if none is expected.
        retries: number of further attempts after network errors and the status codes in `BUSY`: the first at once, the
            others after 2, 4, 8, ... seconds or as long as the server asks for, at most 60 s.

    Returns:
        `path`. The file has the given size and hashes.

    Raises:
        ValueError: an argument is not what it has to be.
        DownloadError: the server refuses, all attempts failed or it is too slow (the `.part` is kept), or the content
            is empty, too long or not the expected one (the `.part` is deleted).
        WriteError: the file cannot be written (the `.part` is kept).
    """
    for name, value in (("url", url), ("sha256", sha256 or ""), ("md5", md5 or "")):
        check(name, value, str)
    check("size", 1 if size is None else size, int, 1, 2**50)
    check("max_bytes", max_bytes, int, 1, 2**50)
    check("retries", retries, int, 0, 1000)
    path = as_path("path", path)
    part = Path(f"{path}.part")
    if path.exists():
        if problem := _problem(path, sha256, md5, size):
            raise DownloadError(f"{path} exists but {problem}: move it away or delete it, then try again.")
        return path
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    resumed = _fetch(url, part, size, max_bytes, retries)
    problem = _problem(part, sha256, md5, size)
    if problem and resumed:
        _discard(part)
        _fetch(url, part, size, max_bytes, retries)
        problem = _problem(part, sha256, md5, size)
    if problem:
        _discard(part)
        raise DownloadError(f"the file from {url} {problem}. It was deleted: try again. {BY_HAND}")
    with explain_write_errors(path):
        os.replace(part, path)
    _discard(part)  # only the JSON file is left
    return path


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """The hash of a file as lower-case hex digits; `algorithm` is a name that hashlib knows."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _problem(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str:
    """What is wrong with the file at `path`: "has ..., expected ...", or "" if nothing is."""
    if not path.is_file():
        return "is not a file"
    if path.stat().st_size == 0:
        return "is empty"
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, expected {size}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := file_hash(path, algorithm)) != expected.strip().lower():
            return f"has {algorithm} {found}, expected {expected}"
    return ""


def _fetch(url: str, part: Path, size: int | None, max_bytes: int, retries: int) -> bool:
    """Downloads into `part` until it is complete; returns whether it resumed an earlier attempt."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import HTTPError

    adapter = HTTPAdapter(max_retries=_retries(retries))  # for everything that fails before the body
    try:
        with _session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            while True:
                start, record = _resume_point(url, part)
                if start and start == record.get("total"):
                    return True  # an earlier run ended just before it was renamed
                headers = {"Accept-Encoding": "identity"}  # sizes and hashes are of the uncompressed file
                if start:
                    headers |= {"Range": f"bytes={start}-", "If-Range": record["etag"]}
                with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                    resumed = bool(start) and response.status_code in (206, 416)
                    if resumed and not _continues(response, start, record):
                        _discard(part)
                        continue  # once only: without a part, no range is requested
                    try:
                        _save(response, url, part, resumed, size, max_bytes)
                        return resumed
                    except HTTPError as error:  # the body was interrupted: that uses up a retry, too
                        left = response.raw.retries or adapter.max_retries
                        adapter.max_retries = left.increment("GET", url, error=error)
                        adapter.max_retries.sleep()
    except (requests.RequestException, HTTPError, ValueError) as error:  # the last: a redirect to no address
        reason = getattr(error, "reason", error)  # of the last attempt, if the retries ran out
        raise DownloadError(
            f"{url} could not be downloaded in up to {retries + 1} attempts: {reason}. Check the address. What has "
            f"arrived is kept in {part}: try again to resume. {BY_HAND}"
        ) from error


def _session() -> "requests.Session":
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, response: requests.Response) -> str | None:
            target = super().get_redirect_target(response)
            if target is not None:
                response.close()  # requests would read its body, which may be endless
            return target

        def rebuild_auth(self, request: requests.PreparedRequest, response: requests.Response) -> None:
            """Called for each redirect; requests itself would look for a password in .netrc once more."""
            if response.url.startswith("https:") and not str(request.url).startswith("https:"):
                raise DownloadError(f"{response.url} leads to {request.url}, which is not encrypted. {BY_HAND}")

    session = Session()
    session.auth = lambda request: request  # with none, requests would look for a password in .netrc
    return session


def _retries(total: int) -> "urllib3.Retry":
    import urllib3

    class Retry(urllib3.Retry):
        def increment(self, *args: Any, **options: Any) -> urllib3.Retry:  # type: ignore[override] # handed on
            if response := options.get("response"):
                response.close()  # urllib3 would read its body, which may be endless
            return super().increment(*args, **options)

        def get_retry_after(self, response: "urllib3.BaseHTTPResponse") -> float:
            """Seconds that the server asks for; 0, which means the usual wait, if none or nonsense."""
            try:
                return min(super().get_retry_after(response) or 0, LONGEST_WAIT)
            except urllib3.exceptions.InvalidHeader:
                return 0

    return Retry(total, status_forcelist=BUSY, backoff_factor=1, backoff_max=LONGEST_WAIT)


def _resume_point(url: str, part: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes of `part` to keep and the record of their version; (0, {}) if in doubt."""
    side = Path(f"{part}.json")
    if all(path.is_file() and not path.is_symlink() for path in (part, side)):  # nothing is appended through a link
        try:
            record = read_json(side, dict)
        except ValueError:
            record = {}  # truncated
        etag = record.get("etag")
        if record.get("url") == url and isinstance(etag, str) and re.fullmatch("[!-~][ -~]*", etag):
            return part.stat().st_size, record
    return 0, {}


def _discard(part: Path) -> None:
    """Deletes `part`, then its JSON file: in this order, no part is ever beside a later version's ETag."""
    with explain_write_errors(part):
        part.unlink(missing_ok=True)
        Path(f"{part}.json").unlink(missing_ok=True)


def _continues(response: "requests.Response", start: int, record: dict[str, Any]) -> bool:
    """Whether a response continues exactly where `part` ends, in the same version; a 416 never does."""
    if response.headers.get("ETag", record["etag"]) != record["etag"]:
        return False  # a server that ignores If-Range
    match = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and (match[1] == "*" or record.get("total") in (None, int(match[1])))


def _save(response: "requests.Response", url: str, part: Path, resumed: bool, size: int | None, max_bytes: int) -> None:
    """Checks a response (its body not read yet), then appends the body to `part` if `resumed`, else replaces `part`.

    Raises:
        DownloadError: it is not what was requested, and no file was touched; or it is too slow or too long.
        WriteError: `part` cannot be written.
        urllib3.exceptions.HTTPError: the body was interrupted.
    """
    from urllib3.exceptions import ProtocolError

    stated = response.headers.get("Content-Range" if resumed else "Content-Length", "").rpartition("/")[2]
    total = int(stated) if re.fullmatch("[0-9]{1,15}", stated) else size
    if refusal := _refusal(response, part.stem.lower(), 206 if resumed else 200, size, total, max_bytes):
        raise DownloadError(f"{url} {refusal}. {BY_HAND}")
    limit = max_bytes if total is None else total
    with explain_write_errors(part):  # network errors pass: urllib3 raises its own
        if not resumed:  # first request, another version, or the range was ignored
            _discard(part)
            etag = response.headers.get("ETag", "")  # a weak one (W/...) does not guarantee identical bytes
            record = {"url": url, "etag": "" if etag.startswith("W/") else etag, "total": total}
            with open(f"{part}.json", "x", encoding="utf-8") as side:  # x: never through a link
                json.dump(record, side)
        with open(part, "ab" if resumed else "xb") as file:
            progress = {"desc": part.stem, "initial": file.tell(), "unit": "B", "unit_scale": True, "leave": False}
            with tqdm.wrapattr(file, "write", total, file=message_stream(), bytes=False, **progress) as target:
                fast_enough = _copy(response, target.write, limit + 1 - file.tell())
            file.flush()
            os.fsync(file.fileno())
    if not fast_enough:
        raise DownloadError(
            f"{url} sends fewer than {SLOWEST} bytes a second. What has arrived is kept in {part}: try again later to "
            f"resume. {BY_HAND}"
        )
    if size is None and part.stat().st_size > limit:
        _discard(part)
        raise DownloadError(f"{url} sent more than {limit} bytes: it is not the file, or has no end. {BY_HAND}")
    if total is not None and part.stat().st_size < total:
        raise ProtocolError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _copy(response: "requests.Response", write: Callable[[bytes], object], most: int) -> bool:
    """Writes up to `most` bytes of a body, as sent; returns whether they came fast enough, and stops if not."""
    began, received = monotonic(), 0
    while most > 0 and (chunk := response.raw.read1(min(CHUNK, most))):  # what has arrived: `read` would wait for more
        write(chunk)
        most -= len(chunk)
        received += len(chunk)
        if (seconds := monotonic() - began) >= 60:
            if received < SLOWEST * seconds:
                return False
            began, received = monotonic(), 0
    return True


def _refusal(
    response: "requests.Response", name: str, good: int, size: int | None, total: int | None, max_bytes: int
) -> str:
    """Why the body cannot be (a part of) the file, such as a login page; "" if it can."""
    if response.status_code != good:
        return f"answered {response.status_code} {response.reason}: check the address"
    if "text/html" in response.headers.get("Content-Type", "").lower() and not name.endswith((".html", ".htm")):
        return f"sent an HTML page in place of {name}: open the address in a browser, it may ask you to log in"
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not name.endswith((".gz", ".tgz")):  # some servers label .tar.gz itself so
        return f"was sent with Content-Encoding {encoding}, not unchanged"
    if None not in (size, total) and size != total:
        return f"offers {total} bytes, expected {size}: the file there has changed, or this is an error page"
    if total == 0 or (size is None and total is not None and total > max_bytes):
        return f"offers {total} bytes, expected 1 to {max_bytes}: it is not the file"
    return ""
