"""Downloads against a real server on this machine that misbehaves to order."""

import errno
import importlib
import io
import json
import os
import random
import re
import socket
import struct
import threading
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import urllib3
from disk import largest_file
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from esc_lib.data.download import DownloadError, download
from esc_lib.files import WriteError

module = importlib.import_module("esc_lib.data.download")

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = sha256(BODY).hexdigest()
MD5 = md5(BODY).hexdigest()
CUT = 100_001  # bytes that arrive before the line breaks: no multiple of any buffer
FROM_CUT = f"bytes={CUT}-"
LONG = BODY + b"more"


# --- a server with one planned answer per request ---


def answer(
    status=None, body=BODY, etag='"v1"', cut=None, ranges=True, if_range=True, reset=False, stall=False, **extra
):
    """Plan one answer. Without `status` it is 200 or 206, as the Range and If-Range headers ask.

    `cut`: bytes after which the connection closes (`reset`: with a TCP reset, `stall`: after a long silence).
    `extra`: headers that replace the right ones (underscores for hyphens); None leaves one out.
    """

    def reply(handler):
        start, code = 0, status or 200
        match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if ranges and not status and match and (not if_range or handler.headers.get("If-Range") == etag):
            start, code = int(match[1]), 206
        headers = {"ETag": etag, "Content-Type": "application/octet-stream", "Content-Length": len(body) - start}
        if code == 206:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if code == 206 and not status and start >= len(body):
            code, start = 416, len(body)
            headers |= {"Content-Length": 0, "Content-Range": f"bytes */{len(body)}"}
        headers |= {key.replace("_", "-"): value for key, value in extra.items()}
        handler.send_response(code)
        for key, value in headers.items():
            if value is not None:
                handler.send_header(key, str(value))
        handler.end_headers()
        handler.wfile.write(body[start:] if cut is None else body[start : start + cut])
        if stall and not handler.server.next_request.wait(30):
            handler.server.plan.insert(0, answer(404))  # nobody ran out of patience
        if reset:
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()

    return reply


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(dict(self.headers))
        if len(self.server.seen) > 1:
            self.server.next_request.set()
        plan = self.server.plan
        (plan.pop(0) if plan else answer())(self)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The server: `plan` (answers to come, then right ones), `seen` (request headers), `url`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.plan, http.seen, http.next_request = [], [], threading.Event()
        http.handle_error = lambda *_: None  # broken pipes are the point here
        http.url = f"http://127.0.0.1:{http.server_port}/files/data.bin"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.next_request.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.bin"


@pytest.fixture(autouse=True)
def delays(monkeypatch):
    """Record the waiting times and do not wait."""
    record = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", record.append)
    return record


def part_of(path):
    return path.with_name(path.name + ".part")


def side_of(path):
    return path.with_name(path.name + ".part.json")


def ranges_of(server):
    return [headers.get("Range") for headers in server.seen]


def refused(server, path, match, error=DownloadError, **options):
    """Call download, which must raise and not take the final name; returns the message."""
    with pytest.raises(error, match=match) as caught:
        download(server.url, path, **options)
    assert not path.exists()
    return str(caught.value)


def assert_complete(path, body=BODY):
    assert path.read_bytes() == body
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]  # no .part, no side file


def interrupted(server, path, **options):
    """Leave a .part of CUT bytes, as a first run that was cut off does."""
    server.plan.insert(0, answer(cut=CUT, **options))
    refused(server, path, "1 attempts", retries=0)
    assert part_of(path).read_bytes() == BODY[:CUT]
    server.seen.clear()


# --- what goes well ---


def test_fetches_verifies_and_makes_the_folder(server, tmp_path, delays, capsys):
    path = tmp_path / "a" / "b" / "data.bin"
    assert download(server.url, str(path), sha256=SHA256.upper(), md5=MD5, size=len(BODY)) == path
    assert_complete(path)
    assert delays == [] and len(server.seen) == 1
    assert server.seen[0]["Accept-Encoding"] == "identity"
    assert "Range" not in server.seen[0] and "If-Range" not in server.seen[0]
    out, err = capsys.readouterr()
    assert out == "" and path.name in err


