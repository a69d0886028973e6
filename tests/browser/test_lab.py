"""JupyterLab as `make lab` starts it, with the first lesson: cells run, players play, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from playwright.sync_api import expect

from esc_lib.paths import REPOSITORY

LESSON = REPOSITORY / "notebooks" / "00_start_here.ipynb"
TERM = "sampling rate"  # which the lesson links to the glossary


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with a copy of the first lesson, in which no cell has run, beside the glossary."""
    lesson = nbformat.read(LESSON, as_version=4)
    for cell in lesson.cells:
        if cell.cell_type == "code":
            cell.update(execution_count=None, outputs=[])
    (tmp_path / "my_lessons").mkdir()
    nbformat.write(lesson, tmp_path / "my_lessons" / LESSON.name)
    (tmp_path / "docs").mkdir()
    shutil.copy(REPOSITORY / "docs" / "glossary.md", tmp_path / "docs")
    log = tmp_path / "lab.log"
    settings = ["--no-browser", "--port", "0", "--ServerApp.port_retries=0", "--allow-root", "--ip", "127.0.0.1"]
    dry = ["make", "--no-print-directory", "-n", "lab"]
    made = subprocess.run(dry, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    _, *given = shlex.split(made.splitlines()[-1])
    command = [sys.executable, "-m", "jupyter", *given, *settings]
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        for _ in range(120):
            if found := re.search(r"http://127\.0\.0\.1:\d+/lab\S*\?token=\w+", log.read_text(encoding="utf-8")):
                break
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.5)
        assert found, log.read_text(encoding="utf-8")
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


def test_the_first_lesson_runs_and_plays(open_page, lab, tmp_path):
    page = open_page("--autoplay-policy=no-user-gesture-required", viewport={"width": 1280, "height": 900})
    page.goto(lab)
    expect(page.locator(".jp-Notebook")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=60_000)  # the kernel has started
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.get_by_text("| Busy")).to_be_visible(timeout=30_000)
    cells = []
    for _ in range(60):
        page.wait_for_timeout(3000)
        page.keyboard.press("Control+s")
        cells = [
            cell
            for cell in nbformat.read(tmp_path / "my_lessons" / LESSON.name, as_version=4).cells
            if cell.cell_type == "code"
        ]
        if cells[-1].execution_count:
            break
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "not all cells ran, one after the other"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    players = page.locator(".jp-OutputArea audio")
    assert players.count() == sum("<audio" in str(output.get("data", "")) for output in outputs) > 0
    play = """async (player) => {
      player.muted = true;
      await Promise.race([player.play(), new Promise((resolve) => setTimeout(resolve, 5000))]);
      await new Promise((resolve) => setTimeout(resolve, 300));
      return player.currentTime > 0 && player.duration > 0;
    }"""
    assert all(player.evaluate(play) for player in players.all())


def test_a_term_in_a_lesson_opens_the_glossary_at_its_line(open_page, lab):
    page = open_page(viewport={"width": 1280, "height": 900})
    page.goto(lab)
    expect(page.locator(".jp-Notebook")).to_be_visible(timeout=60_000)
    page.locator(".jp-Notebook").get_by_role("link", name=TERM, exact=True).first.click(timeout=60_000)
    line = page.locator(".jp-MarkdownViewer").get_by_text(TERM, exact=True)
    expect(line).to_be_in_viewport(timeout=30_000)
