"""The other networks against their papers' tables: sizes, shapes, first weights, and a plain version of each."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.cpu import plain_operations
from esc_lib.models.wavemsnet import LogMel

# Channels of the first layer, then of the layers behind each pooling by four (Dai et al., Table 1).
M_NETS = {
    "m3": [[256], [256], []],
    "m5": [[128], [128], [256], [512], []],
    "m11": [[64], [64] * 2, [128] * 2, [256] * 3, [512] * 2],
    "m18": [[64], [64] * 4, [128] * 4, [256] * 4, [512] * 4],
    "m34res": [[48], [48] * 3, [96] * 4, [192] * 6, [384] * 3],
}
POOLED = [2000, 500, 125, 32]  # lengths that the poolings leave of 32000 samples
CLASSES = {"envnetv2": "EnvNetV2", "wavemsnet": "WaveMsNet", "wavemsnet_logmel": "WaveMsNetLogMel", "acdnet": "ACDNet"}
NAMES = [*CLASSES, *M_NETS]


def noise(batch, samples, dtype=torch.float32, seed=1):
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(name, n_classes=10, seed=0):
    """A network whose batch norms fit to noise and are not the identity, so that a mistake in any layer shows."""
    torch.manual_seed(seed)
    model = build_model(name, n_classes).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = 1.0
    with torch.no_grad():
        model(noise(2, model.INPUT_SAMPLES, seed=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


@pytest.fixture(scope="module")
def network():
    """Each network in eval mode, built once; a test that changes one takes a copy."""
    return functools.cache(lambda name: make(name).eval())


def close(found, expected, tolerance):
    """Equal, but for this part of the largest expected value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def parameters(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# Sizes and shapes.

COUNTS = {
    "envnet": (48_396_758, 48_560_638),
    "envnetv2": (101_087_306, 101_251_186),
    "wavemsnet": (22_017_322, 22_181_202),
    "wavemsnet_logmel": (22_017_898, 22_181_778),
    "m3": (221_194, 231_474),
    "m5": (559_114, 579_634),
    "m11": (1_786_442, 1_806_962),
    "m18": (3_683_786, 3_704_306),
    "m34res": (3_984_154, 3_999_554),
    "acdnet": (4_712_378, 4_735_378),
}


def test_there_are_ten_networks():
    assert set(ARCHITECTURES) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name):
    # The log-mel spectrogram's filters are computed at once, which the device without memory cannot do.
    with torch.device("cpu" if name == "wavemsnet_logmel" else "meta"):
        assert tuple(parameters(build_model(name, n_classes)) for n_classes in (10, 50)) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "rate", "samples"),
    [
        ("envnetv2", 44100, 66650),
        ("wavemsnet", 44100, 66150),
        ("wavemsnet_logmel", 44100, 66150),
        ("acdnet", 20000, 30225),
        *[(name, 8000, 32000) for name in M_NETS],
    ],
)
def test_input_is_that_of_the_paper(name, rate, samples):
    network = ARCHITECTURES[name]
    assert rate == network.SAMPLE_RATE
    assert samples == network.INPUT_SAMPLES
    assert samples in network.LENGTHS


def envnetv2_shapes():
    return {
        "conv1": [(1, 1, 66650), (32, 1, 33294)],
        "conv2": [(32, 1, 33294), (64, 1, 16640)],
        "conv3": [(1, 64, 260), (32, 57, 253)],
        "conv4": [(32, 57, 253), (32, 50, 246)],
        "conv5": [(32, 10, 82), (64, 10, 79)],
        "conv6": [(64, 10, 79), (64, 10, 76)],
        "conv7": [(64, 10, 38), (128, 10, 37)],
        "conv8": [(128, 10, 37), (128, 10, 36)],
        "conv9": [(128, 10, 18), (256, 10, 17)],
        "conv10": [(256, 10, 17), (256, 10, 16)],
        "fc11": [(20480,), (4096,)],
        "fc12": [(4096,), (4096,)],
        "fc13": [(4096,), (10,)],
    }


