"""The page that listens answers files and the microphone as `predict` does, and where it cannot, says why."""

import base64
import json
import re

import numpy as np
import pytest
import soundfile
import soxr
import torch
from playwright.sync_api import expect

import esc_lib
from esc_lib.data.audio import read_int16
from esc_lib.data.synthetic import SAMPLE_RATE, SOUNDS
from esc_lib.evaluation.calibration import with_temperature
from esc_lib.paths import PRETRAINED

RUN = esc_lib.load_run(PRETRAINED)
CLASSES = list(RUN.config.class_names)
FIVE = ("dog", "sea_waves", "sneezing", "helicopter", "crackling_fire")
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
WITHIN = 0.05


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Five recordings of 5 s."""
    folder = tmp_path_factory.mktemp("recordings")
    for i, name in enumerate(FIVE):
        samples = SOUNDS[name](np.random.default_rng(i))
        soundfile.write(folder / f"{name}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    return {name: folder / f"{name}.wav" for name in FIVE}


@pytest.fixture
def live(open_page, server):
    """Opens the page that listens, and waits for its network."""

    def open_live(*options, **settings):
        page = open_page(*options, **settings)
        page.goto(f"{server}/live/index.html")
        expect(answer(page)).to_have_text("Ready.", timeout=30_000)
        return page

    return open_live


def answer(page):
    return page.get_by_role("status")


def bars(page):
    """The probabilities that the page shows, in the order of the classes."""
    return np.array(page.locator("#bars data").evaluate_all("bars => bars.map((bar) => Number(bar.value))"))


def choose(page, path):
    """Gives the page a file, and waits for its answer."""
    page.get_by_label("choose a recording").set_input_files(path)
    expect(answer(page)).not_to_have_text(re.compile("^Reading"), timeout=30_000)


def drop(page, path):
    """Drops a file on the page, and waits for its answer."""
    data = page.evaluate_handle(
        """async ([name, content]) => {
          const data = new DataTransfer();
          data.items.add(new File([await (await fetch(content)).blob()], name));
          return data;
        }""",
        [path.name, "data:;base64," + base64.b64encode(path.read_bytes()).decode()],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    expect(answer(page)).not_to_have_text(re.compile("^Reading"), timeout=30_000)


def predicted(path):
    """What `predict` finds in a file, in the order of the classes."""
    return esc_lib.predict(RUN, path, top=len(CLASSES), device="cpu").top.set_index("class")["probability"][CLASSES]


def test_five_dropped_recordings_are_answered_as_by_predict(live, recordings, server):
    page = live()
    threshold = json.loads(page.evaluate("fetch('model.json').then((file) => file.text())"))["threshold"]
    for path in recordings.values():
        drop(page, path)
        expected = predicted(path)
        np.testing.assert_allclose(bars(page), expected, atol=WITHIN)
        assert CLASSES[bars(page).argmax()] == expected.idxmax()
        shown = bars(page).max() >= threshold["percent"] / 100
        text = expected.idxmax().replace("_", " ").capitalize() if shown else "Unsure"
        expect(answer(page)).to_have_text(text)
    assert all(url.startswith((server, "data:", "blob:")) for url in page.asked), "nothing is asked of another server"
    assert page.problems == []


@pytest.mark.parametrize(("rate", "network_rate"), [(44100, 8000), (48000, 16000), (22050, 20000), (8000, 16000)])
def test_the_page_resamples_as_predict_does(open_page, server, rate, network_rate):
    noise = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    page = open_page()
    page.goto(f"{server}/live/index.html")
    resampled = page.evaluate(
        """async ([samples, from, to]) => {
          const { Resampler } = await import("./sound.js");
          const resampler = new Resampler(from, to);
          const values = JSON.parse(samples);
          const pieces = [];
          for (let i = 0; i < values.length; i += 4096) pieces.push(resampler.push(values.slice(i, i + 4096)));
          return JSON.stringify([...pieces, resampler.finish()].flatMap((piece) => [...piece]));
        }""",
        [json.dumps(noise.tolist()), rate, network_rate],
    )
    got, expected = np.array(json.loads(resampled)), soxr.resample(noise, rate, network_rate)
    assert len(got) == len(expected)
    # White noise is the hardest: what differs are the last 8 % of the band, where filters fall off.
    assert np.square(got - expected).sum() < 0.02 * np.square(expected).sum()
    inside = np.fft.rfftfreq(len(got), 1 / network_rate) < 0.43 * min(rate, network_rate)
    spectra = np.fft.rfft(got)[inside], np.fft.rfft(expected)[inside]
    assert np.square(abs(spectra[0] - spectra[1])).sum() < 1e-5 * np.square(abs(spectra[1])).sum()


def test_files_of_every_kind_are_cut_and_averaged_as_by_predict(live, recordings, tmp_path):
    page = live()
    dog, _ = soundfile.read(recordings["dog"])
    with_zeros = np.zeros(6 * SAMPLE_RATE)
    with_zeros[60_000:90_000] = dog[5_000:35_000]
    fire, _ = soundfile.read(recordings["crackling_fire"])
    kinds = {
        "padded.wav": (with_zeros, SAMPLE_RATE),
        "short.wav": (fire[:9_000], SAMPLE_RATE),
        "long.flac": (np.concatenate([fire, dog, fire, dog]), SAMPLE_RATE),
        "stereo.wav": (np.stack([fire[::2], 0.5 * dog[::2]], axis=1), SAMPLE_RATE // 2),
        "of-its-rate.wav": (fire[::5], RUN.config.sample_rate),
        "coded.ogg": (fire, SAMPLE_RATE),
    }
    for name, (samples, rate) in kinds.items():
        soundfile.write(tmp_path / name, samples, rate)
        choose(page, tmp_path / name)
        np.testing.assert_allclose(bars(page), predicted(tmp_path / name), atol=WITHIN, err_msg=name)


def test_five_recordings_in_the_microphone_are_answered_as_by_predict(live, recordings, tmp_path):
    """The microphone plays each twice, one after the other. A window is found in what is played, and answered again."""
    sounds = np.concatenate([np.tile(soundfile.read(path)[0], 2) for path in recordings.values()])
    soundfile.write(tmp_path / "all.wav", sounds, SAMPLE_RATE)
    page = live(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path / 'all.wav'}")
    page.evaluate(
        """() => {
          window.answers = [];
          document.addEventListener("answer", ({ detail }) => answers.push([[...detail.window], detail.probabilities]));
        }"""
    )
    page.get_by_role("button", name="Start listening").press("Enter")
    expect(page.get_by_role("button", name="Stop listening")).to_be_visible()
    length, rate = RUN.config.crop_samples, RUN.config.sample_rate
    played = np.tile(read_int16(tmp_path / "all.wav", rate, 60) / np.float32(32768), 2)  # it is played in a loop
    compared = set()
    for _ in range(40):  # a busy machine has many windows with gaps
        page.wait_for_timeout(7_000)
        for window, probabilities in json.loads(page.evaluate("JSON.stringify(answers.splice(0))")):
            start, heard, likeness = find(np.array(window, np.float32), played)
            # Others reach from one recording into the next, or have gaps: before the microphone, or on a busy machine.
            if start % (10 * rate) + length < 10 * rate and likeness > 0.999:
                expected = of_window(heard)
                np.testing.assert_allclose(probabilities, expected, atol=WITHIN)
                assert np.argmax(probabilities) == expected.argmax()
                compared.add(FIVE[start // (10 * rate) % 5])
        if compared == set(FIVE):
            break
    assert compared == set(FIVE), "the windows are not what is played"
    page.get_by_role("button", name="Stop listening").click()
    expect(answer(page)).to_have_text("Stopped.")
    assert page.problems == []


def find(window, played):
    """Where a window starts in what is played, what is played there, and how well the two correlate.

    The microphone does not start with a sample of the network's rate, so what is played is moved by a fraction of one.
    Sixteenths would be too coarse: noise such as a sneeze would be alike to 0.9992 only, with these steps 0.9999.
    """
    size, length = 1 << (len(played) + len(window)).bit_length(), len(window)
    cross = np.fft.irfft(np.fft.rfft(played, size) * np.conj(np.fft.rfft(window, size)))[: len(played) - length]
    energy = np.concatenate([[0.0], np.cumsum(np.square(played, dtype=np.float64))])
    start = int((cross / np.sqrt(energy[length:-1] - energy[: -1 - length] + 1e-9)).argmax())
    spectrum, delay = np.fft.rfft(played[start : start + length]), 2j * np.pi * np.fft.rfftfreq(length)
    both, parts = spectrum * np.fft.rfft(window).conj(), np.linspace(-0.5, 0.5, 129)
    part = max(parts, key=lambda part: (both * np.exp(delay * part)).real.sum())
    moved = np.fft.irfft(spectrum * np.exp(delay * part)).astype(np.float32)
    return start, moved, float(np.corrcoef(window, moved)[0, 1])


def of_window(window):
    """What the network makes of one window: a row of `predict(...).windows`."""
    with torch.no_grad():
        plain = RUN.model()(torch.tensor(window)[None, None]).softmax(dim=1).numpy()
    return with_temperature(plain, RUN.temperature())[0]


def test_a_class_is_announced_once_however_many_windows_it_has(live, tmp_path):
    soundfile.write(tmp_path / "clock.wav", SOUNDS["clock_tick"](np.random.default_rng(4)), SAMPLE_RATE)
    page = live(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path / 'clock.wav'}")
    page.evaluate(
        """() => {
          window.changes = 0;
          window.windows = 0;
          new MutationObserver(() => changes++).observe(document.querySelector("[role=status]"), { childList: true });
          document.addEventListener("answer", () => windows++);
        }"""
    )
    page.get_by_role("button", name="Start listening").click()
    page.wait_for_function("windows >= 9")
    page.evaluate("changes = windows = 0")
    page.wait_for_function("windows >= 6")
    assert page.evaluate("changes") <= 1


def test_silence_in_the_microphone_is_told(live, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    page = live(*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path / 'silence.wav'}")
    page.get_by_role("button", name="Start listening").click()
    expect(answer(page)).to_have_text("Nothing to hear")
    assert bars(page).max() == 0


def test_a_refused_or_missing_microphone_is_told(live):
    page = live("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny")
    page.get_by_role("button", name="Start listening").click()
    expect(answer(page)).to_contain_text("The microphone was refused. Allow it")
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = async () => {
            throw new DOMException("", "NotFoundError");
          };
        }"""
    )
    page.get_by_role("button", name="Start listening").click()
    expect(answer(page)).to_contain_text("There is no microphone. Plug one in")
    assert page.problems == []


