"""Fetching a file: downloads that go on where they were cut off and are verified.

The final name appears only when what stands under it is complete and checked. Until then the bytes live
beside it, in `<path>.part`.
"""

import hashlib
import json
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

CHUNK = 1 << 16  # bytes per read: at most this much is lost when a connection breaks
TIMEOUT = (10, 60)  # seconds to connect, seconds of silence while reading
LONGEST_WAIT = 60  # seconds between two attempts
BY_HAND = "If it stays so, fetch the file by hand and pass it as `source=`."

# Worth another attempt. urllib3's own errors come from reading the body, requests' from all before it.
TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.HTTPError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


class DownloadError(OSError):
    """A file could not be fetched or is not the expected one; the message says what to do next."""


def download(
    url: str,
    path: str | Path,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    retries: int = 5,
) -> Path:
    """Fetch `url` to `path`, going on where an earlier attempt was cut off.

    The bytes collect in `<path>.part`, across restarts too; `<path>.part.json` keeps the ETag of the
    version they belong to. One process at a time: two would write into the same `.part`.

    Args:
        url: http(s) address.
        path: final file name (str or Path); its folder is made if need be. A file that is there already
            is verified and returned without any request.
        sha256, md5: expected hash as hex digits, or None.
        size: expected length in bytes, or None.
        retries: how many further attempts follow the first one (network faults, 429 and 5xx only).

    Returns:
        `path` as a Path. The file has the given size and hashes.

    Raises:
        DownloadError: the server refuses, the attempts are used up, the disk cannot be written (the
            `.part` is kept), or the content is not the expected one (the `.part` is deleted).
    """
    path, part = Path(path), Path(f"{path}.part")
    if path.exists():
        if problem := _problem(path, sha256, md5, size):
            raise DownloadError(
                f"{path} exists but {problem}. It was left as it is: move it away or delete it, then call again."
            )
        return path
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _fetch(url, part, size, retries)
    if problem := _problem(part, sha256, md5, size):
        _discard(part)
        raise DownloadError(f"what arrived from {url} {problem}. It was deleted; call again. {BY_HAND}")
    with _disk_errors(path):
        os.replace(part, path)
    _discard(part)  # only the side file is left
    return path


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file as lower-case hex digits.

    Args:
        path: the file (str or Path).
        algorithm: a name that hashlib knows, such as "sha256" or "md5".
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _problem(path, sha256, md5, size):
    """Say what is wrong with the file at `path`: "has ..., expected ...", or "" when it is right."""
    if not path.is_file():
        return "is not a file"
    if size is not None and path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, expected {size}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := file_hash(path, algorithm)) != expected.strip().lower():
            return f"has {algorithm} {found}, expected {expected}"
    return ""


def _fetch(url, part, size, retries):
    """Bring `part` to its full length, with up to `retries` further attempts after the first."""
    for attempt in range(retries + 1):
        try:
            return _request(url, part, size)
        except TRANSIENT as error:
            if attempt == retries:
                raise DownloadError(
                    f"{url} could not be fetched in {attempt + 1} attempts: {error}. What has arrived "
                    f"is kept in {part}: call again to go on. {BY_HAND}"
                ) from error
            time.sleep(_delay(attempt, error))
        except requests.RequestException as error:
            raise DownloadError(f"{url} cannot be requested: {error}. Check the address.") from error


def _delay(attempt, error):
    """Seconds to wait after attempt 0, 1, ...: what the server asks for if that is short, else 1, 2, 4, ..."""
    response = getattr(error, "response", None)  # an error response is falsy: compare with None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    if re.fullmatch("[0-9]{1,3}", asked) and int(asked) <= LONGEST_WAIT:
        return int(asked)
    return min(2**attempt, LONGEST_WAIT)


