"""What the pages say to do and where they lead."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "data" / "README.md"]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_of_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https:", "http:")):
            file, _, anchor = target.partition("#")
            found = (page.parent / file).resolve()
            assert found.exists() and found.is_relative_to(ROOT), target
            assert not anchor or anchor in anchors(found), target


def test_the_readme_is_short_and_names_every_lesson():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^<!-- (\w+): .*?<!-- end of \1 -->$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 900
    for lesson in sorted((ROOT / "notebooks").glob("*.ipynb")):
        row = f"| ![](docs/pictures/lessons/{lesson.stem}.png) | [{lesson.stem}](notebooks/{lesson.name}): "
        assert row in text


def test_the_pictures_are_there_and_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = [ROOT / file for file in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)]
    drawn = [file for file in (ROOT / "docs" / "pictures").rglob("*.*") if file.suffix in (".png", ".svg")]
    assert sorted(pictures) == sorted(drawn)
    assert max(file.stat().st_size for file in pictures) < 200_000 and len(pictures) > 15
    assert sum(file.stat().st_size for file in pictures) < 700_000


def test_commands_of_the_readme_name_files_and_parameters_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^`?papermill ([^`\n]+)", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        (lesson,) = re.findall(r"notebooks/\S+\.ipynb", command)
        source = (ROOT / lesson).read_text(encoding="utf-8")
        for file in re.findall(r"notebooks/[^\s`]+", command):
            assert (ROOT / file).is_file(), command
        for name in re.findall(r"-p (\w+) ", command):
            assert re.search(rf'"{name}: \w+ = ', source), f"{command}: {name}"