def test_synced_before_the_final_name_appears(server, path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(module.os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    download(server.url, path, sha256=SHA256)
    assert events == ["fsync", "replace"]


# --- a file that is there already ---


@pytest.mark.parametrize("expected", [{}, {"sha256": SHA256}, {"md5": MD5}, {"size": len(BODY)}])
def test_existing_file_is_verified_and_not_requested(server, path, expected):
    path.write_bytes(BODY)
    assert download(server.url, path, **expected) == path
    if expected:
        path.write_bytes(b"mine")
        with pytest.raises(DownloadError, match="move it away or delete it") as error:
            download(server.url, path, **expected)
        assert str(path) in str(error.value) and str(*expected.values()) in str(error.value)
        assert path.read_bytes() == b"mine"
    path.unlink()
    path.mkdir()
    with pytest.raises(DownloadError, match="is not a file"):
        download(server.url, path, **expected)
    assert server.seen == []


# --- broken connections ---


def test_resumes_from_the_byte_that_arrived(server, path, delays):
    server.plan = [answer(cut=CUT), answer(cut=50_000), answer(cut=1000)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [None, *(f"bytes={CUT + more}-" for more in (0, 50_000, 51_000))]
    assert [headers.get("If-Range") for headers in server.seen] == [None, '"v1"', '"v1"', '"v1"']
    assert delays == [2, 4]  # the first time at once


def test_resumes_after_a_restart(server, path, capsys):
    interrupted(server, path)
    capsys.readouterr()
    assert json.loads(side_of(path).read_text(encoding="utf-8"))["url"] == server.url
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [FROM_CUT] and server.seen[0]["If-Range"] == '"v1"'
    assert "100k/300k" in capsys.readouterr().err  # the bar begins where the part ends


def test_connection_reset(server, path, monkeypatch):
    sizes = []
    monkeypatch.setattr(urllib3.Retry, "sleep", lambda *_: sizes.append(part_of(path).stat().st_size))
    server.plan = [answer(cut=CUT, reset=True)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert len(sizes) == 1 and ranges_of(server)[1:] == [f"bytes={sizes[0]}-" if sizes[0] else None]


def test_silence_times_out(server, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (10, 1))
    server.plan = [answer(cut=CUT, stall=True)]
    download(server.url, path, sha256=SHA256, retries=20)  # many: on a busy machine more than one may run out
    assert_complete(path)
    assert len(server.seen) > 1


def test_lying_content_length(server, path):
    """More is announced than ever comes: requests alone would take the short body for the file."""
    server.plan = [answer(Content_Length=len(BODY) + 7)]
    refused(server, path, "1 attempts.*300000", retries=0)
    assert part_of(path).read_bytes() == BODY
    download(server.url, path)  # the 416 that follows fits nothing: all is fetched anew
    assert_complete(path)


def test_short_body_counts_as_cut(server, path):
    capped = answer(cut=1000, Content_Length=1000)  # shorter than its Content-Range
    server.plan = [answer(cut=CUT, Content_Length=None), capped]
    download(server.url, path, size=len(BODY))
    assert_complete(path)
    assert ranges_of(server) == [None, FROM_CUT, f"bytes={CUT + 1000}-"]


@pytest.mark.parametrize("first", [{"cut": 10}, {"status": 503, "body": b""}], ids=["cut", "busy"])
def test_attempts_are_counted(server, path, delays, first):
    """One count for what goes wrong before the body and in it."""
    server.plan = [answer(**first), *(answer(cut=10) for _ in range(8))]
    message = refused(server, path, "3 attempts.*10 bytes read", retries=2)
    assert server.url in message and str(part_of(path)) in message and "source=" in message
    assert len(server.seen) == 3 and delays == [2]
    assert part_of(path).read_bytes() == BODY[: 30 if "cut" in first else 20]


def test_no_server_and_no_address(path, delays):
    with pytest.raises(DownloadError, match="Check the address"):
        download("no-such-scheme://x/y", path)
    assert delays == []
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="3 attempts"):
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/x", path, retries=2)
    assert delays == [2]


# --- resuming must never mix two files ---


def test_changed_etag_starts_over_and_is_resumed_in_turn(server, path):
    interrupted(server, path)
    server.plan = [answer(body=OTHER, etag='"v2"', cut=50), answer(body=OTHER, etag='"v2"')]
    download(server.url, path)
    assert_complete(path, OTHER)
    assert ranges_of(server) == [FROM_CUT, "bytes=50-"]
    assert [headers["If-Range"] for headers in server.seen] == ['"v1"', '"v2"']


LONGER = answer(body=LONG, Content_Range=f"bytes {CUT}-9/*")
RESUMING = {  # what stands in the .part, the answer to the next request, hash or size, which ranges are requested
    "right": (BODY[:CUT], answer(), {}, [FROM_CUT]),  # no hash: the bytes must be right all the same
    "unknown total": (BODY[:CUT], answer(Content_Range=f"bytes {CUT}-299999/*"), {}, [FROM_CUT]),
    "Range ignored": (BODY[:CUT], answer(ranges=False), {}, [FROM_CUT]),
    "If-Range unknown": (BODY[:CUT], answer(body=OTHER, etag='"v2"', if_range=False), {}, [FROM_CUT, None]),
    "starts elsewhere": (BODY[:CUT], answer(Content_Range=f"bytes {CUT - 1}-299999/300000"), {}, [FROM_CUT, None]),
    "other total": (BODY[:CUT], answer(Content_Range=f"bytes {CUT}-299999/300001"), {}, [FROM_CUT, None]),
    "no Content-Range": (BODY[:CUT], answer(Content_Range=None), {}, [FROM_CUT, None]),
    "nonsense": (BODY[:CUT], answer(Content_Range="lines 1-2/3"), {}, [FROM_CUT, None]),
    "416": (BODY[:CUT], answer(416, body=b""), {}, [FROM_CUT, None]),
    "too long": (LONG, answer(), {}, ["bytes=300004-", None]),
    "complete": (BODY, answer(404), {"sha256": SHA256}, []),  # cut off before the renaming
    "complete, wrong": (OTHER, answer(), {"sha256": SHA256}, [None]),
    "wrong sha256": (OTHER[:CUT], answer(), {"sha256": SHA256}, [FROM_CUT, None]),
    "wrong md5": (OTHER[:CUT], answer(), {"md5": MD5}, [FROM_CUT, None]),
    "wrong size": (BODY[:CUT], LONGER, {"size": 300_000}, [FROM_CUT, None]),
}


@pytest.mark.parametrize(("part", "plan", "expected", "asked"), RESUMING.values(), ids=RESUMING)
def test_resumed_file_is_complete_and_of_one_version(server, path, delays, part, plan, expected, asked):
    interrupted(server, path)
    part_of(path).write_bytes(part)
    server.plan = [plan]
    download(server.url, path, **expected)
    assert_complete(path)
    assert ranges_of(server) == asked and delays == []


@pytest.mark.parametrize("cut", [None, CUT])  # resumed or not, the second time is the last
def test_resumed_file_that_is_wrong_twice(server, path, cut):
    interrupted(server, path)
    server.plan = [answer(), answer(cut=cut)]
    message = refused(server, path, "source=", sha256=MD5)
    assert SHA256 in message and MD5 in message
    assert ranges_of(server) == [FROM_CUT, None, FROM_CUT][: 3 if cut else 2]
    assert list(path.parent.iterdir()) == []


RECORDS = [None, "", '{"url":', "[1]", '{"url": 1}', '{"url": "http://another", "etag": "e"}']


@pytest.mark.parametrize(
    ("etag", "record"), [('W/"v1"', "kept"), (None, "kept"), *(('"v1"', record) for record in RECORDS)]
)
def test_without_strong_etag_or_usable_side_file_starts_over(server, path, etag, record):
    interrupted(server, path, etag=etag)
    if record is None:
        side_of(path).unlink()
    elif record != "kept":
        side_of(path).write_text(record, encoding="utf-8")
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None]


# --- answers of the server ---


PAGE = {"body": b"<html>log in</html>", "Content_Type": "Text/HTML; charset=utf-8"}
REFUSED = {
    **{str(code): (answer(code), f"answered {code}", {}) for code in (400, 401, 403, 404, 410, 416, 501, 204, 206)},
    "html": (answer(**PAGE), "HTML page in place of data.bin", {}),
    "packed": (answer(Content_Encoding="gzip"), "Content-Encoding gzip", {}),
    "size": (answer(), "offers 300000 bytes, expected 299999", {"size": 299_999}),
    "size, unstated": (answer(Content_Length=None), "has 300000 bytes, expected 299999", {"size": 299_999}),
    "sha256": (answer(body=OTHER), f"{sha256(OTHER).hexdigest()}, expected {SHA256}", {"sha256": SHA256}),
    "md5": (answer(body=OTHER), f"{md5(OTHER).hexdigest()}, expected {MD5}", {"md5": MD5}),
}


@pytest.mark.parametrize(("plan", "match", "expected"), REFUSED.values(), ids=REFUSED)
def test_refusal_is_not_repeated(server, path, delays, plan, match, expected):
    server.plan = [plan]
    message = refused(server, path, match, **expected)
    assert server.url in message and "source=" in message
    assert len(server.seen) == 1 and delays == [] and list(path.parent.iterdir()) == []


@pytest.mark.parametrize("plan", [answer(404, body=b""), answer(**PAGE, etag='"page"')], ids=["404", "html"])
def test_refusal_keeps_the_part(server, path, plan):
    interrupted(server, path)
    server.plan = [plan]
    refused(server, path, "404|HTML page")
    assert part_of(path).read_bytes() == BODY[:CUT]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [FROM_CUT] * 2


def test_what_is_unusual_but_right(server, path):
    server.plan = [answer(**PAGE), answer(Content_Encoding="gzip"), answer(Content_Length=None)]
    assert download(server.url, path.with_name("page.html")).read_bytes() == PAGE["body"]
    assert download(server.url, path.with_name("data.tar.gz")).read_bytes() == BODY  # as sent, not decoded
    assert download(server.url, path).read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_busy_server_is_asked_again(server, path, delays, status):
    server.plan = [answer(status, body=b"busy"), answer(status, body=b"busy")]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert delays == [2] and len(server.seen) == 3


def test_retry_after(server, path, delays):
    waits = ["7", "0", "61", "86400", "Wed, 21 Oct 2099 07:28:00 GMT", "-3", None]
    server.plan = [answer(503, body=b"", Retry_After=wait) for wait in waits]
    refused(server, path, "7 attempts.*503", retries=6)
    assert delays == [7, 2, 60, 60, 60, 32]  # never more than a minute, and without a time the usual one
    server.plan = [answer(503, body=b"") for _ in range(8)]
    delays.clear()
    download(server.url, path, retries=8)
    assert delays == [2, 4, 8, 16, 32, 60, 60]


# --- servers that never end, or send one elsewhere ---


def endless(status=200, **headers):
    """An answer whose body has no end."""

    def reply(handler):
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n" if "Transfer_Encoding" in headers else bytes(1 << 16)
        while True:  # until the other side closes the connection
            handler.wfile.write(piece)

    return reply


CHUNKED = {"Transfer_Encoding": "chunked"}


@pytest.mark.parametrize(
    "headers", [{}, CHUNKED, {**CHUNKED, "Content_Length": "1000"}], ids=["plain", "chunks", "both"]
)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 1_000_000}, "has 1000001 bytes, expected 1000000"),
        ({"max_bytes": 1_000_000}, "sent more than 1000000 bytes: it is not the file, or has no end"),
    ],
    ids=["size", "limit"],
)
def test_endless_body(server, path, headers, options, match):
    server.plan = [endless(**headers)]
    if "Content_Length" in headers:  # which does not count for a chunked body, but is all that was said of its size
        match = match.replace("1000000 bytes:", "1000 bytes:").replace("has 1000001 bytes", "offers 1000 bytes")
    with largest_file(1_100_000):
        refused(server, path, match, **options)
    assert list(path.parent.iterdir()) == [] and len(server.seen) == 1


