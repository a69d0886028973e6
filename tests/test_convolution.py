"""The convolutions, batch norms and poolings written for CPUs against PyTorch's own in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_lib.models import convolution
from esc_lib.models.blocks import ConvNorm
from esc_lib.models.cpu import Conv2d, conv_and_norm, norm_and_pool, plain_operations

# Parts of the largest value that single precision and bfloat16 may lose in such sums.
SINGLE = 100 * torch.finfo(torch.float32).eps
HALF = 3 * torch.finfo(torch.bfloat16).eps
FORMATS = [torch.contiguous_format, torch.channels_last]

# Shape of the input without batch, output channels, kernel, stride, padding. A row of 600 or more outputs folds if a
# number up to 32 divides it into parts of 300 or more.
LAYERS = {
    "envnet conv2, folds by 8": ((40, 1, 2407), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv2, folds by 7 into 307": ((40, 1, 2156), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv2, prime length": ((40, 1, 1208), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv2, just folds": ((40, 1, 607), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv2, too short": ((40, 1, 605), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv2, one window": ((40, 1, 8), 40, (1, 8), (1, 1), (0, 0)),
    "envnet conv3": ((1, 40, 150), 50, (8, 13), (1, 1), (0, 0)),
    "envnet conv4": ((50, 11, 46), 50, (1, 5), (1, 1), (0, 0)),
    "envnetv2 conv2, folds by 4": ((32, 1, 2414), 64, (1, 16), (1, 2), (0, 0)),
    "envnetv2 conv2, odd length folds by 2": ((32, 1, 1215), 64, (1, 16), (1, 2), (0, 0)),
    "envnetv2 conv2, too short": ((32, 1, 100), 64, (1, 16), (1, 2), (0, 0)),
    "envnetv2 conv3": ((1, 30, 50), 32, (8, 8), (1, 1), (0, 0)),
    "wavemsnet branch1, first": ((1, 1, 1200), 32, (1, 11), (1, 1), (0, 5)),
    "wavemsnet branch1, second, folds by 4": ((32, 1, 1200), 32, (1, 11), (1, 1), (0, 5)),
    "wavemsnet branch2, first": ((1, 1, 3003), 32, (1, 51), (1, 5), (0, 25)),
    "wavemsnet conv3": ((1, 24, 41), 64, (3, 3), (1, 1), (1, 1)),
    "wavemsnet conv3 with log-mel": ((2, 24, 41), 64, (3, 3), (1, 1), (1, 1)),
    "acdnet conv1": ((1, 1, 1231), 8, (1, 9), (1, 2), (0, 0)),
    "acdnet conv2, folds by 2": ((8, 1, 1205), 64, (1, 5), (1, 2), (0, 0)),
    "acdnet conv2, folds by 3 with a sample left": ((8, 1, 1988), 64, (1, 5), (1, 2), (0, 0)),
    "stride with padding": ((8, 1, 1200), 16, (1, 4), (1, 2), (0, 1)),
    "stride with padding that folds": ((8, 1, 1202), 16, (1, 5), (1, 2), (0, 1)),
    "acdnet conv12": ((64, 2, 4), 10, (1, 1), (1, 1), (0, 0)),
    "m-nets conv1": ((1, 1, 2402), 128, (1, 80), (1, 4), (0, 38)),
    "waveform between rows of zeros": ((1, 1, 1200), 8, (1, 9), (1, 2), (1, 0)),
    "waveform below a picture's kernel": ((1, 1, 1200), 8, (3, 9), (1, 2), (1, 0)),
    "row between rows of zeros": ((8, 1, 1204), 6, (1, 5), (1, 1), (1, 0)),
    "m-nets stage, folds by 5": ((16, 1, 1500), 32, (1, 3), (1, 1), (0, 1)),
    "m-nets stage, short": ((16, 1, 125), 32, (1, 3), (1, 1), (0, 1)),
}
WAVEFORMS = {
    "envnet": ((1, 1, 1207), 40, (1, 8), (1, 1), (0, 0)),
    "envnetv2": ((1, 1, 1202), 32, (1, 64), (1, 2), (0, 0)),
    "wavemsnet branch1": LAYERS["wavemsnet branch1, first"],
    "wavemsnet branch2": LAYERS["wavemsnet branch2, first"],
    "acdnet": LAYERS["acdnet conv1"],
    "m5": LAYERS["m-nets conv1"],
    "m34res": ((1, 1, 2400), 48, (1, 80), (1, 4), (0, 38)),
    "stride that leaves samples": ((1, 1, 997), 16, (1, 7), (1, 3), (0, 2)),
}
# Shape of the map, pool, ceil_mode.
POOLS = {
    "envnet": ((40, 1, 960), (1, 160), False),
    "envnetv2, with a rest": ((64, 1, 150), (1, 64), False),
    "m-nets": ((16, 1, 128), (1, 4), True),
    "m-nets, with a rest": ((16, 1, 125), (1, 4), True),
    "m-nets, shorter than the pool": ((16, 1, 3), (1, 4), True),
    "acdnet, with a rest": ((32, 6, 15), (2, 2), False),
    "wavemsnet, with rests": ((8, 13, 25), (3, 11), False),
    "rests in both directions": ((8, 7, 8), (5, 3), True),
}


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def twins(n_in, n_out, kernel=(1, 1), stride=(1, 1), padding=(0, 0), bias=False, layout=torch.contiguous_format):
    """A convolution and a batch norm with negative scales, ours in float32 and PyTorch's in float64, both training."""
    both = []
    for conv in (Conv2d, nn.Conv2d):
        norm = nn.BatchNorm2d(n_out, eps=2e-5, momentum=0.3)
        both.append(nn.ModuleDict({"conv": conv(n_in, n_out, kernel, stride, padding, bias=bias), "norm": norm}))
    ours, plain = both
    generator = torch.Generator().manual_seed(2)
    for key, value in ours.state_dict().items():
        if value.is_floating_point():
            value.normal_(generator=generator)
        if key.endswith("running_var"):
            value.abs_()
    plain.double().load_state_dict(ours.state_dict())
    return ours.to(memory_format=layout), plain


