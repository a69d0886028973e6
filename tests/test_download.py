"""Downloads against a real server on this machine that misbehaves to order."""

import errno
import hashlib
import importlib
import json
import os
import random
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from disk import largest_file
from tqdm import tqdm

from esc_lib.download import DownloadError, download, file_hash

module = importlib.import_module("esc_lib.download")

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
CUT = 100_001  # bytes that arrive before the line breaks: no multiple of any buffer


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
        if stall:
            handler.server.next_request.wait(30)
        if reset:
            linger = struct.pack("ii", 1, 0)
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
    monkeypatch.setattr(module.time, "sleep", record.append)
    return record


def part_of(path):
    return path.with_name(path.name + ".part")


def side_of(path):
    return path.with_name(path.name + ".part.json")


def ranges_of(server):
    return [headers.get("Range") for headers in server.seen]


def refused(server, path, match, **options):
    """Call download, which must raise and not take the final name; returns the message."""
    with pytest.raises(DownloadError, match=match) as error:
        download(server.url, path, **options)
    assert not path.exists()
    return str(error.value)


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


def test_fetches_and_verifies(server, path, delays, capsys):
    assert download(server.url, str(path), sha256=SHA256.upper(), md5=MD5, size=len(BODY)) == path
    assert_complete(path)
    assert delays == [] and len(server.seen) == 1
    assert server.seen[0]["Accept-Encoding"] == "identity"
    assert "Range" not in server.seen[0] and "If-Range" not in server.seen[0]
    out, err = capsys.readouterr()
    assert out == "" and path.name in err


def test_makes_the_folder(server, tmp_path):
    path = tmp_path / "a" / "b" / "data.bin"
    download(server.url, path)
    assert_complete(path)


def test_body_of_unstated_length(server, path):
    server.plan = [answer(Content_Length=None)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)


def test_synced_before_the_final_name_appears(server, path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(module.os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    download(server.url, path, sha256=SHA256)
    assert events == ["fsync", "replace"]


def test_file_hash(path):
    path.write_bytes(b"abc")
    assert file_hash(str(path)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(path, "md5") == "900150983cd24fb0d6963f7d28e17f72"


# --- a file that is there already ---


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"md5": MD5}, {"size": len(BODY)}])
def test_right_file_is_not_requested(server, path, known):
    path.write_bytes(BODY)
    assert download(server.url, path, **known) == path
    assert server.seen == []


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}, {"size": 5}])
def test_wrong_file_is_reported_and_kept(server, path, known):
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="move it away or delete it") as error:
        download(server.url, path, **known)
    assert str(path) in str(error.value) and str(*known.values()) in str(error.value)
    assert path.read_bytes() == b"mine" and server.seen == []


def test_folder_of_that_name(server, path):
    path.mkdir()
    with pytest.raises(DownloadError, match="is not a file"):
        download(server.url, path)


# --- broken connections ---


def test_resumes_from_the_byte_that_arrived(server, path, delays):
    server.plan = [answer(cut=CUT), answer(cut=50_000)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [None, f"bytes={CUT}-", f"bytes={CUT + 50_000}-"]
    assert [headers.get("If-Range") for headers in server.seen] == [None, '"v1"', '"v1"']
    assert delays == [1, 2]


def test_resumes_after_a_restart(server, path, capsys):
    interrupted(server, path)
    capsys.readouterr()
    assert json.loads(side_of(path).read_text())["url"] == server.url
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={CUT}-"] and server.seen[0]["If-Range"] == '"v1"'
    assert "100k/300k" in capsys.readouterr().err  # the bar begins where the part ends


def test_connection_reset(server, path, monkeypatch):
    sizes = []
    monkeypatch.setattr(module.time, "sleep", lambda _: sizes.append(part_of(path).stat().st_size))
    server.plan = [answer(cut=CUT, reset=True)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert len(sizes) == 1 and ranges_of(server)[1:] == [f"bytes={sizes[0]}-" if sizes[0] else None]


def test_silence_times_out(server, path, monkeypatch, delays):
    monkeypatch.setattr(module, "TIMEOUT", (10, 1))
    server.plan = [answer(cut=CUT, stall=True)]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert delays == [1] and len(server.seen) == 2


def test_lying_content_length(server, path, delays):
    """More is announced than ever comes: requests alone would take the short body for the file."""
    server.plan = [answer(Content_Length=len(BODY) + 7)]
    refused(server, path, f"1 attempts.*{len(BODY)}", retries=0)
    assert part_of(path).read_bytes() == BODY
    download(server.url, path)  # the 416 that follows says that this is all: its length differs from the first claim
    assert_complete(path)


def test_short_body_without_length_counts_as_cut(server, path, delays):
    server.plan = [answer(cut=CUT, Content_Length=None)]
    download(server.url, path, size=len(BODY))
    assert_complete(path)
    assert ranges_of(server) == [None, f"bytes={CUT}-"]


def test_body_shorter_than_its_content_range_counts_as_cut(server, path):
    server.plan = [answer(cut=CUT), answer(cut=1000, Content_Length=1000)]  # a server that caps its ranges
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server)[2] == f"bytes={CUT + 1000}-"


def test_attempts_are_counted(server, path, delays):
    server.plan = [answer(cut=10) for _ in range(9)]
    message = refused(server, path, "3 attempts", retries=2)
    assert server.url in message and str(part_of(path)) in message and "source=" in message
    assert len(server.seen) == 3 and delays == [1, 2]
    assert part_of(path).read_bytes() == BODY[:30]


def test_no_server_at_all(path, delays):
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="3 attempts"):
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/x", path, retries=2)
    assert delays == [1, 2]