def test_endless_body_of_a_resumed_file(server, path):
    interrupted(server, path)
    server.plan = [endless(206, ETag='"v1"', Content_Range=f"bytes {CUT}-299999/300000")]
    refused(server, path, "sent more than 300000 bytes")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("plan", [endless(302, Location="/files/data.bin"), endless(503)], ids=["redirect", "busy"])
def test_endless_body_that_is_not_wanted(server, path, plan):
    server.plan = [plan]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert len(server.seen) == 2


def test_more_is_offered_than_the_limit(server, path):
    refused(server, path, "offers 300000 bytes, expected 1 to 299999", max_bytes=299_999)
    assert list(path.parent.iterdir()) == []
    download(server.url, path, max_bytes=300_000)


@pytest.mark.parametrize("length", [0, None])
def test_empty_file(server, path, length):
    server.plan = [answer(body=b"", Content_Length=length)]
    refused(server, path, "is empty" if length is None else "offers 0 bytes")
    assert list(path.parent.iterdir()) == []
    path.touch()
    with pytest.raises(DownloadError, match=r"data\.bin exists but is empty: move it away or delete it"):
        download(server.url, path)


RATES = {  # (seconds of waiting, bytes that then arrive), and whether that is fast enough
    "a byte a minute": ([(59, 1)] * 9, False),
    "fast at first": ([(1, 10**6), (60, 1), (60, 1)], False),
    "just too slow": ([(1, 4999)] * 61, False),
    "just fast enough": ([(1, 5000)] * 200, True),
    "a pause": ([(1, 10**6), (59, 10**6)] * 9, True),
    "a short file": ([(50, 1)], True),
}