def leaf(x, layout=torch.contiguous_format, needs_gradient=True):
    return x.clone(memory_format=layout).requires_grad_(needs_gradient)


def results(function, layers, x, grad=None):
    """Output, gradients and what the batch norm remembers, by name."""
    y, before = function(layers, x), x.detach().clone()
    grad = noise(*y.shape, seed=3).to(y.dtype) if grad is None else grad.to(y.dtype)
    given = grad.clone()
    y.backward(grad)
    assert torch.equal(x, before) and torch.equal(grad, given), "what was handed over must stay as it was"
    gradients = {name: parameter.grad for name, parameter in layers.named_parameters()}
    return {"output": y.detach(), "x": x.grad, **gradients, **dict(layers.named_buffers())}


def compare(found, expected, tolerance=SINGLE):
    """Each equal but for this part of its largest value; and there must be a gradient where there should be one."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
            continue
        size = value.abs().max().item()
        if name == "conv.bias" and size < 1e-9:
            size = 100.0  # batch norm takes it off again: only the rounding of a sum over the map is left
        torch.testing.assert_close(
            found[name].double(), value.double(), rtol=0, atol=tolerance * size, msg=lambda m, name=name: f"{name}: {m}"
        )


def convolve(layers, x):
    return layers["conv"](x)


def convolve_and_norm(layers, x):
    return conv_and_norm(x, layers["conv"], layers["norm"])


def plain_convolve_and_norm(layers, x):
    return layers["norm"](layers["conv"](x))


def pooling(pool, ceil_mode=False):
    return lambda layers, x: norm_and_pool(x, layers["norm"], pool, ceil_mode)


def plain_pooling(pool, ceil_mode=False):
    return lambda layers, x: F.max_pool2d(layers["norm"](x), pool, ceil_mode=ceil_mode)


# Shape of the input, settings of the layers, our function, PyTorch's, whether the input needs a gradient.
CASES = {
    "convolution": ((8, 1, 605), (6, (1, 5), (1, 1), (0, 2), True), convolve, convolve, True),
    "filters": ((1, 1, 300), (12, (1, 8), (1, 1), (0, 2), True), convolve_and_norm, plain_convolve_and_norm, False),
    "pool": ((6, 4, 30), (6,), pooling((2, 5)), plain_pooling((2, 5)), True),
}
FAST = {"convolution": "_ConvolutionBackward", "filters": "_FiltersAndNormBackward", "pool": "_NormAndPoolBackward"}
PLAIN = {
    "convolution": "ConvolutionBackward0",
    "filters": "NativeBatchNormBackward0",
    "pool": "MaxPool2DWithIndicesBackward0",
}


def case(name):
    """An input, our layers and function, PyTorch's layers and function, whether the input needs a gradient."""
    shape, settings, ours_do, plain_does, needs = BFLOAT16_CASES[name]
    ours, plain = twins(shape[0], *settings)
    return noise(2, *shape), ours, ours_do, plain, plain_does, needs


