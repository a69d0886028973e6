// The page: loads the network, listens to the microphone or opens a file, and shows what the network answers.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { Resampler, SIZE, cut, decode, peak, round16, spectrum, trim, windowStarts } from "./sound.js";

const WINDOWS_PER_BATCH = 10;
const EVERY = 0.5; // seconds from one window of the microphone to the next
const QUIET = 0.001; // of full scale, -60 dB: less is taken for silence
const FLOOR = -75; // dB, and below it the spectrogram is black
const RANGE = 80;
// The course's colour map, red, green and blue at equal distances.
const MAGMA = [
  [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100], [251, 135, 97],
  [254, 194, 135], [252, 253, 191],
];

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const name = (class_) => class_.replaceAll("_", " ");
const percent = (value) => `${Math.round(100 * value)} %`;
let model; // what model.json holds
let session; // the network
let listening; // how to stop listening, while the page listens
let turn = 0; // counts what was asked of the page: an answer to something earlier comes too late

/** Shows a sentence as the answer. Screen readers announce it, so it is written only when it is another. */
function say(text) {
  if ($("answer").textContent === text) return;
  $("answer").textContent = text;
  $("answer").classList.toggle("sentence", text.length > 30);
}

async function load() {
  try {
    model = await (await fetched("model.json")).json();
    ort.env.wasm.numThreads = 1;
    session = await ort.InferenceSession.create(await (await fetched("model.onnx")).arrayBuffer());
  } catch (error) {
    say(`The network is missing or damaged (${error.message}). Build this page again with make site.`);
    return;
  }
  $("bars").replaceChildren(...model.classes.map(bar));
  $("frequencies").textContent = `0 to ${model.sample_rate / 2000} kHz, upwards`;
  const { percent: least, wanted, right, answered, clips } = model.threshold;
  $("about").textContent =
    `Below ${least} % the answer is "unsure". This threshold was chosen on ${clips} recordings, by networks of the ` +
    `same settings that had not been trained on them: it is the lowest from which on at least ${percent(wanted)} of ` +
    `the answers were right (${(100 * right).toFixed(1)} %); ${percent(answered)} of the recordings got such an ` +
    `answer. These were whole recordings; a single window of ${model.window / model.sample_rate} s promises less; ` +
    `a sound of none of the ${model.classes.length} classes is given one of them, or "unsure".`;
  $("credits").textContent = `The network, ${model.network}, was ${model.credits}.`;
  $("start").disabled = $("file").disabled = false;
  say("Ready.");
}

