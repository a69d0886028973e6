// Recordings as the course's `predict` takes them: mono, at the network's rate, 16 bits, cut into windows.

const FULL_SCALE = 32768; // of 16-bit samples; 1.0 in a waveform
const ZEROS = 80; // zero crossings of the kernel on each side: its transition is a tenth of the band wide
const STEPS = 512; // table entries from one zero crossing to the next; between them the kernel is interpolated
const BETA = 10; // of the Kaiser window: what would alias is 100 dB down
const KERNEL = makeKernel();
export const SIZE = 256; // samples in a spectrum, a power of two
const COS = Float64Array.from({ length: SIZE }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
const SIN = Float64Array.from({ length: SIZE }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));
const BITS = Math.log2(SIZE);
const REVERSED = Array.from(COS, (_, i) => parseInt([...i.toString(2).padStart(BITS, "0")].reverse().join(""), 2));
const re = new Float64Array(SIZE); // where spectra are computed
const im = new Float64Array(SIZE);

/** Resamples a signal that comes piece by piece, by windowed-sinc interpolation. */
export class Resampler {
  constructor(from, to) {
    this.step = from / to; // input samples for each output sample
    this.cutoff = 0.96 * Math.min(1, to / from); // of the input's band
    this.reach = Math.ceil(ZEROS / this.cutoff);
    this.held = new Float32Array(this.reach); // zeros come before the signal
    this.first = -this.reach; // where `held` begins in the signal
    this.received = 0;
    this.made = 0;
  }

  /** Returns the output samples that this piece completes. */
  push(piece) {
    if (this.step === 1) return piece;
    const joined = new Float32Array(this.held.length + piece.length);
    joined.set(this.held);
    joined.set(piece, this.held.length);
    this.received += piece.length;
    const end = this.first + joined.length;
    const last = Math.floor((end - 1 - this.reach) / this.step);
    const out = new Float32Array(Math.max(0, last + 1 - this.made));
    for (let i = 0; i < out.length; i++) out[i] = this.at((this.made + i) * this.step - this.first, joined);
    this.made += out.length;
    const used = Math.max(0, Math.min(joined.length, Math.floor(this.made * this.step) - this.reach - this.first));
    this.held = joined.slice(used);
    this.first += used;
    return out;
  }

  /** Returns the last output samples; zeros follow the signal. */
  finish() {
    if (this.step === 1) return new Float32Array(0);
    const missing = Math.round(this.received / this.step) - this.made;
    return this.push(new Float32Array(2 * this.reach + Math.ceil(this.step))).subarray(0, missing);
  }

  at(time, samples) {
    const scale = this.cutoff * STEPS;
    const from = Math.max(0, Math.ceil(time - this.reach));
    const to = Math.min(samples.length - 1, Math.floor(time + this.reach));
    let sum = 0;
    for (let i = from; i <= to; i++) {
      const place = Math.abs(time - i) * scale;
      const below = Math.floor(place);
      if (below >= KERNEL.length - 1) continue;
      sum += samples[i] * (KERNEL[below] + (place - below) * (KERNEL[below + 1] - KERNEL[below]));
    }
    return sum * this.cutoff;
  }
}

function makeKernel() {
  const kernel = new Float64Array(ZEROS * STEPS + 1);
  for (let i = 0; i < kernel.length; i++) {
    const x = (Math.PI * i) / STEPS;
    kernel[i] = (i ? Math.sin(x) / x : 1) * (bessel(BETA * Math.sqrt(1 - (i / (ZEROS * STEPS)) ** 2)) / bessel(BETA));
  }
  return kernel;
}

/** The modified Bessel function of order 0. */
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-12 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

/** Rounds a waveform to 16 bits, in place. */
export function round16(samples) {
  for (let i = 0; i < samples.length; i++) {
    samples[i] = Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, Math.round(samples[i] * FULL_SCALE))) / FULL_SCALE;
  }
  return samples;
}

/** Decodes a file's bytes to mono at a rate. Throws what `decodeAudioData` throws. */
export async function decode(bytes, rate) {
  const sound = await new OfflineAudioContext(1, 1, fileRate(bytes)).decodeAudioData(bytes);
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, i) => (mono[i] += value / sound.numberOfChannels));
  }
  const resampler = new Resampler(sound.sampleRate, rate);
  const start = resampler.push(mono);
  const end = resampler.finish();
  const samples = new Float32Array(start.length + end.length);
  samples.set(start);
  samples.set(end, start.length);
  return round16(samples);
}

/** The rate of a wav file, at which it is decoded as it is. Other formats are decoded at 48 kHz, the browser's own. */
function fileRate(bytes) {
  const view = new DataView(bytes);
  const name = (at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  if (bytes.byteLength < 44 || name(0) !== "RIFF") return 48000;
  let at = 12;
  while (at + 28 < bytes.byteLength && name(at) !== "fmt ") at += 8 + view.getUint32(at + 4, true);
  const rate = at + 28 < bytes.byteLength ? view.getUint32(at + 12, true) : 0;
  return rate >= 8000 && rate <= 96000 ? rate : 48000; // what every browser can
}

/** Cuts leading and trailing zeros off; what is all zeros becomes empty. */
export function trim(samples) {
  let first = 0;
  let end = samples.length;
  while (first < end && samples[first] === 0) first++;
  while (end > first && samples[end - 1] === 0) end--;
  return samples.subarray(first, end);
}

/** Where a recording's windows start: as many as in a test, and more if they would be over half a window apart. */
export function windowStarts(frames, { window, crops, pad }) {
  const margin = pad ? Math.floor(window / 2) : 0;
  const room = Math.max(0, frames + 2 * margin - window);
  const count = Math.max(crops, 1 + Math.ceil(room / Math.max(1, Math.floor(window / 2))));
  if (count === 1) return [Math.floor(room / 2) - margin];
  return Array.from({ length: count }, (_, i) => Math.floor(room / (count - 1)) * i - margin);
}

/** One window of a recording, which is zero outside. */
export function cut(samples, start, length) {
  const window = new Float32Array(length);
  window.set(samples.subarray(Math.max(0, start), Math.max(0, start + length)), Math.max(0, -start));
  return window;
}

/** The largest distance from zero. */
export function peak(samples) {
  return samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** Power in dB of `SIZE` samples around a place, for SIZE / 2 frequencies from 0 to half the rate; Hann window. */
export function spectrum(samples, centre) {
  for (let i = 0; i < SIZE; i++) {
    re[REVERSED[i]] = (samples[centre - SIZE / 2 + i] ?? 0) * (0.5 - 0.5 * COS[i]);
    im[i] = 0;
  }
  for (let half = 1; half < SIZE; half *= 2) {
    for (let k = 0; k < half; k++) {
      const angle = (k * SIZE) / (2 * half);
      for (let i = k; i < SIZE; i += 2 * half) {
        const j = i + half;
        const x = COS[angle] * re[j] + SIN[angle] * im[j];
        const y = COS[angle] * im[j] - SIN[angle] * re[j];
        re[j] = re[i] - x;
        im[j] = im[i] - y;
        re[i] += x;
        im[i] += y;
      }
    }
  }
  return re.subarray(0, SIZE / 2).map((x, i) => 10 * Math.log10((x ** 2 + im[i] ** 2) / SIZE + 1e-10));
}
