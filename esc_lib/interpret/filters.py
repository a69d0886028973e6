"""How filters respond to frequencies: learned ones, those of ears and those of a mel spectrogram.

A response is a matrix `(filters, frequencies)` at frequencies in Hz: of kernels alone (`kernel_response`), or of a
whole front-end with its norms, ReLUs and pooling (`tone_response`). The latter is negative where a tone lowers the
activation; what is measured here is the size of a response, whatever its sign.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from esc_lib.arguments import check
from esc_lib.interpret.frontends import front_end_layers, learned_map
from esc_lib.models.blocks import Network

Floats = npt.NDArray[np.floating[Any]]
TONES_PER_BATCH = 8


def mel(frequencies: Floats) -> Floats:
    """Frequencies in Hz on the mel scale, 2595 log10(1 + f / 700) (O'Shaughnessy, Speech Communication, 1987)."""
    return 2595 * np.log10(1 + np.asarray(frequencies) / 700)


def mel_frequencies(sample_rate: int, n: int = 128) -> Floats:
    """`n` frequencies in Hz at equal distances on the mel scale, between 0 and half the sampling rate: `(n,)`."""
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("n", n, int, 1, 10**5)
    return 700 * (10 ** (np.linspace(0, mel(np.array(sample_rate / 2)), n + 2)[1:-1] / 2595) - 1)


# Responses ------------------------------------------------------------------------------------------------------------


def first_filters(network: Network) -> dict[str, Floats]:
    """The kernels that slide over the waveform itself, by layer: `(filters, taps)` each; WaveMsNet has three layers."""
    check("network", network, Network)
    convs = {
        layer: next(part for part in network.get_submodule(layer).modules() if isinstance(part, nn.Conv2d))
        for layer in front_end_layers(network)
    }
    return {layer: conv.weight[:, 0, 0].detach().numpy() for layer, conv in convs.items() if conv.in_channels == 1}


def kernel_response(kernels: Floats, frequencies: Floats, sample_rate: int) -> Floats:
    """Magnitude of the Fourier transform of kernels, at any frequencies: an FFT has only multiples of one.

    Args:
        kernels: of a convolution with stride 1 or any other.
        frequencies: Hz.
        sample_rate: of the kernels' input, in Hz.

    Shape:
        kernels: `(filters, taps)`, frequencies: `(n,)` -> `(filters, n)`
    """
    kernels, frequencies = np.asarray(kernels), np.asarray(frequencies)
    if kernels.ndim != 2:
        raise ValueError(f"kernels have the shape {kernels.shape}: expected (filters, taps)")
    check("sample_rate", sample_rate, int, 1, 10**7)
    waves = np.exp(-2j * np.pi * np.arange(kernels.shape[1])[:, None] * frequencies / sample_rate)
    return np.abs(kernels @ waves)


@torch.no_grad()
def tone_response(network: Network, frequencies: Floats, sample_rate: int, *, amplitude: float = 0.1) -> Floats:
    """How much pure tones change the mean activation of each band of the map, compared with silence.

    Unlike that of a kernel, this response depends on the amplitude, because norms add constants before ReLUs. Where
    tone and stride beat slowly, pooling sees a small part of the wave, and the response has a notch.

    Args:
        network: in eval mode.
        frequencies: of the tones, in Hz.
        sample_rate: of the network's input, in Hz.
        amplitude: of the tones; full scale is 1.

    Shape:
        frequencies: `(n,)` -> `(bands, n)`
    """
    check_network(network)
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("amplitude", amplitude, float, 1e-6, 1)
    seconds = torch.arange(network.INPUT_SAMPLES, dtype=torch.float64) / sample_rate
    phase = 2 * torch.pi * torch.as_tensor(frequencies)[:, None, None] * seconds  # (n, 1, T)
    tones = (amplitude * torch.sin(phase)).float()
    means = [learned_map(network, x).mean(dim=2) for x in tones.split(TONES_PER_BATCH)]  # of (n, bands) in all
    silence = learned_map(network, torch.zeros_like(tones[:1])).mean(dim=2)
    return (torch.cat(means) - silence).T.numpy()


def check_network(network: object) -> None:
    """Raises ValueError unless it is a network in eval mode: in training mode its output depends on the batch."""
    check("network", network, Network)
    if isinstance(network, Network) and network.training:
        raise ValueError("the network is in training mode: call its eval() first")


# What responses have in common ----------------------------------------------------------------------------------------


def centre_frequencies(response: Floats, frequencies: Floats) -> Floats:
    """Where each filter responds most, in Hz: `(filters, n)`, `(n,)` -> `(filters,)`.

    The peak, not the spectral centroid: with two peaks, a centroid lies between them, where the filter may not respond
    at all, and for a filter that responds to everything it is the middle of the axis.
    """
    return np.asarray(frequencies)[_check_response(response, frequencies).argmax(axis=1)]


def bandwidths(response: Floats, frequencies: Floats) -> Floats:
    """Equivalent rectangular bandwidth of each filter, in Hz: `(filters, n)`, `(n,)` -> `(filters,)`.

    A rectangle as high as the peak, and of this width, passes as much power of white noise as the filter. Ears are
    measured in the same way (`ear_bandwidth`). It counts all peaks of a filter. A filter of zeros has NaN.
    """
    power = _check_response(response, frequencies) ** 2
    with np.errstate(invalid="ignore"):
        return np.trapezoid(power, frequencies, axis=1) / power.max(axis=1)


def ear_bandwidth(frequencies: Floats) -> Floats:
    """Equivalent rectangular bandwidth of human hearing at a centre frequency, both in Hz.

    Source: B. R. Glasberg, B. C. J. Moore, "Derivation of auditory filter shapes from notched-noise data", Hearing
    Research 47, 1990.

    >>> print(round(float(ear_bandwidth(1000)), 1))
    132.6
    """
    return 24.7 * (4.37 * np.asarray(frequencies) / 1000 + 1)


def mel_bandwidth(frequencies: Floats, sample_rate: int, bands: int) -> Floats:
    """Equivalent rectangular bandwidth of a mel filter at its centre frequency, both in Hz.

    The scale is that of `mel_frequencies`; filters on Slaney's, as `LogMel` has them, are wider at low frequencies. The
    filters of a mel spectrogram are triangles over power, whose feet are the neighbours' peaks: a triangle covers
    as much as a rectangle from one peak to the next.

    Args:
        frequencies: centre frequencies, in Hz.
        sample_rate: in Hz; the bands cover 0 to half of it.
        bands: their number.
    """
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("bands", bands, int, 1, 10**5)
    distance = mel(np.array(sample_rate / 2)) / (bands + 1)
    return distance * np.log(10) / 2595 * (700 + np.asarray(frequencies))  # the mel scale's derivative


def dead_filters(response: Floats, fraction: float = 0.01) -> npt.NDArray[np.bool_]:
    """Which filters respond to nothing: nowhere more than a fraction of the strongest filter's peak.

    Args:
        response: of all filters of a layer.
        fraction: 0.01 is -40 dB.

    Shape:
        `(filters, n)` -> `(filters,)`
    """
    check("fraction", fraction, float, 0, 1)
    peaks = np.abs(response).max(axis=1)
    return np.asarray(peaks <= fraction * peaks.max())


def alike_groups(response: Floats, threshold: float = 0.95) -> npt.NDArray[np.int_]:
    """Groups filters whose responses have the same shape: every two of a group correlate at least this much.

    Args:
        response: of filters that are not dead.
        threshold: lowest correlation within a group.

    Returns:
        the number of each filter's group, from 1; as many different ones as there are different filters.

    Shape:
        `(filters, n)` -> `(filters,)`
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    check("threshold", threshold, float, -1, 1)
    if len(response) < 2:
        return np.ones(len(response), int)
    distances = pdist(np.abs(response), "correlation").clip(0)  # 1 - correlation
    return fcluster(linkage(distances, "complete"), 1 - threshold, "distance")


def filter_sound(
    response: Floats, frequencies: Floats, sample_rate: int, *, seconds: float = 1.0, seed: int = 0
) -> Floats:
    """White noise after one filter, with a peak of 1: what the filter lets through.

    Args:
        response: of the filter, of its kernel or its whole front-end.
        frequencies: of the response, in Hz, rising.
        sample_rate: of the sound, in Hz.
        seconds: of the sound.
        seed: of the noise.

    Shape:
        response, frequencies: `(n,)` -> `(samples,)`
    """
    check("sample_rate", sample_rate, int, 1, 10**7)
    check("seconds", seconds, float, 0.01, 60)
    noise = np.random.default_rng(seed).standard_normal(round(seconds * sample_rate))
    gain = np.interp(np.fft.rfftfreq(len(noise), 1 / sample_rate), frequencies, np.abs(response))
    sound = np.fft.irfft(gain * np.fft.rfft(noise), len(noise))
    return sound / max(np.abs(sound).max(), 1e-12)


def _check_response(response: Floats, frequencies: Floats) -> Floats:
    response, shape = np.abs(response), np.shape(frequencies)
    if response.ndim != 2 or response.shape[1:] != shape:
        raise ValueError(f"response has the shape {response.shape}: expected (filters, frequencies), with {shape}")
    return response