def wavemsnet_shapes(maps):
    return {
        "branch1.0": [(1, 1, 66150), (32, 1, 66150)],
        "branch1.1": [(32, 1, 66150), (32, 1, 66150)],
        "branch2.0": [(1, 1, 66150), (32, 1, 13230)],
        "branch2.1": [(32, 1, 13230), (32, 1, 13230)],
        "branch3.0": [(1, 1, 66150), (32, 1, 6615)],
        "branch3.1": [(32, 1, 6615), (32, 1, 6615)],
        "conv3": [(maps, 96, 441), (64, 96, 441)],
        "conv4": [(64, 32, 40), (128, 32, 40)],
        "conv5": [(128, 16, 20), (256, 16, 20)],
        "conv6": [(256, 8, 10), (256, 8, 10)],
        "fc1": [(5120,), (4096,)],
        "fc2": [(4096,), (10,)],
    }


def acdnet_shapes(samples, first, second):
    return {
        "conv1": [(1, 1, samples), (8, 1, first)],
        "conv2": [(8, 1, first), (64, 1, second)],
        "conv3": [(1, 64, 151), (32, 64, 151)],
        "conv4": [(32, 32, 75), (64, 32, 75)],
        "conv5": [(64, 32, 75), (64, 32, 75)],
        "conv6": [(64, 16, 37), (128, 16, 37)],
        "conv7": [(128, 16, 37), (128, 16, 37)],
        "conv8": [(128, 8, 18), (256, 8, 18)],
        "conv9": [(256, 8, 18), (256, 8, 18)],
        "conv10": [(256, 4, 9), (512, 4, 9)],
        "conv11": [(512, 4, 9), (512, 4, 9)],
        "conv12": [(512, 2, 4), (10, 2, 4)],
        "fc": [(10,), (10,)],
    }


def m_net_shapes(name):
    (width,), *stages = M_NETS[name]
    shapes = {"conv1": [(1, 1, 32000), (width, 1, 8000)]}
    for i, (widths, length) in enumerate(zip(stages, POOLED, strict=False)):
        for j, n_out in enumerate(widths):
            shapes[f"stages.{i}.{j}"] = [(width, 1, length), (n_out, 1, length)]
            width = n_out
    return {**shapes, "fc": [(width,), (10,)]}


@pytest.mark.parametrize(
    ("name", "samples", "expected"),
    [
        ("envnetv2", 66650, envnetv2_shapes()),
        ("wavemsnet", 66150, wavemsnet_shapes(1)),
        ("wavemsnet_logmel", 66150, wavemsnet_shapes(2)),
        ("acdnet", 30225, acdnet_shapes(30225, 15109, 7553)),
        ("acdnet", 66650, acdnet_shapes(66650, 33321, 16659)),
        *[(name, 32000, m_net_shapes(name)) for name in M_NETS],
    ],
)
def test_every_stage_has_the_tables_shape(network, name, samples, expected):
    # What goes into each stage shows the pooling and the swap of axes before it. What a block returns is pooled
    # already, so its last convolution is asked.
    model, found, hooks = network(name), {layer: [None, None] for layer in expected}, []
    for layer in expected:
        inside = [
            module for module in model.get_submodule(layer).modules() if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        first = lambda _, given, layer=layer: found[layer].__setitem__(0, tuple(given[0].shape))  # noqa: E731
        last = lambda _, given, out, layer=layer: found[layer].__setitem__(1, tuple(out.shape))  # noqa: E731
        hooks += [inside[0].register_forward_pre_hook(first), inside[-1].register_forward_hook(last)]
    with torch.no_grad(), plain_operations():  # ours leave hooks out
        out = model(noise(1, samples))
    for hook in hooks:
        hook.remove()
    assert found == {layer: [(1, *given), (1, *made)] for layer, (given, made) in expected.items()}
    assert out.shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("envnetv2", (1, 64, 260)),
        ("wavemsnet", (1, 96, 441)),
        ("acdnet", (1, 64, 151)),
        ("m3", (256, 1, 500)),
        ("m5", (512, 1, 32)),
        ("m11", (512, 1, 32)),
        ("m18", (512, 1, 32)),
        ("m34res", (384, 1, 32)),
    ],
)
def test_logits_are_what_the_classifier_makes_of_the_features(network, name, shape):
    model = network(name)
    x = noise(1, model.INPUT_SAMPLES)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (1, *shape)
        assert torch.equal(model.classify(features), model(x))


