"""WaveMsNet: the waveform through filters of three lengths at once; in phase 2 beside a log-mel spectrogram."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.models.blocks import ConvNorm, check_waveforms
from esc_lib.models.convolution import Conv2d

N_FFT, HOP, BANDS, FRAMES = 2048, 150, 96, 441


def conv(n_in: int, n_out: int, kernel: tuple[int, int], stride: int = 1) -> ConvNorm:
    """Convolution with bias, padded by half its kernel, and batch norm; both begin as PyTorch begins them."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return ConvNorm(Conv2d(n_in, n_out, kernel, (1, stride), padding), nn.BatchNorm2d(n_out))


class WaveMsNet(nn.Module):
    """Three branches of two convolutions, short and fine to long and coarse, make one map of 96 bands by 441 frames.

    Source: B. Zhu, C. Wang, F. Liu, J. Lei, Z. Huang, Y. Peng, F. Li, "Learning Environmental Sounds with Multi-scale
    Convolutional Neural Network", IJCNN 2018, phase 1, layer by layer as in the authors' code. That code feeds the map
    twice in phase 1, to keep a second input channel for phase 2; here it has one channel, and phase 2 adds the other.

    Args:
        n_classes: number of outputs.

    Shape:
        `(batch, 1, 66150)` waveform at 44.1 kHz, full scale at 1.0 -> `(batch, n_classes)` logits
    """

    SAMPLE_RATE = 44100
    INPUT_SAMPLES = 66150  # 1.5 s
    LENGTHS = (INPUT_SAMPLES,)
    FRONT_END = ("branch1", "branch2", "branch3")
    MAPS = 1

    def __init__(self, n_classes: int):
        super().__init__()
        # Filters of 0.25, 1.2 and 2.3 ms; the longer they are, the larger their step.
        self.branch1 = nn.ModuleList([conv(1, 32, (1, 11)), conv(32, 32, (1, 11))])
        self.branch2 = nn.ModuleList([conv(1, 32, (1, 51), stride=5), conv(32, 32, (1, 11))])
        self.branch3 = nn.ModuleList([conv(1, 32, (1, 101), stride=10), conv(32, 32, (1, 11))])
        self.conv3 = conv(self.MAPS, 64, (3, 3))
        self.conv4 = conv(64, 128, (3, 3))
        self.conv5 = conv(128, 256, (3, 3))
        self.conv6 = conv(256, 256, (3, 3))
        self.fc1 = nn.Linear(256 * 4 * 5, 4096)
        self.fc2 = nn.Linear(4096, n_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, one: Tensor | None = None) -> Tensor:
        """`one` is what the first branch makes of the waveform, if that is known already."""
        check_waveforms(x, self)
        return self.classify(self.features(x, one))

    def features(self, x: Tensor, one: Tensor | None = None) -> Tensor:
        """The learned time-frequency map: 3 x 32 bands by 441 frames of 3.4 ms."""
        x = x.unsqueeze(2)  # (B, 1, 66150) -> (B, 1, 1, 66150)
        if one is None:
            one = self.branch(x, self.branch1, 150)  # -> (B, 32, 1, 66150) -> (B, 32, 1, 441)
        two = self.branch(x, self.branch2, 30)  # -> (B, 32, 1, 13230) -> (B, 32, 1, 441)
        three = self.branch(x, self.branch3, 15)  # -> (B, 32, 1, 6615) -> (B, 32, 1, 441)
        return torch.cat([one, two, three], dim=1).transpose(1, 2)  # -> (B, 1, 96, 441)

    def branch(self, x: Tensor, convs: nn.ModuleList, pool: int) -> Tensor:
        """One scale: `(B, 1, 1, 66150)` -> `(B, 32, 1, 441)`."""
        x = F.relu(convs[0](x))
        return F.relu(convs[1](x, pool=(1, pool)))

    def windows(self, whole: Tensor, starts: list[int]) -> Tensor:
        """What the network says of windows of one longer waveform: as of each by itself, but sooner if they overlap.

        The first branch, which is most of the work, is computed once for all. Only the first and the last frame of a
        window differ, because a window by itself has zeros around it: these few samples are computed again.

        Args:
            whole: the waveform.
            starts: where each window begins, in samples.

        Shape:
            whole: `(1, 1, T)` -> `(len(starts), n_classes)`
        """
        x = torch.cat([whole[:, :, start : start + self.INPUT_SAMPLES] for start in starts])  # -> (B, 1, 66150)
        frame = 150  # samples
        first = self.branch(x[:, :, : 2 * frame].unsqueeze(2), self.branch1, frame)  # -> (B, 32, 1, 2)
        last = self.branch(x[:, :, -2 * frame :].unsqueeze(2), self.branch1, frame)
        whole = self.branch(whole.unsqueeze(2), self.branch1, 1)  # -> (1, 32, 1, T)
        one = torch.cat([whole[..., start : start + self.INPUT_SAMPLES] for start in starts])  # -> (B, 32, 1, 66150)
        one = F.max_pool2d(one, (1, frame))  # -> (B, 32, 1, 441)
        one[..., 0], one[..., -1] = first[..., 0], last[..., 1]
        return self(x, one)

    def classify(self, x: Tensor) -> Tensor:
        """What the map shows: `(B, 1, 96, 441)` -> `(B, n_classes)`."""
        x = F.relu(self.conv3(x, pool=(3, 11)))  # -> (B, 64, 96, 441) -> (B, 64, 32, 40)
        x = F.relu(self.conv4(x, pool=(2, 2)))  # -> (B, 128, 32, 40) -> (B, 128, 16, 20)
        x = F.relu(self.conv5(x, pool=(2, 2)))  # -> (B, 256, 16, 20) -> (B, 256, 8, 10)
        x = F.relu(self.conv6(x, pool=(2, 2)))  # -> (B, 256, 8, 10) -> (B, 256, 4, 5)
        x = x.flatten(1)  # -> (B, 5120)
        x = self.dropout(F.relu(self.fc1(x)))  # -> (B, 4096)
        return self.fc2(x)  # -> (B, n_classes)


