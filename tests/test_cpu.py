"""What `accelerate` does to a network: nothing but time. Its operations against PyTorch's own in float64."""

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyNet
from torch import nn

from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.acdnet import PoolToFrames
from esc_lib.models.cpu import accelerate, restore
from esc_lib.models.cpu_operations import MIN_CHANNELS, batch_norm, convolve, norm_and_pool

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
    """A convolution and a batch norm with negative scales, in float32 and in float64, both training."""
    generator = torch.Generator().manual_seed(2)
    norm = nn.BatchNorm2d(n_out, eps=2e-5, momentum=0.3)
    ours = nn.ModuleDict({"conv": nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=bias), "norm": norm})
    for key, value in ours.state_dict().items():
        if value.is_floating_point():
            value.normal_(generator=generator)
        if key.endswith("running_var"):
            value.abs_()
    return ours.to(memory_format=layout), copy.deepcopy(ours).double()


def leaf(x, layout=torch.contiguous_format, needs_gradient=True):
    return x.clone(memory_format=layout).requires_grad_(needs_gradient)


def results(function, layers, x, grad=None):
    """Output, gradients and running statistics, by name."""
    y, before = function(layers, x), x.detach().clone()
    grad = noise(*y.shape, seed=3).to(y.dtype) if grad is None else grad.to(y.dtype)
    given = grad.clone()
    y.backward(grad)
    assert torch.equal(x, before) and torch.equal(grad, given), "inputs must not change"
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
        if name.endswith("0.bias") and size < 1e-9:
            size = 100.0  # batch norm subtracts it again: only the rounding of a sum over the map is left
        torch.testing.assert_close(
            found[name].double(), value.double(), rtol=0, atol=tolerance * size, msg=lambda m, name=name: f"{name}: {m}"
        )


def our_conv(layers, x):
    return convolve(x, layers["conv"])


def plain_conv(layers, x):
    return layers["conv"](x)


def our_norm(layers, x):
    return batch_norm(x, layers["norm"])


def plain_norm(layers, x):
    return layers["norm"](x)


def our_pooling(pool, ceil_mode=False):
    return lambda layers, x: norm_and_pool(x, layers["norm"], nn.MaxPool2d(pool, ceil_mode=ceil_mode))


def plain_pooling(pool, ceil_mode=False):
    return lambda layers, x: F.max_pool2d(layers["norm"](x), pool, ceil_mode=ceil_mode)


# Shape of the input, settings of the layers, our function, PyTorch's, the autograd function that shows which ran.
CASES = {
    "convolution": ((8, 1, 605), (6, (1, 5), (1, 1), (0, 2), True), our_conv, plain_conv, "_ConvolutionBackward"),
    "norm": ((6, 1, 300), (6,), our_norm, plain_norm, "_NormBackward"),
    "pool": ((6, 4, 30), (6,), our_pooling((2, 5)), plain_pooling((2, 5)), "_NormAndPoolBackward"),
}
BFLOAT16_CASES = {
    **CASES,
    "waveform": ((1, 1, 605), (6, (1, 9), (1, 4), (0, 2), True), our_conv, plain_conv, ""),
    "long row of many channels": ((32, 1, 605), (6, (1, 5), (1, 1), (0, 2), True), our_conv, plain_conv, ""),
}


def case(name):
    """An input, our layers and function, PyTorch's layers and function."""
    shape, settings, ours_do, plain_does, _ = BFLOAT16_CASES[name]
    ours, plain = twins(shape[0], *settings)
    return noise(2, *shape), ours, ours_do, plain, plain_does


# Operations: outputs, gradients and running statistics.


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_convolution(layer, bias, layout):
    shape, *settings = LAYERS[layer]
    ours, plain = twins(shape[0], *settings, bias, layout)
    x = noise(2, *shape)
    found = results(our_conv, ours, leaf(x, layout))
    assert found["output"].dtype == found["x"].dtype == found["conv.weight"].dtype == torch.float32
    compare(found, results(plain_conv, plain, leaf(x.double())))