@pytest.mark.parametrize("name", NAMES)
def test_front_end_names_layers_of_the_network(network, name):
    model = network(name)
    layers = [module for part in model.FRONT_END for module in model.get_submodule(part).modules()]
    assert any(isinstance(module, nn.Conv2d) for module in layers)
    assert not any(isinstance(module, nn.Linear) for module in layers)


# Arithmetic, from the tables, in the order convolution, batch norm, ReLU, pooling.


def batch_norm(x, state, name, eps):
    keys = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (state[f"{name}.{key}"][:, None, None] for key in keys)
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def conv(x, state, name, eps, stride=1, padding=(0, 0)):
    x = F.conv2d(x, state[f"{name}.0.weight"], state.get(f"{name}.0.bias"), (1, stride), padding)
    return batch_norm(x, state, f"{name}.1", eps)


def block(*args, **kwargs):
    return conv(*args, **kwargs).clamp(min=0)


def dense(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def plain_envnetv2(state, x):
    x = block(x[:, :, None], state, "conv1", 2e-5, stride=2)
    x = block(x, state, "conv2", 2e-5, stride=2)
    x = F.max_pool2d(x, (1, 64)).permute(0, 2, 1, 3)
    for first, second, pool in [(3, 4, (5, 3)), (5, 6, (1, 2)), (7, 8, (1, 2)), (9, 10, (1, 2))]:
        x = block(x, state, f"conv{first}", 2e-5)
        x = block(x, state, f"conv{second}", 2e-5)
        x = F.max_pool2d(x, pool)
    x = x.reshape(len(x), 20480)
    x = dense(x, state, "fc11").clamp(min=0)
    x = dense(x, state, "fc12").clamp(min=0)
    return dense(x, state, "fc13")


def plain_wavemsnet(state, x, logmel=None):
    maps = []
    for i, (stride, padding, pool) in enumerate([(1, 5, 150), (5, 25, 30), (10, 50, 15)], 1):
        h = block(x[:, :, None], state, f"branch{i}.0", 1e-5, stride, (0, padding))
        h = block(h, state, f"branch{i}.1", 1e-5, 1, (0, 5))
        maps.append(F.max_pool2d(h, (1, pool))[:, :, 0])
    x = torch.cat(maps, dim=1)[:, None]
    x = x if logmel is None else torch.cat([x, logmel], dim=1)
    for i, pool in [(3, (3, 11)), (4, 2), (5, 2), (6, 2)]:
        x = F.max_pool2d(block(x, state, f"conv{i}", 1e-5, 1, (1, 1)), pool)
    x = dense(x.reshape(len(x), 5120), state, "fc1").clamp(min=0)
    return dense(x, state, "fc2")


def plain_acdnet(state, x):
    pool = {30225: 50, 66650: 110}[x.shape[2]]
    x = block(x[:, :, None], state, "conv1", 1e-5, stride=2)
    x = block(x, state, "conv2", 1e-5, stride=2)
    x = F.max_pool2d(x, (1, pool)).permute(0, 2, 1, 3)
    for i in range(3, 12):
        x = block(x, state, f"conv{i}", 1e-5, padding=(1, 1))
        if i in (3, 5, 7, 9, 11):
            x = F.max_pool2d(x, 2)
    x = F.avg_pool2d(block(x, state, "conv12", 1e-5), (2, 4))
    return dense(x.reshape(len(x), 10), state, "fc")


def pool_by_four(x):
    """The largest of each four values, and of what is left at the end."""
    x = F.pad(x, (0, -x.shape[-1] % 4), value=-torch.inf)
    return x.unflatten(-1, (-1, 4)).amax(dim=-1)


def residual(x, state, name):
    h = block(x, state, f"{name}.conv1", 1e-5, padding=(0, 1))
    h = conv(h, state, f"{name}.conv2", 1e-5, padding=(0, 1))
    if h.shape[1] == 2 * x.shape[1]:
        x = torch.cat([x, x], dim=1)
    return batch_norm(x + h, state, f"{name}.norm", 1e-5).clamp(min=0)


def plain_m_net(state, x, name):
    x = x - x.mean(dim=2, keepdim=True)
    x = x / x.square().mean(dim=2, keepdim=True).sqrt()
    x = block(x[:, :, None], state, "conv1", 1e-5, stride=4, padding=(0, 38))
    for i, widths in enumerate(M_NETS[name][1:]):
        x = pool_by_four(x)
        for j in range(len(widths)):
            layer = f"stages.{i}.{j}"
            x = residual(x, state, layer) if name == "m34res" else block(x, state, layer, 1e-5, padding=(0, 1))
    return dense(x.mean(dim=(2, 3)), state, "fc")


@pytest.mark.parametrize(
    ("name", "samples", "plain"),
    [
        ("envnetv2", 66650, plain_envnetv2),
        ("wavemsnet", 66150, plain_wavemsnet),
        ("acdnet", 30225, plain_acdnet),
        ("acdnet", 66650, plain_acdnet),
        *[(name, 32000, functools.partial(plain_m_net, name=name)) for name in M_NETS],
    ],
)
def test_a_plain_version_in_float64_gives_the_same_logits(network, name, samples, plain):
    model, x = copy.deepcopy(network(name)).double(), noise(1, samples, torch.float64)
    with torch.no_grad():
        close(model(x), plain(model.state_dict(), x), 1e-7)


def test_a_plain_version_in_float64_gives_the_same_logits_beside_the_log_mel(network):
    model, x = copy.deepcopy(network("wavemsnet_logmel")).double(), noise(1, 66150, torch.float64)
    with torch.no_grad():
        close(model(x), plain_wavemsnet(model.state_dict(), x, model.logmel(x)), 1e-7)


# Training, evaluation, export.


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(network, name):
    model = copy.deepcopy(network(name)).train()
    F.cross_entropy(model(noise(2, model.INPUT_SAMPLES)), torch.tensor([0, 1])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # A batch norm takes off again what the bias of the convolution before it adds: only rounding is left.
        if not key.endswith(".0.bias"):
            assert parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_a_batch_do_not_see_each_other_in_eval_mode(network, name):
    model = network(name)
    x = noise(2, model.INPUT_SAMPLES)
    x[1] *= torch.linspace(0.1, 1, model.INPUT_SAMPLES)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(x[:1]), model(x[1:])])
    close(together, alone, 1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2 * together.abs().max(), "the logits must depend on the sound"


@pytest.mark.parametrize("name", NAMES)
def test_exports(network, name):
    model = network(name)
    x = noise(2 if name in ("wavemsnet_logmel", "m34res") else 1, model.INPUT_SAMPLES)
    exported = torch.export.export(model, (x,))
    with torch.no_grad():
        close(exported.module()(x), model(x), 1e-4)


@pytest.mark.parametrize(
    ("name", "before", "after", "rate"),
    [
        ("envnetv2", "fc11", "fc12", 0.5),
        ("envnetv2", "fc12", "fc13", 0.5),
        ("wavemsnet", "fc1", "fc2", 0.5),
        ("acdnet", "conv11", "conv12", 0.2),
    ],
)
def test_dropout_stands_where_the_paper_has_it(network, name, before, after, rate):
    model = copy.deepcopy(network(name))
    model.dropout.train()
    seen = {}
    model.get_submodule(before).register_forward_hook(lambda _, given, out: seen.update(made=out.clamp(min=0)))
    model.get_submodule(after).register_forward_hook(lambda _, given, out: seen.update(passed=given[0]))
    torch.manual_seed(5)
    with torch.no_grad():
        model(noise(1, model.INPUT_SAMPLES))
    made = seen["made"]
    passed = seen["passed"][made > 0]
    assert (passed == 0).double().mean().item() == pytest.approx(rate, abs=0.05)
    torch.testing.assert_close(passed[passed != 0], made[made > 0][passed != 0] / (1 - rate))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in M_NETS])
