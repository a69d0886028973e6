// Hands the microphone's samples to the page, mixed to mono, 4096 at a time: 12 times a second at 48 kHz.
class Capture extends AudioWorkletProcessor {
  held = new Float32Array(4096);
  count = 0;

  process([channels]) {
    if (!channels.length) return true; // nothing is connected yet
    for (let i = 0; i < channels[0].length; i++) {
      this.held[this.count++] = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
      if (this.count === this.held.length) {
        this.port.postMessage(this.held);
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
