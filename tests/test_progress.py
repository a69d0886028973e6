"""Progress: in a terminal on stderr; in a kernel on stdout, where it is not red, with one figure that is renewed."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from esc_lib.progress import LiveFigure, in_notebook, progress_bar

ROOT = Path(__file__).parents[1]
# Without the rest of the library, whose import takes seconds.
STUB = f"""\
import sys, types
sys.modules['esc_lib'] = types.ModuleType('esc_lib')
sys.modules['esc_lib'].__path__ = [{str(ROOT / "esc_lib")!r}]
from esc_lib import progress
"""
CELL = """\
states = iter(range(10))
figure = progress.LiveFigure(lambda: {"text/plain": f"state {next(states)}"})
figure.handle.update, shown = (lambda of: shown.append(of["text/plain"])), []
for i in progress.progress_bar(range(3), desc="clips"):
    figure.update(now=i == 2)
progress.SECONDS_A_FIGURE = 0
figure.update()
shown
"""


def test_in_a_kernel_nothing_is_red_and_a_figure_keeps_its_place():
    cells = [nbformat.v4.new_code_cell(source) for source in (STUB, CELL)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    outputs = NotebookClient(notebook, kernel_name="python3").execute().cells[1].outputs
    streams = [output for output in outputs if output.output_type == "stream"]
    assert {stream.name for stream in streams} == {"stdout"}
    assert "clips: 100%" in "".join(stream.text for stream in streams)
    assert outputs[0].output_type == "display_data", "the figure stands above the bar"
    result = outputs[-1].data["text/plain"]
    assert result == "['state 1', 'state 2']", "not at every step, but at the end, and when the time has come"


def test_elsewhere_the_bar_is_on_stderr_and_no_figure_is_drawn(capsys):
    assert not in_notebook()
    figure = LiveFigure(lambda: 1 / 0)
    assert list(progress_bar(range(3), desc="clips")) == [0, 1, 2]
    figure.update(now=True)
    shown = capsys.readouterr()
    assert "clips: 100%" in shown.err and shown.out == ""