def test_other_shapes_are_refused_by_name(network, name):
    model = network(name)
    lengths = "30225 or 66650" if name == "acdnet" else str(model.INPUT_SAMPLES)
    samples = model.INPUT_SAMPLES
    shapes = [(samples,), (1, samples), (1, 1, 1, samples), (1, 2, samples), (1, 1, samples - 1), (1, 1, samples + 1)]
    for shape in shapes:
        with pytest.raises(ValueError, match=rf"^{CLASSES[name]} .*\b{lengths}\b.*{re.escape(str(shape))}"):
            model(torch.zeros(shape))


# The M-nets' freedom of length and loudness.


@pytest.mark.parametrize("shape", [(32000,), (1, 32000), (1, 1, 1, 32000), (1, 2, 32000), (1, 1, 3), (1, 1, 0)])
def test_m_nets_refuse_other_shapes_and_less_than_four_samples(network, shape):
    with pytest.raises(ValueError, match=rf"^M5 .*4 or more.*{re.escape(str(shape))}"):
        network("m5")(torch.zeros(shape))


@pytest.mark.parametrize("samples", [4, 5, 1000, 31999, 40000])
@pytest.mark.parametrize("name", M_NETS)
def test_m_nets_take_any_length_from_four_samples(network, name, samples):
    with torch.no_grad():
        out = network(name)(noise(1, samples))
    assert out.shape == (1, 10)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", M_NETS)