@pytest.mark.parametrize("step", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("kernel", [9, 20])
@pytest.mark.parametrize("padding", [0, 4, 7])
@pytest.mark.parametrize("length", [100, 101, 107])
def test_strided_filters_on_a_waveform(length, padding, kernel, step):
    ours, plain = twins(1, 6, (1, kernel), (1, step), (0, padding), True)
    x = noise(2, 1, 1, length)
    expected = results(plain_conv, plain, leaf(x.double(), needs_gradient=False))
    compare(results(our_conv, ours, leaf(x, needs_gradient=False)), expected)


@pytest.mark.parametrize("places", [1, 2, 6, 16, 31, 48])
@pytest.mark.parametrize("channels", [1, 3, 40, MIN_CHANNELS])
def test_norm_of_any_number_of_places_and_channels(channels, places):
    ours, plain = twins(1, channels)
    x = 5 + noise(3, channels, 1, places)
    found = results(our_norm, ours, leaf(x))
    # Where all places of three clips are few, float32's own error is a large part of what is left of the gradient.
    compare(found, results(plain_norm, plain, leaf(x.double())), 10 * SINGLE)


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
    compare(results(our_pooling(*pool), ours, leaf(x, layout)), results(plain_pooling(*pool), plain, leaf(x.double())))


def test_a_scale_of_zero_learns_as_one_just_above_zero():
    ours, plain = twins(1, 6)
    ours["norm"].weight.data[2], plain["norm"].weight.data[2] = 0, 1e-12
    x = noise(2, 6, 4, 20)
    found = results(our_pooling((2, 5)), ours, leaf(x))
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
    found = results(our_pooling((2, 5)), ours, leaf(x))
    expected = results(plain_pooling((2, 5)), plain, leaf(x.double()))
    # Batch norm subtracts the mean, so a window's gradient that is lost or counted twice shows in the sum.
    assert found["x"].sum(dim=(0, 2, 3)).abs().max() < SINGLE * found["x"].abs().sum(dim=(0, 2, 3)).max()
    for gradients in (found, expected):  # which one it is may differ
        gradients["x"] = F.avg_pool2d(gradients["x"], (2, 5))
    compare(found, expected)


@pytest.mark.parametrize("name", ["norm", "pool"])
def test_quiet_maps_feel_the_epsilon(name):
    x, ours, ours_do, plain, plain_does = case(name)
    x = 3e-3 * x
    compare(results(ours_do, ours, leaf(x)), results(plain_does, plain, leaf(x.double())))


@pytest.mark.parametrize("name", ["norm", "pool"])
def test_statistics_and_gradients_of_maps_with_a_large_offset(name):
    x, ours, ours_do, plain, plain_does = case(name)
    x = x + 300
    found, expected = results(ours_do, ours, leaf(x)), results(plain_does, plain, leaf(x.double()))
    compare(found, expected, tolerance=2e-3)
    torch.testing.assert_close(found["norm.running_var"].double(), expected["norm.running_var"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("arrives", ["channels-last", "transposed", "expanded"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_arrive_in_any_layout(name, arrives):
    x, ours, ours_do, plain, plain_does = case(name)
    with torch.no_grad():
        grad = noise(*plain_does(copy.deepcopy(plain), x.double()).shape, seed=4)
    if arrives == "channels-last":
        grad = grad.contiguous(memory_format=torch.channels_last)
    elif arrives == "transposed":
        grad = grad.transpose(1, 2).contiguous().transpose(1, 2)
    else:
        grad = grad[:, :1, :1, :1].expand_as(grad)
    compare(results(ours_do, ours, leaf(x), grad), results(plain_does, plain, leaf(x.double()), grad))


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        *[("convolution", {"conv.weight"}), ("convolution", {"conv.bias"}), ("convolution", {"x"})],
        *[("convolution", {"x", "conv.weight"}), ("convolution", {"conv.weight", "conv.bias"})],
        *[(name, frozen) for name in ("norm", "pool") for frozen in ({"x"}, {"norm.weight"}, {"norm.bias"})],
    ],
)
def test_what_is_frozen_gets_no_gradient_and_the_others_do(name, frozen):
    x, ours, ours_do, plain, plain_does = case(name)
    for layers in (ours, plain):
        for key, parameter in layers.named_parameters():
            parameter.requires_grad_(key not in frozen)
    found = results(ours_do, ours, leaf(x, needs_gradient="x" not in frozen))
    assert all(found[key] is None for key in frozen)
    compare(found, results(plain_does, plain, leaf(x.double(), needs_gradient="x" not in frozen)))


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_training_mode_updates_the_statistics_all_the_same(name):
    x, ours, ours_do, plain, plain_does = case(name)
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


@pytest.mark.parametrize("name", BFLOAT16_CASES)
def test_bfloat16_autocast(name):
    x, ours, ours_do, plain, plain_does = case(name)
    x = whole_numbers(2, 6, 4, 30).bfloat16() if name == "pool" else x.bfloat16() if name == "norm" else x

    def ours_in_bfloat16(layers, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return ours_do(layers, x)

    found = results(ours_in_bfloat16, ours, leaf(x))
    grad = noise(*found["output"].shape, seed=3).bfloat16()
    assert found["output"].dtype == torch.bfloat16 and found["x"].dtype == x.dtype
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in ours.parameters())
    compare(found, results(plain_does, plain, leaf(x.double()), grad), tolerance=HALF)


@pytest.mark.parametrize("name", CASES)
def test_the_fast_operation_runs(name):
    x, ours, ours_do, *_ = case(name)
    assert ours_do(ours, leaf(x)).grad_fn.name() == CASES[name][-1]


# Blocks and networks.


def block(n_in, n_out, kernel, stride=(1, 1), padding=(0, 0), bias=True, pool=None):
    """A block with random parameters and statistics, some scales negative, and the same one accelerated."""
    layers = [nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=bias), nn.BatchNorm2d(n_out, eps=0.1), nn.ReLU()]
    plain = nn.Sequential(*layers, *([] if pool is None else [pool]))
    generator = torch.Generator().manual_seed(2)
    for value in (*plain[1].parameters(), plain[1].running_mean):
        value.data.normal_(generator=generator)
    plain[1].running_var.uniform_(0.1, 2, generator=generator)
    return copy.deepcopy(plain).double(), accelerate(plain)


def run(layers, x):
    return layers(x)


POOLINGS = [None, nn.MaxPool2d((1, 3)), nn.MaxPool2d((1, 4), ceil_mode=True), PoolToFrames(7)]


@pytest.mark.parametrize("pool", POOLINGS, ids=str)
@pytest.mark.parametrize("shape", [(8, 1, 605), (1, 1, 605), (64, 2, 40)], ids=["map", "waveform", "many channels"])
def test_a_block_in_training(shape, pool):
    plain, ours = block(shape[0], 64 if shape[0] == 64 else 12, (1, 8), padding=(0, 2), pool=pool)
    x = noise(2, *shape)
    compare(results(run, ours, leaf(x)), results(run, plain, leaf(x.double())))
    assert not ours[0].bias.grad.any(), "batch norm subtracts the bias"


@pytest.mark.parametrize("pool", POOLINGS[:2], ids=str)
def test_a_frozen_block_passes_gradients_on_and_keeps_its_statistics(pool):
    plain, ours = block(8, 12, (1, 8), pool=pool)
    plain.eval(), ours.eval()
    before = ours[1].running_mean.clone()
    x = noise(2, 8, 1, 605)
    compare(results(run, ours, leaf(x)), results(run, plain, leaf(x.double())))
    assert torch.equal(ours[1].running_mean, before) and ours[0].bias.grad.any()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, SINGLE), (torch.bfloat16, HALF)], ids=str)