def test_bad_address_is_not_repeated(path, delays):
    with pytest.raises(DownloadError, match="Check the address"):
        download("no-such-scheme://x/y", path)
    assert delays == []


# --- resuming must never mix two files ---


def test_range_ignored_starts_over(server, path):
    server.plan = [answer(cut=CUT), answer(ranges=False)]
    download(server.url, path)  # no hash: the bytes must be right all the same
    assert_complete(path)
    assert ranges_of(server) == [None, f"bytes={CUT}-"]


def test_changed_etag_starts_over(server, path):
    interrupted(server, path)
    server.plan = [answer(body=OTHER, etag='"v2"')]
    download(server.url, path)
    assert_complete(path, OTHER)
    assert server.seen[0]["If-Range"] == '"v1"'


def test_new_version_is_recorded_for_the_next_resume(server, path):
    interrupted(server, path)
    server.plan = [answer(body=OTHER, etag='"v2"', cut=50), answer(body=OTHER, etag='"v2"')]
    download(server.url, path)
    assert_complete(path, OTHER)
    assert ranges_of(server) == [f"bytes={CUT}-", "bytes=50-"] and server.seen[1]["If-Range"] == '"v2"'


BAD_206 = {
    "other etag, If-Range unknown": answer(body=OTHER, etag='"v2"', if_range=False),
    "starts elsewhere": answer(Content_Range=f"bytes {CUT - 1}-299999/300000"),
    "other total": answer(Content_Range=f"bytes {CUT}-299999/300001"),
    "no Content-Range": answer(Content_Range=None),
    "nonsense": answer(Content_Range="lines 1-2/3"),
}


@pytest.mark.parametrize("plan", BAD_206.values(), ids=BAD_206)
def test_unfitting_206_is_thrown_away(server, path, delays, plan):
    interrupted(server, path)
    server.plan = [plan]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={CUT}-", None] and delays == []


def test_unknown_total_in_206_is_accepted(server, path):
    interrupted(server, path)
    server.plan = [answer(Content_Range=f"bytes {CUT}-299999/*")]
    download(server.url, path)
    assert_complete(path)
    assert len(server.seen) == 1


@pytest.mark.parametrize("etag", ['W/"v1"', None])
def test_without_strong_etag_no_resume(server, path, etag):
    interrupted(server, path, etag=etag)
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None]


def test_part_of_another_url_is_not_used(server, path):
    interrupted(server, path)
    download(server.url + "?other", path)
    assert_complete(path)
    assert ranges_of(server) == [None]


@pytest.mark.parametrize("text", [None, "", '{"url":', "[1]", '{"url": 1}'])
def test_unreadable_side_file_starts_over(server, path, text):
    interrupted(server, path)
    if text is None:
        side_of(path).unlink()
    else:
        side_of(path).write_text(text)
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None]


def test_part_that_is_complete_already(server, path):
    interrupted(server, path)
    part_of(path).write_bytes(BODY)
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={len(BODY)}-"]  # answered with 416


def test_part_that_is_too_long(server, path):
    interrupted(server, path)
    part_of(path).write_bytes(BODY + b"more")
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={len(BODY) + 4}-", None]


def test_416_without_length(server, path):
    interrupted(server, path)
    server.plan = [answer(416, body=b"")]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={CUT}-", None]