@pytest.mark.parametrize(("arrivals", "fast_enough"), RATES.values(), ids=RATES)
def test_mean_rate_over_a_minute(monkeypatch, arrivals, fast_enough):
    now, bodies = [0.0], iter(arrivals)

    def read1(most):
        seconds, number = next(bodies, (0, 0))
        now[0] += seconds
        return bytes(number)

    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    response, written = SimpleNamespace(raw=SimpleNamespace(read1=read1)), []
    assert module._copy(response, written.append, 10**9) is fast_enough
    if not fast_enough:
        assert now[0] < 150  # seconds: no later than in the second minute


def test_too_slow_a_server_is_left_and_the_part_is_kept(server, path, monkeypatch, delays):
    clock = iter(range(0, 10**6, 61))  # seconds: a minute passes whenever something arrives
    with monkeypatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: next(clock))
        message = refused(server, path, "sends fewer than 5000 bytes a second")
    assert len(server.seen) == 1 and delays == [] and str(part_of(path)) in message
    have = part_of(path).stat().st_size
    assert 0 < have <= module.CHUNK and part_of(path).read_bytes() == BODY[:have]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [None, f"bytes={have}-"]


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
@pytest.mark.parametrize("hops", [1, 2])
def test_https_never_leads_to_http(server, path, monkeypatch, scheme, hops):
    """A server with a certificate is not at hand: its answers are made here."""
    targets = [*["https://there.example/file"] * (hops - 1), server.url.replace("http", scheme, 1)]

    def send(adapter, request, **_):
        headers = {"Location": targets.pop(0)}
        return adapter.build_response(request, urllib3.HTTPResponse(io.BytesIO(), headers, 302, preload_content=False))

    monkeypatch.setattr(HTTPAdapter, "send", send)
    with pytest.raises(DownloadError, match="leads to .*, which is not encrypted"):
        download("https://here.example/file", path)
    assert server.seen == [] and targets == [] and list(path.parent.iterdir()) == []