def test_at_test_the_norm_is_folded_into_the_convolution(layer, bias, dtype, tolerance):
    shape, *settings = LAYERS[layer]
    plain, ours = block(shape[0], *settings, bias=bias, pool=nn.MaxPool2d((1, 1)))
    x = noise(2, *shape)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = ours.eval()(x)
    assert found.dtype == dtype
    compare({"": found}, {"": plain.eval()(x.double()).detach()}, tolerance)


UNUSUAL = {
    "groups": nn.Sequential(nn.Conv2d(4, 4, (1, 3), groups=2), nn.BatchNorm2d(4)),
    "dilation": nn.Sequential(nn.Conv2d(4, 4, (1, 3), dilation=(1, 2)), nn.BatchNorm2d(4)),
    "padding by name": nn.Sequential(nn.Conv2d(4, 4, (1, 3), padding="same"), nn.BatchNorm2d(4)),
    "padding mode": nn.Sequential(nn.Conv2d(4, 4, (1, 3), padding=1, padding_mode="circular"), nn.BatchNorm2d(4)),
    "norm without statistics": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    "norm with a cumulative mean": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=None)),
    "overlapping pool": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((1, 3), 1)),
    "padded pool": nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((1, 4), padding=(0, 1))
    ),
    "another activation": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GELU()),
    "pool before the norm": nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d((1, 2)), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_blocks_of_another_kind_stay_as_they_are(name):
    assert "forward" not in vars(accelerate(UNUSUAL[name]))