def test_an_address_without_https_is_told(open_page, server):
    page = open_page("--host-resolver-rules=MAP course.example 127.0.0.1")
    page.goto(server.replace("127.0.0.1", "course.example") + "/live/index.html")
    expect(answer(page)).to_have_text("Ready.", timeout=30_000)
    page.get_by_role("button", name="Start listening").click()
    expect(answer(page)).to_contain_text("only over https, or from localhost")


def test_a_missing_network_is_told(open_page, server):
    for file in ("model.json", "model.onnx"):
        page = open_page()
        page.route(f"**/{file}", lambda route: route.fulfill(status=404))
        page.goto(f"{server}/live/index.html")
        expect(answer(page)).to_contain_text(f"The network is missing or damaged ({file}: 404)")
        expect(page.get_by_role("button", name="Start listening")).to_be_disabled()


def test_files_without_sound_are_told(live, tmp_path):
    page = live()
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_text("no audio", encoding="utf-8")
    soundfile.write(tmp_path / "header.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    sentences = {
        "empty.wav": "is empty",
        "text.mp3": "cannot be decoded",
        "header.wav": "cannot be decoded|holds no samples",
        "silent.wav": "nothing to hear",
    }
    for name, sentence in sentences.items():
        choose(page, tmp_path / name)
        expect(answer(page)).to_contain_text(name)
        expect(answer(page)).to_contain_text(re.compile(sentence))
    assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_screens_and_can_be_read(live, scheme):
    page = live(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] < 200 and brightness[1] > 600) if scheme == "light" else (brightness[0] > 600)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Start listening")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("choose a recording")).to_be_focused()