# Outputs, gradients and running statistics.


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_convolution(layer, bias, layout):
    shape, *settings = LAYERS[layer]
    ours, plain = twins(shape[0], *settings, bias, layout)
    x = noise(2, *shape)
    found = results(convolve, ours, leaf(x, layout))
    assert found["output"].dtype == found["x"].dtype == found["conv.weight"].dtype == torch.float32
    compare(found, results(convolve, plain, leaf(x.double())))


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("waveform", WAVEFORMS)
def test_first_convolution_and_its_norm(waveform, bias, layout):
    shape, *settings = WAVEFORMS[waveform]
    ours, plain = twins(1, *settings, bias, layout)
    x = noise(3, *shape)
    found = results(convolve_and_norm, ours, leaf(x, layout, needs_gradient=False))
    compare(found, results(plain_convolve_and_norm, plain, leaf(x.double(), needs_gradient=False)))


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("shape", [(8, 1, 605), (1, 1, 605)], ids=["map", "waveform"])
def test_convolution_and_norm_of_an_input_that_needs_a_gradient(shape, bias):
    ours, plain = twins(shape[0], 12, (1, 8), padding=(0, 2), bias=bias)
    x = noise(2, *shape)
    expected = results(plain_convolve_and_norm, plain, leaf(x.double()))
    assert expected["x"].any()
    compare(results(convolve_and_norm, ours, leaf(x)), expected)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("scales", ["positive", "negative", "both"])
@pytest.mark.parametrize("case", POOLS)
def test_norm_and_pool(case, scales, layout):
    shape, *pool = POOLS[case]
    ours, plain = twins(1, shape[0])
    for layers in (ours, plain):
        if scales != "both":
            layers["norm"].weight.data.abs_().mul_(1 if scales == "positive" else -1)
        else:
            assert layers["norm"].weight.min() < 0 < layers["norm"].weight.max()
    x = 0.5 + 2 * noise(2, *shape)
    compare(results(pooling(*pool), ours, leaf(x, layout)), results(plain_pooling(*pool), plain, leaf(x.double())))


def test_a_scale_of_zero_learns_as_one_just_above_zero():
    ours, plain = twins(1, 6)
    ours["norm"].weight.data[2], plain["norm"].weight.data[2] = 0, 1e-12
    x = noise(2, 6, 4, 20)
    found = results(pooling((2, 5)), ours, leaf(x))
    shift = plain["norm"].bias[2].item()
    plain["norm"].bias.data[2] = 0  # 1e-12 beside it would be lost
    expected = results(plain_pooling((2, 5)), plain, leaf(x.double()))
    assert (found["output"][:, 2] == shift).all() and not found["x"][:, 2].any()
    assert found["norm.weight"][2].abs() > 1
    expected["output"][:, 2] += shift
    compare(found, expected)


def test_one_of_equal_values_gets_the_gradient():
    ours, plain = twins(1, 6)
    x = torch.randint(0, 3, (2, 6, 4, 20), generator=torch.Generator().manual_seed(1)).float()
    found = results(pooling((2, 5)), ours, leaf(x))
    expected = results(plain_pooling((2, 5)), plain, leaf(x.double()))
    # Batch norm takes the mean off, so that a window's gradient that is lost or counted twice shows in the sum.
    assert found["x"].sum(dim=(0, 2, 3)).abs().max() < SINGLE * found["x"].abs().sum(dim=(0, 2, 3)).max()
    for gradients in (found, expected):  # which one it is may differ
        gradients["x"] = F.avg_pool2d(gradients["x"], (2, 5))
    compare(found, expected)