def test_m_nets_do_not_hear_loudness_nor_an_offset(network, name):
    model, x = network(name), noise(1, 8000)
    with torch.no_grad():
        expected = model(x)
        close(model(0.1 * x), expected, 1e-3)
        close(model(x + 0.2), expected, 1e-3)
        assert (model(-x) - expected).abs().max() > 1e-2 * expected.abs().max(), "but they do hear the sign"


@pytest.mark.parametrize("name", M_NETS)
def test_m_nets_bear_silence(network, name):
    model = network(name)
    x = noise(2, 8000)
    x[1] = 0
    with torch.no_grad():
        out = model(x)
        assert out.isfinite().all()
        close(out[:1], model(x[:1]), 1e-4)


# How the networks begin.


def fans(weight):
    """Inputs and outputs that one value of a layer depends on or takes part in, with the kernel's size."""
    size = weight[0, 0].numel()
    return weight.shape[1] * size, weight.shape[0] * size


def assert_normal(weight, std, name):
    weight = weight.detach().double().flatten()
    spread = 4 / (2 * len(weight)) ** 0.5  # four standard errors of a standard deviation
    assert weight.std().item() == pytest.approx(std, rel=spread), name
    assert abs(weight.mean()) < 5 * std / len(weight) ** 0.5, name
    if len(weight) > 1000:  # a normal distribution's fourth moment is 3; a uniform one's is 1.8
        assert ((weight[:100_000] / std) ** 4).mean().item() == pytest.approx(3, abs=0.6), name


def assert_uniform(weight, bound, name):
    weight = weight.detach().double().flatten()
    assert weight.abs().max() <= bound * (1 + 1e-6), name
    # The variance of the squares is 4/45; five standard errors.
    assert (weight / bound).square().mean().item() == pytest.approx(1 / 3, abs=5 * (4 / 45 / len(weight)) ** 0.5), name


def layers(model, kind):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


