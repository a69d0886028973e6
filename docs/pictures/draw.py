"""Draws the README's pictures from what the repository holds: `make pictures`.

front.png shows what the course is about, speed.png the committed benchmarks, lessons/ the first picture of each
notebook, small, and *.svg badges.
"""

import base64
import io
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import soundfile
from matplotlib.figure import Figure, SubFigure

import esc_lib
from esc_lib.data.synthetic import SAMPLE_RATE, SECONDS, crackling_fire, helicopter, rain, sneezing
from esc_lib.interpret import centre_frequencies, load_frontend, mel_frequencies, tone_response
from esc_lib.paths import PRETRAINED, REPOSITORY
from esc_lib.plots import COLOURS, class_label, set_style

HERE = Path(__file__).parent
BENCHMARKS = REPOSITORY / "data" / "benchmarks"
SCENE = (rain, sneezing, helicopter, crackling_fire)  # built-in sounds, one after another
DPI = 180


def front() -> None:
    """EnvNet's learned filters, and beside them a sound and what the course's small network, an M11, makes of it."""
    figure = plt.figure(figsize=(9.2, 3.6))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.1))
    draw_filters(left)
    scene = np.concatenate([sound(np.random.default_rng(8)) for sound in SCENE])
    draw_answer(right, scene / np.abs(scene).max())
    save(figure, HERE / "front.png")


def draw_filters(figure: SubFigure) -> None:
    """The response of EnvNet's whole learned front-end to tones, a column a filter, sorted by centre frequency."""
    front_end = load_frontend("envnet")
    frequencies = mel_frequencies(front_end.config.sample_rate, 96)
    size = np.abs(tone_response(front_end.after, frequencies, front_end.config.sample_rate))
    size = size[centre_frequencies(size, frequencies).argsort(kind="stable")]
    axes = figure.subplots()
    axes.imshow((size / size.max(axis=1, keepdims=True)).T, origin="lower", aspect="auto", cmap="magma")
    ticks = np.array([250, 500, 1000, 2000, 4000])
    axes.set_yticks(np.interp(ticks, frequencies, range(len(frequencies))), [f"{tick / 1000:g}" for tick in ticks])
    axes.set(title="EnvNet's learned filters", xlabel="filter", ylabel="frequency (kHz)")
    axes.grid(False)


def draw_answer(figure: SubFigure, scene: np.ndarray) -> None:
    """A waveform over time, and the probability of each of its classes under it."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
    shown = np.abs(scene).reshape(-1, 441).max(axis=1)
    time = 0.01 * np.arange(len(shown))
    above.fill_between(time, -shown, shown, color=COLOURS[7], linewidth=0)
    above.set(title="a waveform, and what a network makes of it", ylim=(-1.05, 1.05), yticks=(), ylabel="waveform")
    with tempfile.TemporaryDirectory() as folder:
        soundfile.write(f"{folder}/scene.wav", scene, SAMPLE_RATE)
        windows = esc_lib.predict(PRETRAINED, f"{folder}/scene.wav", device="cpu").windows
    for i, sound in enumerate(SCENE):
        name = class_label(sound.__name__)
        below.plot(windows.index, windows[sound.__name__], color=COLOURS[i], linewidth=2, label=name)
        above.text((i + 0.5) * SECONDS, 0.8, name, color=COLOURS[i], ha="center", weight="bold")
    below.set(xlabel="time (s)", ylabel="probability", ylim=(-0.02, 1.02), xlim=(0, SECONDS * len(SCENE)))
    below.set_xticks(range(0, SECONDS * len(SCENE) + 1, SECONDS))


def speed() -> None:
    """How many times as fast as a textbook loop a training step is, for each network and each measured processor."""
    figure, axes = plt.subplots(figsize=(6.4, 2.7))
    machines = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(BENCHMARKS.glob("*.json"))]
    names = [row["architecture"] for row in machines[0]["rows"]]
    for i, (machine, colour) in enumerate(zip(machines, COLOURS, strict=False)):
        times = {row["architecture"]: times_as_fast(row) for row in machine["rows"]}
        rows = [k + 0.4 * i for k, name in enumerate(names) if name in times]
        precision = machine["rows"][0]["precision"]
        label = f"{machine['device'].split(' Processor')[0]}, {machine['threads']} threads, {precision}"
        axes.barh(rows, [times[name] for name in names if name in times], 0.38, color=colour, label=label)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([k + 0.2 for k in range(len(names))], names)
    axes.set(xlabel="training speed; 1 is a textbook loop's", ylim=(len(names) - 0.3, -0.5))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    save(figure, HERE / "speed.png")


def times_as_fast(row: dict[str, Any]) -> float:
    """A network's clips a second in training, as a multiple of the textbook loop's."""
    return row["clips_per_second"]["standard"] / row["plain_clips_per_second"]["standard"]


def lessons() -> None:
    """The first picture of every lesson, as wide as a column of the README's table."""
    (HERE / "lessons").mkdir(exist_ok=True)
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        picture = plt.imread(
            io.BytesIO(base64.b64decode(next(data["image/png"] for data in shown if "image/png" in data)))
        )
        height, width = picture.shape[:2]
        figure = plt.figure(figsize=(2, 2 * height / width), layout="none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture, interpolation="antialiased", interpolation_stage="rgba", aspect="auto")
        axes.axis("off")
        save(figure, HERE / "lessons" / f"{path.stem}.png", dpi=100)


def badges() -> None:
    """What a visitor looks for first, from `pyproject.toml`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(line for line in project["dependencies"] if line.startswith("torch=="))
    for name, value in {
        "python": project["requires-python"].removeprefix(">=") + " or newer",
        "pytorch": torch.removeprefix("torch==").removesuffix(".*"),
        "licence": project["license"],
    }.items():
        left, right = 14 + 7 * len(name), 14 + 7 * len(value)
        (HERE / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">'
            f"<title>{name} {value}</title>"
            f'<rect width="{left + right}" height="20" rx="4" fill="{COLOURS[0]}"/>'
            f'<path d="M4 0H{left}V20H4a4 4 0 0 1-4-4V4a4 4 0 0 1 4-4" fill="#444"/>'
            f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
            f'<text x="{left / 2}" y="14" textLength="{left - 14}">{name}</text>'
            f'<text x="{left + right / 2}" y="14" textLength="{right - 14}">{value}</text></g></svg>\n',
            encoding="utf-8",
        )


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Without the version of matplotlib, so that the same picture is the same file."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    set_style()
    front()
    speed()
    lessons()
    badges()
