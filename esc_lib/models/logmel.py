"""Log-mel spectrograms, and two networks that classify them: baselines for those that learn their own filters."""

import torch.nn.functional as F
from torch import Tensor, device, get_default_device, hann_window, nn, view_as_real

from esc_lib.models.blocks import Network, conv_block
from esc_lib.models.envnet import EnvNet


class LogMel(nn.Module):
    """Log-mel spectrogram of each waveform, standardised to mean 0 and standard deviation 1.

    Nothing in it is learned. The settings that it has by default are WaveMsNet's: librosa's mel filters, 96 bands,
    hop 150, the last 80 dB, as in the code of Zhu et al., IJCNN 2018. That code passes the decibels on unscaled; here
    each spectrogram is standardised, because tens of decibels would drown the learned map, whose values are around
    one. No statistics of a data set are needed, and loudness does not matter.

    Args:
        sample_rate: of the waveforms, in Hz; the bands reach up to half of it.
        window: length of the Hann window and of the Fourier transform, in samples.
        hop: from frame to frame, in samples.
        bands: number of mel bands.

    Shape:
        `(batch, 1, T) -> (batch, 1, bands, T // hop)`; T is more than half a window, because the ends are mirrored
    """

    filters: Tensor
    window: Tensor

    def __init__(self, sample_rate: int, *, window: int = 2048, hop: int = 150, bands: int = 96):
        super().__init__()
        from torchaudio.functional import melscale_fbanks  # late: only networks with a spectrogram need torchaudio

        self.hop = hop
        # Constants, so not in the state dict; a network that is built on "meta", without values, needs them as well.
        place = get_default_device()
        with device("cpu") if place.type == "meta" else place:
            filters = melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, "slaney", "slaney")
            self.register_buffer("filters", filters, persistent=False)  # (window / 2 + 1, bands)
            self.register_buffer("window", hann_window(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        from torchaudio.functional import amplitude_to_DB, spectrogram

        length = len(self.window)
        spectrum = spectrogram(x, 0, self.window, length, self.hop, length, power=None, normalized=False)
        # Power is a sum of squares, and a band a sum of powers: all in one product, which is faster than `abs`.
        parts = view_as_real(spectrum.transpose(2, 3)).flatten(3)  # -> (B, 1, frames + 1, window + 2)
        mel = parts.square() @ self.filters.repeat_interleave(2, dim=0)  # -> (B, 1, frames + 1, bands)
        mel = mel.transpose(2, 3)[..., : x.shape[2] // self.hop]  # -> (B, 1, bands, frames)
        decibels = amplitude_to_DB(mel, multiplier=10.0, amin=1e-10, db_multiplier=0.0, top_db=80.0)
        return F.layer_norm(decibels, decibels.shape[1:])


class LogMelCNN(EnvNet):
    """EnvNet with a log-mel spectrogram in place of its first two convolutions: what does learning the filters gain?

    The map is of EnvNet's size, 40 bands by 150 frames of 10 ms, and everything after it is EnvNet's, layer by layer.

    Source: the comparison is that of Y. Tokozume, T. Harada, "Learning Environmental Sounds with End-to-End
    Convolutional Neural Network", ICASSP 2017. Their spectrogram's details are not public in code; windows of 25 ms
    and the standardisation are ours, and there is no second channel with deltas.

    Shape:
        `(batch, 1, 24014)` waveform at 16 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    FRONT_END = ("logmel",)

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        del self.conv1, self.conv2
        self.logmel = LogMel(self.SAMPLE_RATE, window=400, hop=160, bands=40)

    def features(self, x: Tensor) -> Tensor:
        """The spectrogram: `(B, 1, 24014)` -> `(B, 1, 40, 150)`."""
        return self.logmel(x)


class LogMelM5(Network):
    """A log-mel spectrogram and a CNN of M5's size: four convolutions and a global average, for clips of any length.

    Our design: input, layers, parameters (0.54 million, M5's 0.56), multiplications, initialisation and pooling by four
    after each convolution are M5's or close to it, but the convolutions are of 3 bands by 3 frames.

    Shape:
        `(batch, 1, samples)` waveform at 8 kHz, 101 samples or more -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 8000
    INPUT_SAMPLES = 32000  # 4 s
    LENGTHS = range(101, 10**9)  # half a window and one
    FRONT_END = ("logmel",)
    WIDTHS = (32, 64, 128, 384)

    def __init__(self, n_classes: int):
        super().__init__()
        self.logmel = LogMel(self.SAMPLE_RATE, window=200, hop=80, bands=40)  # 25 ms, 10 ms
        widths = zip((1, *self.WIDTHS), self.WIDTHS, strict=False)
        self.convs = nn.Sequential(*(conv(n_in, n_out) for n_in, n_out in widths))
        self.fc = nn.Linear(self.WIDTHS[-1], n_classes)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        """The spectrogram, 40 bands by frames of 10 ms: `(B, 1, T)` -> `(B, 1, 40, T // 80)`."""
        return self.logmel(x)

    def classify(self, x: Tensor) -> Tensor:
        """Four convolutions, the global average and the last layer: `(B, 1, 40, T)` -> `(B, n_classes)` logits."""
        x = self.convs(x)  # -> (B, 32, 20, T / 2) -> (B, 64, 10, T / 4) -> (B, 128, 5, T / 8) -> (B, 384, 3, T / 16)
        return self.fc(x.mean(dim=(2, 3)))  # -> (B, 384) -> (B, n_classes)


def conv(n_in: int, n_out: int) -> nn.Sequential:
    """Convolution of 3 x 3 that keeps the size, Glorot-uniform at the start, its norm, ReLU and pooling by 2 x 2.

    Shape:
        `(batch, n_in, F, T) -> (batch, n_out, ceil(F / 2), ceil(T / 2))`
    """
    layer = nn.Conv2d(n_in, n_out, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return conv_block(layer, pool=(2, 2), ceil_mode=True)