@pytest.mark.parametrize(("name", "n_convs"), [("envnetv2", 10), ("acdnet", 12)])
def test_convolutions_begin_he_normal_and_have_no_bias(network, name, n_convs):
    convs = layers(network(name), nn.Conv2d)
    assert len(convs) == n_convs
    for key, layer in convs:
        assert layer.bias is None, key
        assert_normal(layer.weight, (2 / fans(layer.weight)[0]) ** 0.5, key)


@pytest.mark.parametrize(("name", "n_layers"), [("envnetv2", 3), ("acdnet", 1)])
def test_dense_layers_begin_with_variance_one_over_inputs_and_no_bias(network, name, n_layers):
    dense_layers = layers(network(name), nn.Linear)
    assert len(dense_layers) == n_layers
    for key, layer in dense_layers:
        assert_normal(layer.weight, layer.in_features**-0.5, key)
        assert not layer.bias.any(), key


@pytest.mark.parametrize("name", ["wavemsnet", "wavemsnet_logmel"])
def test_wavemsnet_begins_as_pytorch_does(network, name):
    found = layers(network(name), (nn.Conv2d, nn.Linear))
    assert len(found) == 12
    for key, layer in found:
        bound = fans(layer.weight)[0] ** -0.5
        assert_uniform(layer.weight, bound, key)
        assert_uniform(layer.bias, bound, key)


@pytest.mark.parametrize(("name", "n_convs"), [("m3", 2), ("m5", 4), ("m11", 10), ("m18", 17), ("m34res", 33)])
def test_m_nets_begin_glorot_uniform_with_biases_of_zero(network, name, n_convs):
    model = network(name)
    assert len(layers(model, nn.Conv2d)) == n_convs
    for key, layer in layers(model, (nn.Conv2d, nn.Linear)):
        assert_uniform(layer.weight, (6 / sum(fans(layer.weight))) ** 0.5, key)
        assert not layer.bias.any(), key


@pytest.mark.parametrize(
    ("name", "n_norms", "eps"),
    [
        ("envnetv2", 10, 2e-5),
        ("wavemsnet", 10, 1e-5),
        ("wavemsnet_logmel", 10, 1e-5),
        ("acdnet", 12, 1e-5),
        ("m3", 2, 1e-5),
        ("m5", 4, 1e-5),
        ("m11", 10, 1e-5),
        ("m18", 17, 1e-5),
        ("m34res", 33 + 16, 1e-5),  # one more in each block, after the addition
    ],
)
def test_batch_norms_have_the_right_constants(network, name, n_norms, eps):
    norms = [module for _, module in layers(network(name), nn.BatchNorm2d)]
    assert len(norms) == n_norms
    assert {(norm.eps, norm.momentum, norm.affine, norm.track_running_stats) for norm in norms} == {
        (eps, 0.1, True, True)
    }


@pytest.mark.parametrize("name", ["wavemsnet", "wavemsnet_logmel"])
def test_windows_of_one_waveform_are_heard_as_each_by_itself(network, name):
    model, whole = network(name), noise(1, 100_000)
    starts = [0, 33_850, 9_079, 9_080, 33_700]  # the first and the last possible; any order; frames that do not match
    for start in starts:  # clicks that two filters just see from the first and from the last frame
        whole[:, :, [start + 159, start + 66_150 - 160]] = 30
    expected = torch.cat([model(whole[:, :, start : start + 66_150]) for start in starts])
    assert (expected[1:] - expected[:-1]).abs().amax(dim=1).min() > 1e-3 * expected.abs().max()
    close(model.windows(whole, starts), expected, 1e-5)


# The log-mel spectrogram.


def mel(hz):
    """Slaney's scale: even up to 1 kHz, then logarithmic."""
    hz = np.asarray(hz, float)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def hertz(mels):
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((np.maximum(mels, 15) - 15) * np.log(6.4) / 27))


EDGES = np.linspace(0, float(mel(22050)), 98)  # each of the 96 bands begins, peaks and ends at three of them


