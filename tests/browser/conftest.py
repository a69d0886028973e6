"""The built site on a local server, the system's Chromium, and pages that keep what went wrong in them."""

import functools
import http.server
import shutil
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from esc_lib.paths import REPOSITORY

SITE = REPOSITORY / "site" / "_build" / "html"


def keep_error(page, line):
    place = line.location["url"]
    if line.type == "error" and not place.endswith("/favicon.ico"):  # which every browser asks for
        page.problems.append(f"{page.url}, {place}: {line.text}")


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keeps the log out of the tests' output."""


@pytest.fixture(scope="session")
def server():
    """The built site's address, without a slash at its end."""
    assert (SITE / "index.html").is_file(), "the site is not built: run make test-browser, which builds it first"
    assert (SITE / "live" / "index.html").is_file(), "the site has no page that listens: make site says why"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def pages():
    """Inside `with pages() as open_page`, `open_page(*options, **settings)` opens a page in a Chromium of its own.

    The page lists what it asked for in `asked`, and its errors in `problems`.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "Chromium is not installed: install your system's package, chromium"

    @contextmanager
    def open_pages():
        browsers = []

        def open_page(*options, **settings):
            # Without its sandbox, which containers and root do not allow. All pages are the project's own.
            browsers.append(playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *options]))
            page = browsers[-1].new_page(**settings)
            page.asked, page.problems = [], []
            page.on("request", lambda request: page.asked.append(request.url))
            page.on("console", lambda line: keep_error(page, line))
            page.on("pageerror", lambda error: page.problems.append(f"{page.url}: {error}"))
            return page

        yield open_page
        for browser in browsers:
            browser.close()

    with sync_playwright() as playwright:
        yield open_pages


@pytest.fixture
def open_page(pages):
    """As `pages` describes it, for one test."""
    with pages() as open_page:
        yield open_page