def test_quiet_maps_feel_the_epsilon():
    x = 3e-3 * noise(2, 1, 1, 400)
    ours, plain = twins(1, 12, (1, 8))
    for layers in (ours, plain):
        layers["conv"].weight.data /= 3
    expected = results(plain_convolve_and_norm, plain, leaf(x.double(), needs_gradient=False))
    compare(results(convolve_and_norm, ours, leaf(x, needs_gradient=False)), expected)
    x = 3e-3 * noise(2, 12, 1, 400)
    expected = results(plain_pooling((1, 4)), plain, leaf(x.double()))
    compare(results(pooling((1, 4)), ours, leaf(x)), expected)


@pytest.mark.parametrize("periods", [0, 1], ids=["offset", "hum"])
def test_statistics_and_gradients_below_a_huge_low_frequency(periods):
    ours, plain = twins(1, 20, (1, 8), bias=True)
    for layers in (ours, plain):
        layers["norm"].momentum = 1.0
    x = noise(2, 1, 1, 2000) + 300 * torch.linspace(0, 2 * math.pi * periods, 2000).cos()
    found = results(convolve_and_norm, ours, leaf(x, needs_gradient=False))
    expected = results(plain_convolve_and_norm, plain, leaf(x.double(), needs_gradient=False))
    compare(found, expected, tolerance=2e-3)
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-3, atol=0)