async function fetched(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: ${response.status}`);
  return response;
}

function bar(class_) {
  const item = document.createElement("li");
  item.innerHTML = '<span></span><div class="bar"></div><data value="0">0 %</data>';
  item.firstChild.textContent = name(class_);
  return item;
}

/** Class probabilities of windows, with the run's temperature: a row of `predict(...).windows` for each. */
async function classify(windows) {
  const input = new Float32Array(windows.length * model.window);
  windows.forEach((window, i) => input.set(window, i * model.window));
  const waveform = new ort.Tensor("float32", input, [windows.length, model.window]);
  const { probabilities } = await session.run({ waveform });
  const count = model.classes.length;
  return windows.map((_, i) => Array.from(probabilities.data.slice(i * count, (i + 1) * count)));
}

/** Probabilities of a whole recording, as `predict` computes them. */
async function classifyRecording(samples) {
  const audible = model.trim_silence ? trim(samples) : samples;
  const windows = windowStarts(audible.length, model).map((start) => cut(audible, start, model.window));
  const rows = [];
  for (let i = 0; i < windows.length; i += WINDOWS_PER_BATCH) {
    rows.push(...(await classify(windows.slice(i, i + WINDOWS_PER_BATCH))));
    await new Promise((resume) => setTimeout(resume)); // the page stays alive
  }
  const counted = rows.filter((_, i) => peak(windows[i]) >= model.min_peak);
  // The mean is over probabilities without the temperature, which was fitted for the mean.
  const plain = (counted.length ? counted : rows).map((row) => atTemperature(row, 1 / model.temperature));
  const mean = plain[0].map((_, i) => plain.reduce((sum, row) => sum + row[i], 0) / plain.length);
  return atTemperature(mean, model.temperature);
}

function atTemperature(probabilities, temperature) {
  const scaled = probabilities.map((p) => Math.max(p, 1e-12) ** (1 / temperature));
  const sum = scaled.reduce((a, b) => a + b);
  return scaled.map((value) => value / sum);
}

function show(probabilities) {
  const most = Math.max(...probabilities);
  const winner = probabilities.indexOf(most);
  const sure = 100 * most >= model.threshold.percent;
  say(sure ? capital(name(model.classes[winner])) : "Unsure");
  $("note").textContent = sure ? "" : `Most probable: ${name(model.classes[winner])}.`;
  [...$("bars").children].forEach((item, i) => {
    item.classList.toggle("winner", sure && i === winner);
    item.querySelector(".bar").style.setProperty("--share", probabilities[i]);
    item.lastChild.value = probabilities[i].toFixed(4);
    item.lastChild.textContent = percent(probabilities[i]);
  });
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** Empties the bars and the spectrogram. */
function clear() {
  $("spectrogram").height = SIZE / 2;
  $("from").textContent = $("to").textContent = "";
  $("note").textContent = "";
  for (const item of $("bars").children) {
    item.classList.remove("winner");
    item.querySelector(".bar").style.setProperty("--share", 0);
    item.lastChild.value = 0;
    item.lastChild.textContent = "0 %";
  }
}

function draw(samples, from, to) {
  const canvas = $("spectrogram");
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let x = 0; x < canvas.width; x++) {
    const column = spectrum(samples, Math.round(((x + 0.5) * samples.length) / canvas.width));
    column.forEach((level, row) => {
      const place = Math.max(0, Math.min(0.999, (level - FLOOR) / RANGE)) * (MAGMA.length - 1);
      const below = Math.floor(place);
      const at = 4 * ((canvas.height - 1 - row) * canvas.width + x);
      for (let i = 0; i < 3; i++) {
        image.data[at + i] = MAGMA[below][i] + (place - below) * (MAGMA[below + 1][i] - MAGMA[below][i]);
      }
      image.data[at + 3] = 255;
    });
  }
  context.putImageData(image, 0, 0);
  $("from").textContent = from;
  $("to").textContent = to;
  canvas.setAttribute("aria-label", `Spectrogram from ${from} to ${to}, ${$("frequencies").textContent}`);
}

async function open(file) {
  stop();
  clear();
  const mine = ++turn;
  if (!file.size) return say(`${file.name} is empty. Choose another recording.`);
  say(`Reading ${file.name}`);
  let samples;
  try {
    samples = await decode(await file.arrayBuffer(), model.sample_rate);
  } catch {
    if (mine !== turn) return;
    const why = "it is not audio, damaged, or in a format that this browser does not know. Try wav, flac or mp3.";
    return say(`${file.name} cannot be decoded: ${why}`);
  }
  if (mine !== turn) return;
  if (!samples.length) return say(`${file.name} holds no samples. Choose another recording.`);
  draw(samples, "0 s", `${(samples.length / model.sample_rate).toFixed(1)} s`);
  if (peak(samples) === 0) return say(`${file.name} is silent from start to end: nothing to hear.`);
  const probabilities = await classifyRecording(samples);
  if (mine === turn) show(probabilities);
}

async function listen() {
  clear();
  const mine = ++turn;
  if (!navigator.mediaDevices) {
    const where = "only over https, or from localhost";
    return say(`Browsers give a page the microphone ${where}. Open the page so, or choose a recording.`);
  }
  let stream;
  try {
    // What makes speech clearer would change other sounds.
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
  } catch (error) {
    const known = {
      NotAllowedError: "The microphone was refused. Allow it beside the page's address",
      NotFoundError: "There is no microphone. Plug one in",
    };
    const why = known[error.name] ?? `The microphone cannot be used (${error.message}). Mend that`;
    return say(`${why}, and start again; or choose a recording.`);
  }
  if (mine !== turn) return stream.getTracks().forEach((track) => track.stop());
  const context = new AudioContext();
  listening = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  $("start").textContent = "Stop listening";
  stream.getTracks()[0].addEventListener("ended", () => {
    stop();
    clear();
    say("The microphone was unplugged or taken away.");
  });
  await context.audioWorklet.addModule("capture.js");
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  const resampler = new Resampler(context.sampleRate, model.sample_rate);
  const latest = new Float32Array(model.window);
  let fresh = 0; // samples since the last window
  let busy = false;
  capture.port.onmessage = async ({ data }) => {
    const samples = round16(resampler.push(data));
    latest.copyWithin(0, samples.length);
    latest.set(samples, latest.length - samples.length);
    fresh += samples.length;
    const due = fresh >= EVERY * model.sample_rate;
    if (due || !still.matches) draw(latest, `${model.window / model.sample_rate} s ago`, "now");
    if (!due || busy) return;
    fresh = 0;
    busy = true;
    await answer(latest.slice(), context);
    busy = false;
  };
  context.createMediaStreamSource(stream).connect(capture);
  say("Listening");
}

/** Shows the answer to a window of the microphone, unless it comes after the end. */
async function answer(window, context) {
  const [probabilities] = await classify([window]);
  if (context.state === "closed") return;
  if (peak(window) < Math.max(QUIET, model.min_peak)) {
    clear();
    say("Nothing to hear");
  } else {
    show(probabilities);
  }
  document.dispatchEvent(new CustomEvent("answer", { detail: { window, probabilities } }));
}

function stop() {
  listening?.();
  listening = undefined;
  $("start").textContent = "Start listening";
}

$("start").addEventListener("click", () => {
  if (!listening) return listen();
  stop();
  clear();
  say("Stopped.");
});
$("file").addEventListener("change", ({ target }) => target.files.length && open(target.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dragged"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  if (session && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});
load();