def _request(url, part, size):
    """Make one request and write its body; returns when `part` is complete, raises otherwise."""
    start, record = _resume_point(url, part)
    headers = {"Accept-Encoding": "identity"}  # byte counts and hashes are those of the plain file
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": record["etag"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code in (206, 416) and not _continues(response, start, record):
            _discard(part)
            return _request(url, part, size)  # once: without a part no Range is asked for
        if start and response.status_code == 416:
            return None  # nothing is left to fetch: an earlier run ended just before the renaming
        _check_response(response, url, part, (200, 206) if start else (200,))
        total = _total_bytes(response)
        if None not in (size, total) and size != total:
            raise DownloadError(
                f"{url} offers {total} bytes, expected {size}. The file there has changed, or this "
                f"is an error page. {BY_HAND}"
            )
        if response.status_code == 200:  # the whole file: the first request, another version, or Range ignored
            _discard(part)
            _write_record(part, url, response.headers.get("ETag", ""), total)
        return _save(response, part, size if total is None else total)


def _resume_point(url, part):
    """Return (bytes of `part` to keep, record of their version), or (0, {}) if that is not certain."""
    try:
        record = json.loads(Path(f"{part}.json").read_text(encoding="utf-8"))
        if record["url"] == url and record["etag"]:
            return part.stat().st_size, record
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no part, no side file, or one that was cut off itself
    return 0, {}


def _write_record(part, url, etag, total):
    """Note which version of the file `part` holds; a weak ETag (W/...) does not promise equal bytes."""
    record = {"url": url, "etag": "" if etag.startswith("W/") else etag, "total": total}
    with _disk_errors(part):
        Path(f"{part}.json").write_text(json.dumps(record), encoding="utf-8")


def _discard(part):
    """Delete `part`, then its side file: in this order no part ever stands beside a later version's ETag."""
    with _disk_errors(part):
        part.unlink(missing_ok=True)
        Path(f"{part}.json").unlink(missing_ok=True)


def _content_range(response):
    """Read `Content-Range` as (first byte, total bytes); None for what it does not say."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    first, total = match.groups() if match else (None, None)
    return first and int(first), None if total in (None, "*") else int(total)


def _continues(response, start, record):
    """Whether a 206 goes on exactly where `part` ends, or a 416 says that it ends there."""
    (first, total), known = _content_range(response), record.get("total")
    if response.headers.get("ETag", record["etag"]) != record["etag"]:
        return False  # a server that does not know If-Range
    if response.status_code == 416:
        return total == start
    return first == start and (None in (total, known) or total == known)


def _total_bytes(response):
    """Length of the whole file as the server states it, or None."""
    if response.status_code == 206:
        return _content_range(response)[1]
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check_response(response, url, part, good):
    """Raise unless the body is (a piece of) the file; before this, nothing on disk is touched."""
    status = f"{response.status_code} {response.reason}"
    if response.status_code == 429 or response.status_code >= 500:
        raise requests.HTTPError(f"the server answered {status}", response=response)
    if response.status_code not in good:
        raise DownloadError(f"{url}: the server answered {status}. Check the address. {BY_HAND}")
    _check_content(response, url, part.stem.lower())


def _check_content(response, url, name):
    """Refuse a web page in the file's place (such as the login page of a network) and a packed body."""
    if "text/html" in response.headers.get("Content-Type", "").lower() and not name.endswith((".html", ".htm")):
        raise DownloadError(
            f"{url} sent an HTML page in place of {name}. Open the address in a browser: a login or "
            f"error page may stand before it. {BY_HAND}"
        )
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity" and not name.endswith((".gz", ".tgz")):  # some servers label .tar.gz itself so
        raise DownloadError(f"{url} was sent with Content-Encoding {encoding}, not as it is. {BY_HAND}")


def _save(response, part, total):
    """Append the body to `part`; a body shorter than `total` bytes is an error that is worth a retry."""
    with (
        _disk_errors(part),
        open(part, "ab") as file,
        tqdm(desc=part.stem, initial=file.tell(), total=total, unit="B", unit_scale=True, leave=False) as bar,
    ):
        # Reading the raw body: requests' iter_content would decode it, and loses up to a chunk when cut off.
        while chunk := response.raw.read(CHUNK, decode_content=False):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and part.stat().st_size < total:
        raise requests.ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


@contextmanager
def _disk_errors(path):
    """Turn an OSError into a DownloadError, which is not retried: waiting does not empty a disk."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror or error}. Free space or choose another "
            "folder, then call again; what has arrived is kept."
        ) from error