def mel_filters():
    """Triangles over frequency, each of area one."""
    frequencies = np.arange(1025) * 44100 / 2048
    filters = np.zeros((1025, 96))
    for band in range(96):
        low, centre, high = hertz(EDGES[band : band + 3])
        rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
        filters[:, band] = np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)
    return filters


def plain_log_mel(sound):
    padded = np.pad(sound.astype(np.float64), 1024, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    frames = np.stack([padded[150 * i : 150 * i + 2048] * window for i in range(441)])
    picture = (np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters()).T
    picture = 10 * np.log10(np.maximum(picture, 1e-10))
    picture = np.maximum(picture, picture.max() - 80)
    return (picture - picture.mean()) / picture.std()


@pytest.fixture(scope="module")
def log_mel():
    return LogMel(44100)


@pytest.fixture(scope="module")
def sounds():
    """Noise; noise that falls by 120 dB, of which the last 80 count; noise so faint that the floor lies above them."""
    x = noise(3, 66150)
    x[1] *= 10 ** torch.linspace(0, -6, 66150)
    x[2] *= 1e-3
    x[2, :, 30000:] = 0
    return x


def test_log_mel_agrees_with_a_plain_version_in_float64(log_mel, sounds):
    expected = np.stack([plain_log_mel(sound) for sound in sounds[:, 0].numpy()])[:, None]
    np.testing.assert_allclose(log_mel(sounds).numpy(), expected, rtol=0, atol=1e-3)


def test_log_mel_pictures_have_96_bands_by_441_frames_and_are_standardised(log_mel, sounds):
    pictures = log_mel(sounds)
    assert pictures.shape == (3, 1, 96, 441)
    torch.testing.assert_close(pictures.mean(dim=(1, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(pictures.std(dim=(1, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)


def test_log_mel_pictures_do_not_see_each_other(log_mel, sounds):
    alone = torch.cat([log_mel(sounds[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(log_mel(sounds), alone, rtol=0, atol=1e-4)


def test_log_mel_of_silence_is_finite(log_mel):
    assert log_mel(torch.zeros(1, 1, 66150)).isfinite().all()


@pytest.mark.parametrize("frequency", [1000, 5000])
def test_a_tone_is_loudest_in_the_band_with_the_nearest_centre(log_mel, frequency):
    tone = 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(66150, dtype=torch.float64) / 44100)
    nearest = np.abs(EDGES[1:-1] - mel(frequency)).argmin()
    loudest = log_mel(tone.float()[None, None])[..., 7:-7].argmax(dim=2)  # without the frames beyond the tone's ends
    assert (loudest == nearest).all()


def test_nothing_of_the_log_mel_is_in_the_state_dict(network, log_mel):
    assert not log_mel.state_dict()
    assert not list(log_mel.parameters())
    assert network("wavemsnet_logmel").state_dict().keys() == network("wavemsnet").state_dict().keys()


def test_phase_2_takes_over_all_of_phase_1_but_the_weights_for_the_log_mel(network):
    first, second = network("wavemsnet"), make("wavemsnet_logmel", seed=1).eval()
    state, before = first.state_dict(), second.conv3[0].weight.detach().clone()
    assert not torch.equal(second.fc1.weight, first.fc1.weight)
    second.load_phase_1(state)
    for key, value in second.state_dict().items():
        if key != "conv3.0.weight":
            assert torch.equal(value, state[key]), key
    weight = second.conv3[0].weight
    assert weight.shape == (64, 2, 3, 3)
    assert torch.equal(weight[:, :1], state["conv3.0.weight"])
    assert torch.equal(weight[:, 1:], before[:, 1:])
    x = noise(1, 66150)
    with torch.no_grad():
        assert (second(x) - first(x)).abs().max() > 1e-2 * first(x).abs().max(), "the log-mel must count"
        weight[:, 1] = 0
        close(second(x), first(x), 1e-5)