def network(name):
    """A network with random statistics, and dropout off, so that two of them can be compared."""
    torch.manual_seed(0)
    model = build_model(name, 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    model.dropout = nn.Identity() if hasattr(model, "dropout") else None
    return model.to(memory_format=torch.channels_last)


def difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_accelerate_changes_no_parameter_no_key_and_no_result_beyond_rounding(name):
    plain = network(name)
    ours = accelerate(copy.deepcopy(plain))
    state = plain.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    x = noise(2, 1, plain.INPUT_SAMPLES)
    with torch.no_grad():
        assert difference(ours.eval()(x), plain.eval()(x)) < 1e-3
    logits, expected = ours.train()(x), plain.train()(x)
    assert difference(logits.detach(), expected.detach()) < 2e-2
    for y in (logits, expected):
        F.cross_entropy(y, torch.tensor([0, 1])).backward()
    last = [name for name, _ in plain.named_parameters()][-2]
    assert difference(ours.get_parameter(last).grad, plain.get_parameter(last).grad) < 2e-2
    restore(ours)
    assert not [module for module in ours.modules() if {"forward", "windows"} & set(vars(module))]


@pytest.mark.parametrize("mode", ["training", "eval"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_hooks_fire_in_a_network_that_is_not_accelerated(name, mode):
    model, fired = network(name).train(mode == "training"), []
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    for key, module in leaves:
        module.register_forward_hook(lambda *_, key=key: fired.append(key))
    with torch.set_grad_enabled(mode == "training"):
        model(noise(2, 1, model.INPUT_SAMPLES))
    assert len(leaves) > 8 and set(fired) == {key for key, _ in leaves}


@pytest.mark.parametrize("name", ["envnet", "m34res", "acdnet"])
def test_networks_can_be_differentiated_twice(name):
    """The gradient of the input's gradient, against a finite difference along one direction."""
    model = network(name).double().eval()
    x = noise(1, 1, model.INPUT_SAMPLES).double().requires_grad_()
    direction = noise(1, 1, model.INPUT_SAMPLES, seed=5).double()

    def slope(x):
        (grad,) = torch.autograd.grad(model(x).softmax(dim=1)[0, 3], x, create_graph=True)
        return (grad * direction).sum()

    (second,) = torch.autograd.grad(slope(x), x)
    step = 1e-7 * direction
    numeric = (slope(x + step) - slope(x - step)) / 2e-7
    assert (second * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-3, abs=1e-12)


def test_compiled_networks_use_pytorchs_operations():
    torch.manual_seed(0)
    plain = TinyNet(10)
    ours, x = accelerate(copy.deepcopy(plain)), noise(4, 1, 100)
    plain.dropout.eval(), ours.dropout.eval()
    torch._logging.set_logs(all=logging.WARNING)
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(ours, backend=backend)
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-5, atol=1e-6)
    assert [name for name in seen if "batch_norm" in name] and not [name for name in seen if "_Norm" in name]
