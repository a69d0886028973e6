"""The built site: every page opens without an error, shows its pictures, and links to what is there."""

from urllib.parse import unquote, urldefrag

import pytest

from esc_lib.paths import REPOSITORY

SITE = REPOSITORY / "site" / "_build" / "html"
PAGES = [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts]
LOOK = """async () => {
  const pictures = [...document.images];
  await Promise.all(pictures.map((picture) => {
    picture.loading = "eager";
    return picture.decode().catch(() => undefined);
  }));
  return {
    lost: pictures.filter((picture) => !picture.naturalWidth).map((picture) => picture.src),
    links: [...document.links].map((link) => link.href),
    places: [...document.querySelectorAll("[id], a[name]")].map((element) => element.id || element.name),
    players: [...document.querySelectorAll("audio, video")].map((player) =>
      Boolean(player.getAttribute("src") ?? player.querySelector("source")?.getAttribute("src"))),
  };
}"""


@pytest.fixture(scope="module")
def page(pages):
    with pages() as open_page:
        yield open_page()


@pytest.fixture(scope="module")
def seen(page, server):
    """What is on every page, by its address."""
    found = {}
    for path in PAGES:
        address = f"{server}/{path.relative_to(SITE).as_posix()}"
        page.goto(address)
        found[address] = page.evaluate(LOOK)
    return found


def test_no_page_has_an_error_or_asks_another_server(seen, page, server):
    assert f"{server}/notebooks/00_start_here.html" in seen
    assert page.problems == []
    assert {url for url in page.asked if not url.startswith((server, "data:", "blob:"))} == set()


def test_every_picture_loads(seen):
    assert {address: found["lost"] for address, found in seen.items() if found["lost"]} == {}


def test_every_internal_link_leads_somewhere(seen, server):
    broken = set()
    for address, found in seen.items():
        for link in found["links"]:
            target, place = urldefrag(link)
            if not target.startswith(server + "/"):
                continue
            path = SITE / unquote(target.removeprefix(server + "/").partition("?")[0])
            if path.is_dir():
                path, target = path / "index.html", target.rstrip("/") + "/index.html"
            known = seen.get(target.partition("?")[0])
            if not path.is_file() or (place and known and unquote(place) not in known["places"]):
                broken.add((address, link))
    assert broken == set()


def test_every_player_has_a_source(seen):
    players = {address: found["players"] for address, found in seen.items() if found["players"]}
    assert all(map(all, players.values()))
    assert any("00_start_here" in address for address in players)


def test_the_site_has_the_page_that_listens(seen, server):
    assert f"{server}/live/index.html" in seen[f"{server}/index.html"]["links"]