def test_redirects_are_followed_without_a_password(server, path, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/netrc").write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "home/netrc"))
    server.plan = [answer(302, body=b"", Location=server.url), answer(cut=CUT)]
    download(server.url, path, sha256=SHA256)
    assert len(server.seen) == 3 and not any("Authorization" in headers for headers in server.seen)


def test_proxies_of_the_environment_are_used(server, path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    download("http://nowhere.invalid/file", path, sha256=SHA256)
    assert [headers["Host"] for headers in server.seen] == ["nowhere.invalid"]


# --- links and arguments ---


@pytest.mark.parametrize("place", [part_of, side_of])
@pytest.mark.parametrize("record", ["right", "none"])
def test_links_are_replaced_and_not_followed(server, path, tmp_path, place, record):
    interrupted(server, path)
    (tmp_path / "home").mkdir()
    victim = place(path).rename(tmp_path / "home/victim")
    before = victim.read_bytes()
    if record == "none":
        part_of(path).unlink(missing_ok=True)
    place(path).symlink_to(victim)
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY and victim.read_bytes() == before
    assert ranges_of(server) == [None] and sorted(item.name for item in tmp_path.iterdir()) == ["data.bin", "home"]


@pytest.mark.parametrize("etag", [5, ["v1"], "", "a\r\nX: 1", "\u00e9", None, {}])
def test_record_with_an_impossible_etag(server, path, etag):
    interrupted(server, path)
    side_of(path).write_text(json.dumps({"url": server.url, "etag": etag}), encoding="utf-8")
    download(server.url, path, sha256=SHA256)
    assert ranges_of(server) == [None]


BAD_ARGUMENTS = [
    *(("url", value) for value in (None, 3, b"http://x", ["x"])),
    *(("path", value) for value in (None, 3, "", "a\0b", b"x", "x" * 5000)),
    *(("sha256", value) for value in (5, b"00")),
    *(("md5", value) for value in (5, b"00")),
    *((name, value) for name in ("size", "max_bytes") for value in (0, -1, "5", 1.5, True, 10**30)),
    *(("retries", value) for value in (-1, None, "5", 1.5, 10**9)),
]


@pytest.mark.parametrize(("name", "value"), BAD_ARGUMENTS, ids=[f"{n} {v!r:.12}" for n, v in BAD_ARGUMENTS])
def test_impossible_arguments_are_named(server, path, name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        download(**{"url": server.url, "path": path, name: value})
    assert server.seen == [] and list(path.parent.iterdir()) == []


# --- disks and interruptions ---


def test_full_disk_is_not_repeated_and_keeps_the_part(server, path, delays):
    with largest_file(150_000):
        message = refused(server, path, "cannot be written", WriteError)
    assert str(part_of(path)) in message and os.strerror(errno.EFBIG) in message
    assert len(server.seen) == 1 and delays == []
    assert part_of(path).read_bytes() == BODY[:150_000]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None, "bytes=150000-"]


@pytest.mark.parametrize("place", ["the sync", "opening", "renaming"])
def test_disk_error_is_not_repeated(server, path, delays, monkeypatch, place):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = {"the sync": (os, "fsync"), "opening": (module, "open"), "renaming": (os, "replace")}[place]
    monkeypatch.setattr(owner, name, fail, raising=False)
    message = refused(server, path, "cannot be written", WriteError)
    assert os.strerror(errno.ENOSPC) in message and str(path) in message
    assert len(server.seen) == 1 and delays == [] and part_of(path).exists() == (place != "opening")


def test_parent_is_a_file(server, tmp_path):
    (tmp_path / "file").touch()
    refused(server, tmp_path / "file" / "data.bin", "cannot be written", WriteError)
    assert server.seen == []


def test_interrupt_keeps_the_part(server, path, monkeypatch):
    class Interrupting(tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            download(server.url, path)
    have = part_of(path).stat().st_size
    assert 0 < have < len(BODY) and not path.exists()
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None, f"bytes={have}-"]


@pytest.mark.parametrize("target", ["http://[::1", "http://\xff\xfe/", "ftp://nowhere.invalid/a"])
def test_a_redirect_to_no_address_is_an_error_that_names_the_url(server, path, target):
    server.plan = [answer(302, body=b"", Location=target)] * 9
    with pytest.raises(DownloadError, match="127.0.0.1"):
        download(server.url, path, sha256=SHA256, retries=0)