class LogMel(nn.Module):
    """Log-mel spectrogram of each waveform, brought to mean 0 and deviation 1.

    Source: settings as in the authors' code for WaveMsNet (librosa's mel filters, 96 bands, hop 150, the last 80 dB).
    That code hands the decibels over as they are; here each picture is standardised, because tens of decibels beside
    the learned map's values around one would drown them.

    Shape:
        `(batch, 1, 66150)` -> `(batch, 1, 96, 441)`
    """

    def __init__(self, sample_rate: int):
        super().__init__()
        from torchaudio.functional import melscale_fbanks  # late, so that `import esc_lib` does not need torchaudio

        filters = melscale_fbanks(N_FFT // 2 + 1, 0.0, sample_rate / 2, BANDS, sample_rate, "slaney", "slaney")
        # Not in the state dict: they are constants, not something that was learned.
        self.register_buffer("filters", filters, persistent=False)  # (1025, 96)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        from torchaudio.functional import amplitude_to_DB, spectrogram

        spectrum = spectrogram(x, 0, self.window, N_FFT, HOP, N_FFT, power=None, normalized=False)
        # Power is a sum of squares, and a band a sum of powers: all in one product, which is faster than `abs`.
        parts = torch.view_as_real(spectrum.transpose(2, 3)).flatten(3)  # -> (B, 1, 442, 2 x 1025)
        mel = parts.square() @ self.filters.repeat_interleave(2, dim=0)  # -> (B, 1, 442, 96)
        mel = mel.transpose(2, 3)[..., :FRAMES]  # -> (B, 1, 96, 441)
        decibels = amplitude_to_DB(mel, multiplier=10.0, amin=1e-10, db_multiplier=0.0, top_db=80.0)
        return F.layer_norm(decibels, decibels.shape[1:])


class WaveMsNetLogMel(WaveMsNet):
    """WaveMsNet's phase 2: the learned map and the log-mel spectrogram, one upon the other, read together.

    Source: as for `WaveMsNet`; how the authors trained it is in `esc_lib.recipes`.

    Shape:
        as for `WaveMsNet`: the spectrogram is computed inside, on the waveform's device
    """

    MAPS = 2

    def __init__(self, n_classes: int):
        super().__init__(n_classes)
        self.logmel = LogMel(self.SAMPLE_RATE)

    def forward(self, x: Tensor, one: Tensor | None = None) -> Tensor:
        check_waveforms(x, self)
        return self.classify(torch.cat([self.features(x, one), self.logmel(x)], dim=1))  # -> (B, 2, 96, 441)

    def load_phase_1(self, state: dict[str, Tensor]) -> None:
        """Takes over what a `WaveMsNet` learned; only conv3's weights for the log-mel spectrogram stay as they were."""
        weight = self.conv3[0].weight.detach().clone()
        weight[:, :1] = state["conv3.0.weight"]
        self.load_state_dict({**state, "conv3.0.weight": weight})