# --- answers of the server ---


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 204, 206])
def test_refusal_is_not_repeated(server, path, delays, status):
    server.plan = [answer(status, body=b"")]
    message = refused(server, path, f"answered {status}")
    assert server.url in message and "source=" in message
    assert len(server.seen) == 1 and delays == [] and not part_of(path).exists()


def test_refusal_keeps_the_part(server, path):
    interrupted(server, path)
    server.plan = [answer(404, body=b"")]
    refused(server, path, "404")
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [f"bytes={CUT}-"] * 2


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_busy_server_is_asked_again(server, path, delays, status):
    server.plan = [answer(status, body=b"busy"), answer(status, body=b"busy")]
    download(server.url, path, sha256=SHA256)
    assert_complete(path)
    assert delays == [1, 2]


def test_retry_after(server, path, delays):
    waits = ["7", "0", "61", "86400", "Wed, 21 Oct 2026 07:28:00 GMT", "-3"]
    server.plan = [answer(503, body=b"", Retry_After=wait) for wait in waits]
    download(server.url, path, retries=6)
    assert delays == [7, 0, 4, 8, 16, 32]


def test_waiting_time_is_bounded(server, path, delays):
    server.plan = [answer(503, body=b"") for _ in range(8)]
    refused(server, path, "503", retries=7)
    assert delays == [1, 2, 4, 8, 16, 32, 60]


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8"])
def test_html_page_is_refused(server, path, delays, kind):
    server.plan = [answer(body=b"<html>log in</html>", Content_Type=kind)]
    message = refused(server, path, "HTML page")
    assert server.url in message and delays == []
    assert list(path.parent.iterdir()) == []


def test_html_page_does_not_cost_the_part(server, path):
    interrupted(server, path)
    server.plan = [answer(body=b"<html>log in</html>", etag='"page"', Content_Type="text/html")]
    refused(server, path, "HTML page")
    assert part_of(path).read_bytes() == BODY[:CUT]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server)[1] == f"bytes={CUT}-"


def test_html_file_may_be_html(server, tmp_path):
    server.plan = [answer(body=b"<html>", Content_Type="text/html")]
    assert download(server.url, tmp_path / "page.html").read_bytes() == b"<html>"


def test_packed_body_is_refused_unless_the_file_is_packed(server, path, tmp_path):
    server.plan = [answer(Content_Encoding="gzip"), answer(Content_Encoding="gzip")]
    refused(server, path, "Content-Encoding gzip")
    assert list(tmp_path.iterdir()) == []
    assert download(server.url, tmp_path / "data.tar.gz").read_bytes() == BODY  # as sent, not decoded


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}], ids=["sha256", "md5"])
def test_wrong_hash(server, path, delays, known):
    server.plan = [answer(body=OTHER)]
    found = hashlib.new(*known, OTHER)
    message = refused(server, path, "source=", **known)
    for piece in (server.url, found.hexdigest(), *known.values()):
        assert piece in message
    assert list(path.parent.iterdir()) == [] and delays == []


def test_wrong_size_is_refused_before_the_body(server, path):
    message = refused(server, path, "offers 300000 bytes, expected 299999", size=299_999)
    assert server.url in message and list(path.parent.iterdir()) == []


def test_wrong_size_of_a_body_of_unstated_length(server, path):
    server.plan = [answer(Content_Length=None)]
    refused(server, path, "has 300000 bytes, expected 299999", size=299_999)
    assert list(path.parent.iterdir()) == []


# --- disks and interruptions ---


def test_full_disk_is_not_repeated_and_keeps_the_part(server, path, delays):
    with largest_file(150_000):
        message = refused(server, path, "cannot be written")
    assert str(part_of(path)) in message and os.strerror(errno.EFBIG) in message
    assert len(server.seen) == 1 and delays == []
    assert part_of(path).read_bytes() == BODY[:150_000]
    download(server.url, path)
    assert_complete(path)
    assert ranges_of(server) == [None, "bytes=150000-"]


def test_disk_that_is_full_at_the_sync(server, path, delays, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", fsync)
    message = refused(server, path, "cannot be written")
    assert os.strerror(errno.ENOSPC) in message and delays == [] and part_of(path).exists()


def test_read_only_folder(server, path, delays, monkeypatch):
    def read_only(name, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(name))

    monkeypatch.setattr(module, "open", read_only, raising=False)
    message = refused(server, path, "cannot be written")
    assert os.strerror(errno.EROFS) in message and str(path) in message
    assert len(server.seen) == 1 and delays == []


def test_parent_is_a_file(server, tmp_path):
    (tmp_path / "file").write_text("")
    refused(server, tmp_path / "file" / "data.bin", "cannot be written")
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