@pytest.mark.parametrize("clips", [1, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_clips_and_any_number_of_them_at_once(name, clips, monkeypatch):
    _, ours, ours_do, plain, plain_does, needs = case(name)
    x = noise(clips, *CASES[name][0])
    monkeypatch.setattr(convolution, "_CLIPS_AT_ONCE_GONE", lambda x: 2)
    found = results(ours_do, ours, leaf(x, needs_gradient=needs))
    compare(found, results(plain_does, plain, leaf(x.double(), needs_gradient=needs)))


def test_as_many_clips_at_once_as_there_are_threads_and_more_of_small_maps(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert convolution._CLIPS_AT_ONCE_GONE(torch.empty(64, 128, 1, 8000, device="meta")) == 4
    assert convolution._CLIPS_AT_ONCE_GONE(torch.empty(64, 128, 1, 512, device="meta")) == 16


@pytest.mark.parametrize("pool", [None, (1, 4)])
def test_a_bias_before_a_batch_norm_has_a_gradient_of_zero(pool):
    block = ConvNorm(Conv2d(4, 6, (1, 3)), nn.BatchNorm2d(6))
    block(noise(2, 4, 1, 50), pool).square().sum().backward()
    assert block[0].bias.grad is not None and not block[0].bias.grad.any()
    assert block[0].weight.grad.abs().max() > 1e-3
    block.eval()(noise(2, 4, 1, 50), pool).square().sum().backward()
    assert block[0].bias.grad.all(), "where nothing takes it off it learns"


@pytest.mark.parametrize("pool", [None, (1, 4)])
def test_a_hook_on_a_convolution_inside_a_network_is_called_in_training(pool):
    block, seen = ConvNorm(Conv2d(4, 6, (1, 3)), nn.BatchNorm2d(6)), []
    block[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    block(noise(2, 4, 1, 50), pool)
    assert seen == [(2, 6, 1, 48)]


@pytest.mark.parametrize("places", [1, 2, 6, 16, 31, 48])
@pytest.mark.parametrize("channels", [1, 3, 40])
def test_statistics_of_any_number_of_places_and_channels(channels, places):
    x = 5 + noise(3, channels, 1, places)
    norm, plain = nn.BatchNorm2d(channels, momentum=0.3), nn.BatchNorm2d(channels, momentum=0.3).double()
    norm_and_pool(x, norm, (1, 1))
    plain(x.double())
    compare(dict(norm.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("step", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("kernel", [9, 20])
@pytest.mark.parametrize("padding", [0, 4, 7])
@pytest.mark.parametrize("length", [100, 101, 107])
def test_strided_filters_on_a_waveform(length, padding, kernel, step):
    ours, plain = twins(1, 6, (1, kernel), (1, step), (0, padding), True)
    x = noise(2, 1, 1, length)
    expected = results(convolve, plain, leaf(x.double(), needs_gradient=False))
    compare(results(convolve, ours, leaf(x, needs_gradient=False)), expected)


@pytest.mark.parametrize("arrives", ["channels-last", "transposed", "expanded"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_arrive_in_any_layout(name, arrives):
    x, ours, ours_do, plain, plain_does, needs = case(name)
    with torch.no_grad():
        grad = noise(*convolve(plain, x.double()).shape if name != "pool" else (2, 6, 2, 6), seed=4)
    if arrives == "channels-last":
        grad = grad.contiguous(memory_format=torch.channels_last)
    elif arrives == "transposed":
        grad = grad.transpose(1, 2).contiguous().transpose(1, 2)
    else:
        grad = grad[:, :1, :1, :1].expand_as(grad)
    expected = results(plain_does, plain, leaf(x.double(), needs_gradient=needs), grad)
    compare(results(ours_do, ours, leaf(x, needs_gradient=needs), grad), expected)


# What needs no gradient, and the other modes.


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        *[("convolution", {"conv.weight"}), ("convolution", {"conv.bias"}), ("convolution", {"x"})],
        *[("convolution", {"x", "conv.weight"}), ("convolution", {"conv.weight", "conv.bias"})],
        *[("filters", {"conv.weight"}), ("filters", {"conv.bias"}), ("filters", {"conv.weight", "conv.bias"})],
        *[("filters", {"norm.weight"}), ("filters", {"norm.bias"}), ("filters", {"norm.weight", "norm.bias"})],
        *[("pool", {"norm.weight"}), ("pool", {"norm.bias"}), ("pool", {"x"}), ("pool", {"norm.weight", "norm.bias"})],
    ],
)
def test_what_is_frozen_gets_no_gradient_and_the_others_do(name, frozen):
    x, ours, ours_do, plain, plain_does, needs = case(name)
    needs = needs and "x" not in frozen
    for layers in (ours, plain):
        for key, parameter in layers.named_parameters():
            parameter.requires_grad_(key not in frozen)
    found = results(ours_do, ours, leaf(x, needs_gradient=needs))
    expected = results(plain_does, plain, leaf(x.double(), needs_gradient=needs))
    assert all(found[key] is None for key in frozen)
    compare(found, expected)


@pytest.mark.parametrize("name", ["filters", "pool"])
def test_eval_mode_uses_and_keeps_the_running_statistics(name):
    x, ours, ours_do, plain, plain_does, needs = case(name)
    memory = {key: value.clone() for key, value in ours.named_buffers()}
    ours.eval(), plain.eval()
    found = results(ours_do, ours, leaf(x, needs_gradient=needs))
    expected = results(plain_does, plain, leaf(x.double(), needs_gradient=needs))
    assert all(torch.equal(found[key], value) for key, value in memory.items())
    assert name == "pool" or expected["conv.bias"].abs().max() > 1  # nothing takes it off here
    compare(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_training_mode_moves_the_statistics_all_the_same(name):
    x, ours, ours_do, plain, plain_does, _ = case(name)
    with torch.no_grad():
        y, expected = ours_do(ours, x), plain_does(plain, x.double())
    assert y.grad_fn is None
    compare({"": y, **dict(ours.named_buffers())}, {"": expected, **dict(plain.named_buffers())})


def whole_numbers(*shape):
    """Different ones in each channel, and so few that bfloat16 holds them exactly: no two values change places."""
    size = math.prod(shape[2:])
    assert size <= 256
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randperm(size, generator=generator) - size // 2 for _ in range(shape[0] * shape[1])]
    return torch.stack(rows).float().view(shape)


BFLOAT16_CASES = {
    **CASES,
    "waveform": ((1, 1, 605), (6, (1, 9), (1, 4), (0, 2), True), convolve, convolve, False),
    "long row of many channels": ((32, 1, 605), (6, (1, 5), (1, 1), (0, 2), True), convolve, convolve, True),
}


@pytest.mark.parametrize("name", BFLOAT16_CASES)
def test_bfloat16_autocast(name):
    x, ours, ours_do, plain, plain_does, needs = case(name)
    x = whole_numbers(2, 6, 4, 30).bfloat16() if name == "pool" else x

    def ours_in_bfloat16(layers, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours_do(layers, x)

    found = results(ours_in_bfloat16, ours, leaf(x, needs_gradient=needs))
    grad = noise(*found["output"].shape, seed=3).bfloat16()
    expected = results(plain_does, plain, leaf(x.double(), needs_gradient=needs), grad)
    assert found["output"].dtype == torch.bfloat16
    assert found["x"] is None or found["x"].dtype == x.dtype
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in ours.parameters())
    compare(found, expected, tolerance=HALF)


# Which way is taken.


@pytest.mark.parametrize("name", CASES)
def test_training_on_cpus_takes_the_fast_way(name):
    x, ours, ours_do, _, _, needs = case(name)
    assert ours_do(ours, leaf(x, needs_gradient=needs)).grad_fn.name() == FAST[name]


@pytest.mark.parametrize("name", CASES)
def test_float64_takes_the_plain_way(name):
    x, ours, ours_do, plain, plain_does, needs = case(name)
    x = x.double()
    y = ours_do(ours.double(), leaf(x, needs_gradient=needs))
    assert y.grad_fn.name() == PLAIN[name]
    assert torch.equal(y, plain_does(plain, x))


@pytest.mark.parametrize("name", CASES)
def test_compiled_networks_take_the_plain_way(name):
    x, ours, ours_do, _, _, needs = case(name)
    expected = ours_do(ours, x)
    compiled = torch.compile(ours_do, backend="eager", fullgraph=True)
    y = compiled(ours, leaf(x, needs_gradient=needs))
    assert y.grad_fn.name() == PLAIN[name]
    torch.testing.assert_close(y, expected, rtol=0, atol=SINGLE * expected.abs().max().item())


class Network(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        x = conv_and_norm(x, self.layers["conv"], self.layers["norm"])
        return norm_and_pool(x, self.layers["norm"], (1, 4))


def test_exported_networks_take_the_plain_way():
    shape, settings, *_ = CASES["filters"]
    ours, _ = twins(shape[0], *settings)
    exported = torch.export.export(Network(ours), (noise(2, *shape),))
    used = [node.target.name().split(".")[0] for node in exported.graph.nodes if node.op == "call_function"]
    assert sorted({*used} - {"aten::add_"}) == ["aten::batch_norm", "aten::conv2d", "aten::max_pool2d"]
    assert used.count("aten::batch_norm") == 2


def test_plain_operations_are_pytorchs_own():
    layer = Conv2d(4, 4, (1, 3))
    x = torch.randn(1, 4, 1, 9)
    with plain_operations():
        assert "_Convolution" not in layer(x).grad_fn.name()
        with plain_operations():
            pass
        assert "_Convolution" not in layer(x).grad_fn.name(), "blocks within blocks"
    assert "_Convolution" in layer(x).grad_fn.name()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, SINGLE), (torch.bfloat16, HALF)], ids=str)
def test_at_test_the_norm_is_folded_into_the_convolution(layer, bias, dtype, tolerance):
    (n_in, height, length), n_out, kernel, stride, padding = LAYERS[layer]
    generator = torch.Generator().manual_seed(2)
    block = ConvNorm(Conv2d(n_in, n_out, kernel, stride, padding, bias=bias), nn.BatchNorm2d(n_out, eps=0.1)).eval()
    for value in (*block[1].parameters(), block[1].running_mean):
        value.data.normal_(generator=generator)
    block[1].running_var.uniform_(0.1, 2, generator=generator)
    plain = copy.deepcopy(block).double()
    x = torch.randn(2, n_in, height, length, generator=generator)
    expected = plain[1](plain[0](x.double()))
    pool = (1, min(3, expected.shape[3]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found, pooled = block(x), block(x, pool=pool)
    assert found.dtype == pooled.dtype == dtype
    compare({"": found}, {"": expected}, tolerance)
    compare({"": pooled}, {"": F.max_pool2d(expected, pool)}, tolerance)
