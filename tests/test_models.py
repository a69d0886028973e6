"""The networks against their papers' tables: sizes, shapes, initial weights, and a plain version of each."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.cpu import accelerate
from esc_lib.models.logmel import LogMel

# Channels of the first layer, then of the layers behind each pooling by four (Dai et al., Table 1).
M_NETS = {
    "m3": [[256], [256], []],
    "m5": [[128], [128], [256], [512], []],
    "m11": [[64], [64] * 2, [128] * 2, [256] * 3, [512] * 2],
    "m18": [[64], [64] * 4, [128] * 4, [256] * 4, [512] * 4],
    "m34res": [[48], [48] * 3, [96] * 4, [192] * 6, [384] * 3],
}
POOLED = [2000, 500, 125, 32]  # lengths that the poolings leave of 32000 samples
# Sampling rate, input, parameters for 10 and for 50 classes.
SIZES = {
    "envnet": (16000, 24014, 48_396_758, 48_560_638),
    "envnetv2": (44100, 66650, 101_087_306, 101_251_186),
    "wavemsnet": (44100, 66150, 22_017_322, 22_181_202),
    "wavemsnet_logmel": (44100, 66150, 22_017_898, 22_181_778),
    "m3": (8000, 32000, 221_194, 231_474),
    "m5": (8000, 32000, 559_114, 579_634),
    "m11": (8000, 32000, 1_786_442, 1_806_962),
    "m18": (8000, 32000, 3_683_786, 3_704_306),
    "m34res": (8000, 32000, 3_984_154, 3_999_554),
    "acdnet": (20000, 30225, 4_712_378, 4_735_378),
    # EnvNet without its first two convolutions, of 400 and 12,880 parameters.
    "logmel_cnn": (16000, 24014, 48_396_758 - 13_280, 48_560_638 - 13_280),
    "logmel_m5": (8000, 32000, 540_490, 555_890),
}
LOG_MEL = ["wavemsnet_logmel", "logmel_cnn", "logmel_m5"]
INPUTS = [*((name, samples) for name, (_, samples, *_) in SIZES.items()), ("acdnet", 66650)]


def noise(batch, samples, dtype=torch.float32, seed=1):
    return 0.3 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(name, seed=0):
    """A network whose batch norms fit to noise and are not the identity, so that a mistake in any layer shows."""
    torch.manual_seed(seed)
    model = build_model(name, 10).train()
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
    return model.eval()


@pytest.fixture(scope="module")
def network():
    """Each network in eval mode, built once; a test that changes one takes a copy."""
    return functools.cache(make)


def close(found, expected, tolerance):
    """Equal, but for this part of the largest expected value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


# Sizes and shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rate_input_and_number_of_parameters_are_the_papers(name):
    network, (rate, samples, *counts) = ARCHITECTURES[name], SIZES[name]
    assert samples == network.INPUT_SAMPLES and samples in network.LENGTHS and rate == network.SAMPLE_RATE
    with torch.device("meta"):
        models = [build_model(name, n_classes) for n_classes in (10, 50)]
    assert [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models] == counts


def test_there_are_twelve_networks_and_others_and_too_few_classes_are_refused():
    assert set(ARCHITECTURES) == set(SIZES)
    with pytest.raises(ValueError, match="'envnat'.*envnet"):
        build_model("envnat", 10)
    with pytest.raises(ValueError, match="n_classes is 1"):
        build_model("envnet", 1)


# Input of the first convolution or dense layer of each stage, and output of its last, before the pooling behind it.
ENVNET = {
    "conv1": [(1, 1, 24014), (40, 1, 24007)], "conv2": [(40, 1, 24007), (40, 1, 24000)],
    "conv3": [(1, 40, 150), (50, 33, 138)], "conv4": [(50, 11, 46), (50, 11, 42)],
    "fc5": [(7700,), (4096,)], "fc6": [(4096,), (4096,)], "fc7": [(4096,), (10,)],
}  # fmt: skip
ENVNETV2 = {
    "conv1": [(1, 1, 66650), (32, 1, 33294)], "conv2": [(32, 1, 33294), (64, 1, 16640)],
    "conv3": [(1, 64, 260), (32, 57, 253)], "conv4": [(32, 57, 253), (32, 50, 246)],
    "conv5": [(32, 10, 82), (64, 10, 79)], "conv6": [(64, 10, 79), (64, 10, 76)],
    "conv7": [(64, 10, 38), (128, 10, 37)], "conv8": [(128, 10, 37), (128, 10, 36)],
    "conv9": [(128, 10, 18), (256, 10, 17)], "conv10": [(256, 10, 17), (256, 10, 16)],
    "fc11": [(20480,), (4096,)], "fc12": [(4096,), (4096,)], "fc13": [(4096,), (10,)],
}  # fmt: skip


def wavemsnet_shapes(maps):
    return {
        "branch1.0": [(1, 1, 66150), (32, 1, 66150)], "branch1.1": [(32, 1, 66150), (32, 1, 66150)],
        "branch2.0": [(1, 1, 66150), (32, 1, 13230)], "branch2.1": [(32, 1, 13230), (32, 1, 13230)],
        "branch3.0": [(1, 1, 66150), (32, 1, 6615)], "branch3.1": [(32, 1, 6615), (32, 1, 6615)],
        "conv3": [(maps, 96, 441), (64, 96, 441)], "conv4": [(64, 32, 40), (128, 32, 40)],
        "conv5": [(128, 16, 20), (256, 16, 20)], "conv6": [(256, 8, 10), (256, 8, 10)],
        "fc1": [(5120,), (4096,)], "fc2": [(4096,), (10,)],
    }  # fmt: skip


def acdnet_shapes(samples):
    first, second = {30225: (15109, 7553), 66650: (33321, 16659)}[samples]
    return {
        "conv1": [(1, 1, samples), (8, 1, first)], "conv2": [(8, 1, first), (64, 1, second)],
        "conv3": [(1, 64, 151), (32, 64, 151)], "conv4": [(32, 32, 75), (64, 32, 75)],
        "conv5": [(64, 32, 75), (64, 32, 75)], "conv6": [(64, 16, 37), (128, 16, 37)],
        "conv7": [(128, 16, 37), (128, 16, 37)], "conv8": [(128, 8, 18), (256, 8, 18)],
        "conv9": [(256, 8, 18), (256, 8, 18)], "conv10": [(256, 4, 9), (512, 4, 9)],
        "conv11": [(512, 4, 9), (512, 4, 9)], "conv12": [(512, 2, 4), (10, 2, 4)], "fc": [(10,), (10,)],
    }  # fmt: skip


LOGMEL_CNN = {layer: shapes for layer, shapes in ENVNET.items() if layer not in ("conv1", "conv2")}
LOGMEL_M5 = {
    "convs.0": [(1, 40, 400), (32, 40, 400)], "convs.1": [(32, 20, 200), (64, 20, 200)],
    "convs.2": [(64, 10, 100), (128, 10, 100)], "convs.3": [(128, 5, 50), (384, 5, 50)], "fc": [(384,), (10,)],
}  # fmt: skip


def m_net_shapes(name):
    (width,), *stages = M_NETS[name]
    shapes = {"conv1": [(1, 1, 32000), (width, 1, 8000)]}
    for i, (widths, length) in enumerate(zip(stages, POOLED, strict=False)):
        for j, n_out in enumerate(widths):
            shapes[f"stages.{i}.{j}"] = [(width, 1, length), (n_out, 1, length)]
            width = n_out
    return {**shapes, "fc": [(width,), (10,)]}


def shapes_of(name, samples):
    if name in M_NETS:
        return m_net_shapes(name)
    if name == "acdnet":
        return acdnet_shapes(samples)
    tables = {
        "envnet": ENVNET, "envnetv2": ENVNETV2, "wavemsnet": wavemsnet_shapes(1),
        "wavemsnet_logmel": wavemsnet_shapes(2), "logmel_cnn": LOGMEL_CNN, "logmel_m5": LOGMEL_M5,
    }  # fmt: skip
    return tables[name]


@pytest.mark.parametrize(("name", "samples"), INPUTS)
def test_every_stage_has_the_tables_shape_and_name(network, name, samples):
    # What goes into each stage shows the pooling and the swap of axes before it. What a block returns is pooled
    # already, so its last convolution is asked.
    model, expected, hooks = network(name), shapes_of(name, samples), []
    found = {layer: [None, None] for layer in expected}
    for layer in expected:
        inside = [part for part in model.get_submodule(layer).modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        first = lambda _, given, layer=layer: found[layer].__setitem__(0, tuple(given[0].shape))  # noqa: E731
        last = lambda _, given, out, layer=layer: found[layer].__setitem__(1, tuple(out.shape))  # noqa: E731
        hooks += [inside[0].register_forward_pre_hook(first), inside[-1].register_forward_hook(last)]
    with torch.no_grad():
        out = model(noise(1, samples))
    for hook in hooks:
        hook.remove()
    assert found == {layer: [(1, *given), (1, *made)] for layer, (given, made) in expected.items()}
    assert out.shape == (1, 10)
    # The state dict, as it is saved, has plain tensors of these layers alone, in this order.
    state = model.state_dict()
    assert {type(value) for value in state.values()} == {torch.Tensor}
    stages = [next((layer for layer in expected if key.startswith(f"{layer}.")), key) for key in state]
    assert list(dict.fromkeys(stages)) == list(expected)


FEATURES = {
    "envnet": (1, 40, 150), "envnetv2": (1, 64, 260), "wavemsnet": (1, 96, 441), "wavemsnet_logmel": (2, 96, 441),
    "acdnet": (1, 64, 151), "m3": (256, 1, 500), "m5": (512, 1, 32), "m11": (512, 1, 32), "m18": (512, 1, 32),
    "m34res": (384, 1, 32), "logmel_cnn": (1, 40, 150), "logmel_m5": (1, 40, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_the_front_end_makes_the_features_and_the_classifier_the_logits(network, name):
    model = network(name)
    x = noise(1, model.INPUT_SAMPLES).requires_grad_()
    features = model.features(x)
    assert features.shape == (1, *FEATURES[name])
    gradients = torch.autograd.grad(features.sum(), model.parameters(), allow_unused=True)
    used = {key for (key, _), grad in zip(model.named_parameters(), gradients, strict=True) if grad is not None}
    assert bool(used) == (name not in ("logmel_cnn", "logmel_m5")), "a spectrogram has nothing to learn"
    assert used == {key for key, _ in model.named_parameters() if key.split(".")[0] in model.FRONT_END}
    with torch.no_grad():
        assert torch.equal(model.classify(features), model(x))


# Arithmetic, from the tables, in the order convolution, batch norm, ReLU, pooling -------------------------------------


class Plain:
    """Layers from their definitions, with a network's parameters and, in eval mode, its running statistics."""

    def __init__(self, model, eps):
        self.state, self.training, self.eps = dict(model.named_parameters()), model.training, eps
        self.state.update(model.named_buffers())

    def norm(self, x, name):
        if self.training:
            mean = x.mean(dim=(0, 2, 3))
            var = (x - mean[:, None, None]).square().mean(dim=(0, 2, 3))
        else:
            mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        x = (x - mean[:, None, None]) / torch.sqrt(var + self.eps)[:, None, None]
        return x * self.state[f"{name}.weight"][:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def conv(self, x, name, stride=1, padding=(0, 0)):
        x = F.conv2d(x, self.state[f"{name}.0.weight"], self.state.get(f"{name}.0.bias"), (1, stride), padding)
        return self.norm(x, f"{name}.1")

    def block(self, *args, **kwargs):
        return self.conv(*args, **kwargs).clamp(min=0)

    def dense(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def plain_envnet(net, x):
    x = net.block(net.block(x[:, :, None], "conv1"), "conv2")
    return plain_envnet_back_end(net, F.max_pool2d(x, (1, 160)).permute(0, 2, 1, 3))


def plain_envnet_back_end(net, x):
    x = F.max_pool2d(net.block(x, "conv3"), 3)
    x = F.max_pool2d(net.block(x, "conv4"), (1, 3))
    x = net.dense(x.reshape(len(x), 7700), "fc5").clamp(min=0)
    return net.dense(net.dense(x, "fc6").clamp(min=0), "fc7")


def plain_envnetv2(net, x):
    x = net.block(net.block(x[:, :, None], "conv1", stride=2), "conv2", stride=2)
    x = F.max_pool2d(x, (1, 64)).permute(0, 2, 1, 3)
    for first, second, pool in [(3, 4, (5, 3)), (5, 6, (1, 2)), (7, 8, (1, 2)), (9, 10, (1, 2))]:
        x = F.max_pool2d(net.block(net.block(x, f"conv{first}"), f"conv{second}"), pool)
    x = net.dense(x.reshape(len(x), 20480), "fc11").clamp(min=0)
    return net.dense(net.dense(x, "fc12").clamp(min=0), "fc13")


def plain_wavemsnet(net, x, logmel=None):
    maps = []
    for i, (stride, padding, pool) in enumerate([(1, 5, 150), (5, 25, 30), (10, 50, 15)], 1):
        h = net.block(x[:, :, None], f"branch{i}.0", stride, (0, padding))
        h = net.block(h, f"branch{i}.1", 1, (0, 5))
        maps.append(F.max_pool2d(h, (1, pool))[:, :, 0])
    x = torch.cat(maps, dim=1)[:, None]
    x = x if logmel is None else torch.cat([x, logmel], dim=1)
    for i, pool in [(3, (3, 11)), (4, 2), (5, 2), (6, 2)]:
        x = F.max_pool2d(net.block(x, f"conv{i}", 1, (1, 1)), pool)
    return net.dense(net.dense(x.reshape(len(x), 5120), "fc1").clamp(min=0), "fc2")


def plain_acdnet(net, x):
    pool = {30225: 50, 66650: 110}[x.shape[2]]
    x = net.block(net.block(x[:, :, None], "conv1", stride=2), "conv2", stride=2)
    x = F.max_pool2d(x, (1, pool)).permute(0, 2, 1, 3)
    for i in range(3, 12):
        x = net.block(x, f"conv{i}", padding=(1, 1))
        if i in (3, 5, 7, 9, 11):
            x = F.max_pool2d(x, 2)
    x = F.avg_pool2d(net.block(x, "conv12"), (2, 4))
    return net.dense(x.reshape(len(x), 10), "fc")


def pool_by_four(x):
    """The largest of each four values, and of what is left at the end."""
    x = F.pad(x, (0, -x.shape[-1] % 4), value=-torch.inf)
    return x.unflatten(-1, (-1, 4)).amax(dim=-1)


def residual(net, x, name):
    h = net.block(x, f"{name}.conv1", padding=(0, 1))
    h = net.conv(h, f"{name}.conv2", padding=(0, 1))
    if h.shape[1] == 2 * x.shape[1]:
        x = torch.cat([x, x], dim=1)
    return net.norm(x + h, f"{name}.norm").clamp(min=0)


def plain_m_net(net, x, name):
    x = x - x.mean(dim=2, keepdim=True)
    x = x / x.square().mean(dim=2, keepdim=True).sqrt()
    x = net.block(x[:, :, None], "conv1", stride=4, padding=(0, 38))
    for i, widths in enumerate(M_NETS[name][1:]):
        x = pool_by_four(x)
        for j in range(len(widths)):
            layer = f"stages.{i}.{j}"
            x = residual(net, x, layer) if name == "m34res" else net.block(x, layer, padding=(0, 1))
    return net.dense(x.mean(dim=(2, 3)), "fc")


def plain_logmel_m5(net, x):
    for i in range(4):
        x = net.block(x, f"convs.{i}", padding=(1, 1))
        x = F.max_pool2d(F.pad(x, (0, 0, 0, x.shape[2] % 2)), 2)  # an odd row; a ReLU's zeros are no new maximum
    return net.dense(x.mean(dim=(2, 3)), "fc")


def plain(model, name, x):
    net = Plain(model, eps=2e-5 if name in ("envnet", "envnetv2", "logmel_cnn") else 1e-5)
    if name in M_NETS:
        return plain_m_net(net, x, name)
    if name in LOG_MEL:
        spectrogram = model.logmel(x)  # which has its own test
        if name == "wavemsnet_logmel":
            return plain_wavemsnet(net, x, spectrogram)
        return (plain_envnet_back_end if name == "logmel_cnn" else plain_logmel_m5)(net, spectrogram)
    networks = dict(envnet=plain_envnet, envnetv2=plain_envnetv2, wavemsnet=plain_wavemsnet, acdnet=plain_acdnet)
    return networks[name](net, x)


@pytest.mark.parametrize(("name", "samples"), INPUTS)
def test_a_plain_version_in_float64_gives_the_same_logits_and_gradients(network, name, samples):
    # One clip is enough where two take 15 s; that statistics are a whole batch's shows in the other networks.
    targets = torch.tensor([3, 7])[: 1 if name in ("envnetv2", "wavemsnet_logmel") else 2]
    model, x = copy.deepcopy(network(name)).double(), noise(len(targets), samples, torch.float64)
    with torch.no_grad():
        close(model(x), plain(model, name, x), 1e-7)
    model.train()  # where the batch's own mean and variance count
    if hasattr(model, "dropout"):
        model.dropout.eval()
    parameters = dict(model.named_parameters())
    found, expected = (
        torch.autograd.grad(F.cross_entropy(logits, targets), parameters.values())
        for logits in (model(x), plain(model, name, x))
    )
    largest = max(gradient.abs().max() for gradient in expected)
    for key, ours, theirs in zip(parameters, found, expected, strict=True):
        if key.endswith((".0.bias", ".conv2.1.bias")):  # the batch norm behind subtracts it: only rounding is left
            assert ours.abs().max() < 1e-9 * largest, key
        else:
            assert theirs.any(), f"no gradient reaches {key}"
            close(ours, theirs, 1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_examples_of_a_batch_are_independent_in_eval_mode(network, name):
    model = network(name)
    x = noise(2, model.INPUT_SAMPLES)
    x[1] *= torch.linspace(0.1, 1, model.INPUT_SAMPLES)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(x[:1]), model(x[1:])])
    close(together, alone, 1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2 * together.abs().max(), "the logits must depend on the sound"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exported_and_in_another_layout_it_gives_the_same(network, name):
    model = network(name)
    x = noise(2 if name in (*LOG_MEL, "m34res") else 1, model.INPUT_SAMPLES)
    exported = torch.export.export(model, (x,), strict=name == "envnet")  # strict: a graph break is an error
    with torch.no_grad():
        expected = model(x)
        close(exported.module()(x), expected, 1e-4)
        close(copy.deepcopy(model).to(memory_format=torch.channels_last)(x), expected, 1e-4)


DROPOUT = [
    ("envnet", "fc5", "fc6", 0.5), ("envnet", "fc6", "fc7", 0.5), ("envnetv2", "fc11", "fc12", 0.5),
    ("envnetv2", "fc12", "fc13", 0.5), ("wavemsnet", "fc1", "fc2", 0.5), ("acdnet", "conv11", "conv12", 0.2),
    ("logmel_cnn", "fc5", "fc6", 0.5), ("logmel_cnn", "fc6", "fc7", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "rate"), DROPOUT)
def test_dropout_stands_where_the_paper_has_it(network, name, before, after, rate):
    model = copy.deepcopy(network(name))
    model.dropout.train()
    record = {}
    model.get_submodule(before).register_forward_hook(lambda _, given, out: record.update(made=out.clamp(min=0)))
    model.get_submodule(after).register_forward_hook(lambda _, given, out: record.update(passed=given[0]))
    torch.manual_seed(5)
    with torch.no_grad():
        model(noise(1, model.INPUT_SAMPLES))
    made = record["made"]
    passed = record["passed"][made > 0]
    assert (passed == 0).double().mean().item() == pytest.approx(rate, abs=0.05)
    torch.testing.assert_close(passed[passed != 0], made[made > 0][passed != 0] / (1 - rate))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_shapes_are_refused_by_name(network, name):
    model, samples = network(name), SIZES[name][1]
    lengths = {"acdnet": "30225 or 66650", **dict.fromkeys(M_NETS, "4 or more"), "logmel_m5": "101 or more"}
    lengths = lengths.get(name, samples)
    wrong = (3, 0) if name in M_NETS else (100, 0) if name == "logmel_m5" else (samples - 1, samples + 1)
    for shape in [(samples,), (1, samples), (1, 1, 1, samples), (1, 2, samples), *((1, 1, of) for of in wrong)]:
        words = rf"(?i)^{name.replace('_', '')} .*\b{lengths}\b.*{re.escape(str(shape))}"
        with pytest.raises(ValueError, match=words):
            model(torch.zeros(shape))


# The M-nets: any length, any level ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", M_NETS)
@torch.no_grad()
def test_m_nets_accept_any_length_and_ignore_level_and_offset(network, name):
    model, x = network(name), noise(1, 8000)
    for samples in (4, 5, 1000, 31999, 40000):
        out = model(noise(1, samples))
        assert out.shape == (1, 10) and out.isfinite().all()
    expected = model(x)
    close(model(0.1 * x), expected, 1e-3)
    close(model(x + 0.2), expected, 1e-3)
    assert (model(-x) - expected).abs().max() > 1e-2 * expected.abs().max(), "the sign must count"
    beside_silence = model(torch.cat([x, torch.zeros_like(x)]))
    assert beside_silence.isfinite().all()
    close(beside_silence[:1], expected, 1e-4)


# Initialisation -------------------------------------------------------------------------------------------------------


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


def assert_he_normal(name, layer, inputs, outputs):
    """Convolutions; of dense layers the variance is one over their inputs."""
    is_conv = isinstance(layer, nn.Conv2d)
    assert_normal(layer.weight, ((2 if is_conv else 1) / inputs) ** 0.5, name)
    assert layer.bias is None if is_conv else not layer.bias.any(), name


def assert_pytorch_default(name, layer, inputs, outputs):
    assert_uniform(layer.weight, inputs**-0.5, name)
    assert_uniform(layer.bias, inputs**-0.5, name)


def assert_glorot_uniform(name, layer, inputs, outputs):
    assert_uniform(layer.weight, (6 / (inputs + outputs)) ** 0.5, name)
    assert not layer.bias.any(), name


# Its initialisation, number of convolutions, of dense layers and of batch norms, and their epsilon (Chainer's is 2e-5).
INITIALISATIONS = {
    "envnet": (assert_he_normal, 4, 3, 4, 2e-5),
    "envnetv2": (assert_he_normal, 10, 3, 10, 2e-5),
    "wavemsnet": (assert_pytorch_default, 10, 2, 10, 1e-5),
    "wavemsnet_logmel": (assert_pytorch_default, 10, 2, 10, 1e-5),
    "acdnet": (assert_he_normal, 12, 1, 12, 1e-5),
    "m3": (assert_glorot_uniform, 2, 1, 2, 1e-5),
    "m5": (assert_glorot_uniform, 4, 1, 4, 1e-5),
    "m11": (assert_glorot_uniform, 10, 1, 10, 1e-5),
    "m18": (assert_glorot_uniform, 17, 1, 17, 1e-5),
    "m34res": (assert_glorot_uniform, 33, 1, 33 + 16, 1e-5),  # one norm more in each block, after the addition
    "logmel_cnn": (assert_he_normal, 2, 3, 2, 2e-5),
    "logmel_m5": (assert_glorot_uniform, 4, 1, 4, 1e-5),
}


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_layers_are_initialised_as_in_the_paper(network, name):
    assert_initialised, n_convs, n_dense, n_norms, eps = INITIALISATIONS[name]
    layers = dict(network(name).named_modules())
    counts = [sum(isinstance(layer, kind) for layer in layers.values()) for kind in (nn.Conv2d, nn.Linear)]
    assert counts == [n_convs, n_dense]
    for key, layer in layers.items():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            size = layer.weight[0, 0].numel()  # of the kernel
            assert_initialised(key, layer, layer.weight.shape[1] * size, layer.weight.shape[0] * size)
    norms = [layer for layer in layers.values() if isinstance(layer, nn.BatchNorm2d)]
    constants = {(norm.eps, norm.momentum, norm.affine, norm.track_running_stats) for norm in norms}
    assert len(norms) == n_norms and constants == {(eps, 0.1, True, True)}


def test_weights_depend_on_the_seed_alone():
    a, b, c = (make("m3", seed).conv1[0].weight for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


# WaveMsNet's windows, and log-mel spectrograms ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wavemsnet", "wavemsnet_logmel"])
def test_windows_of_one_waveform_give_the_logits_of_separate_crops(network, name):
    model, whole = network(name), noise(1, 100_000)
    starts = [0, 33_850, 9_079, 9_080, 33_700]  # the first and the last possible; any order; frames that do not match
    for start in starts:  # clicks that two filters just reach from the first and from the last frame
        whole[:, :, [start + 159, start + 66_150 - 160]] = 30
    with torch.no_grad():
        expected = torch.cat([model(whole[:, :, start : start + 66_150]) for start in starts])
        found = accelerate(copy.deepcopy(model)).windows(whole, starts)
    assert (expected[1:] - expected[:-1]).abs().amax(dim=1).min() > 1e-3 * expected.abs().max()
    close(found, expected, 1e-5)


def mel(hz):
    """Slaney's scale: even up to 1 kHz, then logarithmic."""
    hz = np.asarray(hz, float)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def hertz(mels):
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((np.maximum(mels, 15) - 15) * np.log(6.4) / 27))


# Sampling rate, samples, window, hop and bands of each spectrogram.
SPECTROGRAMS = {
    "wavemsnet_logmel": (44100, 66150, 2048, 150, 96),
    "logmel_cnn": (16000, 24014, 400, 160, 40),
    "logmel_m5": (8000, 32000, 200, 80, 40),
}


def edges(rate, bands):
    """Each of the bands begins, peaks and ends at three of them."""
    return np.linspace(0, float(mel(rate / 2)), bands + 2)


def mel_filters(rate, window, bands):
    """Triangles over frequency, each of area one."""
    frequencies = np.arange(window // 2 + 1) * rate / window
    filters = np.zeros((len(frequencies), bands))
    for band in range(bands):
        low, centre, high = hertz(edges(rate, bands)[band : band + 3])
        rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
        filters[:, band] = np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)
    return filters


def plain_log_mel(sound, rate, window, hop, bands):
    padded = np.pad(sound.astype(np.float64), window // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([padded[hop * i : hop * i + window] * hann for i in range(len(sound) // hop)])
    power = (np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters(rate, window, bands)).T
    power_db = 10 * np.log10(np.maximum(power, 1e-10))
    power_db = np.maximum(power_db, power_db.max() - 80)
    return (power_db - power_db.mean()) / power_db.std()


@pytest.mark.parametrize(("name", "settings"), SPECTROGRAMS.items())
def test_log_mel_of_a_batch_agrees_with_a_plain_version_in_float64_of_each(network, name, settings):
    # Noise; noise that falls by 120 dB, of which the last 80 count; noise so faint that the floor lies above them.
    rate, samples, *rest = settings
    x = noise(3, samples)
    x[1] *= 10 ** torch.linspace(0, -6, samples)
    x[2] *= 1e-3
    x[2, :, samples // 2 :] = 0
    expected = np.stack([plain_log_mel(sound, rate, *rest) for sound in x[:, 0].numpy()])[:, None]
    assert expected.shape[1:] == (1, *FEATURES[name][1:])
    np.testing.assert_allclose(network(name).logmel(x).numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SPECTROGRAMS)
def test_log_mel_of_silence_is_zero(network, name):
    """And so are its gradients: a batch with a silent crop does not end a training."""
    x = torch.zeros(1, 1, SPECTROGRAMS[name][1], requires_grad=True)
    spectrogram = network(name).logmel(x)
    spectrogram.sum().backward()
    assert not spectrogram.any() and not x.grad.any()


@pytest.mark.parametrize("frequency", [440, 1000, 3000])
@pytest.mark.parametrize("name", SPECTROGRAMS)
def test_a_tone_is_loudest_in_the_band_with_the_nearest_centre(network, name, frequency):
    rate, samples, window, hop, bands = SPECTROGRAMS[name]
    tone = 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(samples, dtype=torch.float64) / rate)
    nearest = np.abs(edges(rate, bands)[1:-1] - mel(frequency)).argmin()
    ends = window // 2 // hop + 1  # frames that reach beyond the tone's ends
    loudest = network(name).logmel(tone.float()[None, None])[..., ends:-ends].argmax(dim=2)
    assert (loudest == nearest).all()


@pytest.mark.parametrize("name", ["logmel_cnn", "logmel_m5"])
@torch.no_grad()
def test_log_mel_networks_ignore_gain_and_sign_but_not_pitch(network, name):
    model = network(name)
    rate, samples = SPECTROGRAMS[name][:2]
    phase = 2 * torch.pi * torch.arange(samples) / rate
    low, high = (0.3 * torch.sin(frequency * phase)[None, None] + 0.01 * noise(1, samples) for frequency in (400, 900))
    expected = model(low)
    close(model(0.1 * low), expected, 1e-3)
    close(model(-low), expected, 1e-5)
    assert (model(high) - expected).abs().max() > 1e-2 * expected.abs().max()


def test_a_spectrogram_is_complete_in_a_network_without_values():
    """A front-end's file is opened so: the weights are in it, and the constants are not."""
    with torch.device("meta"):
        found = LogMel(44100)
    expected = LogMel(44100)
    torch.testing.assert_close(found.filters, expected.filters, rtol=0, atol=0)
    torch.testing.assert_close(found.window, expected.window, rtol=0, atol=0)


@torch.no_grad()
def test_logmel_m5_accepts_any_length_from_half_a_window_on(network):
    model = network("logmel_m5")
    for samples in (101, 160, 1000, 31999, 40000):
        x = noise(1, samples)
        assert model.features(x).shape == (1, 1, 40, samples // 80)
        out = model(x)
        assert out.shape == (1, 10) and out.isfinite().all()


def test_logmel_m5_is_of_m5s_size_and_costs_as_much(network):
    def multiplications(name):
        total, model = 0, network(name)
        for layer, (_, (_, *made)) in shapes_of(name, 32000).items():
            weights = [part.weight for part in model.get_submodule(layer).modules() if hasattr(part, "weight")]
            total += weights[0].numel() * int(np.prod(made))
        return total

    parameters = [SIZES[name][2] for name in ("logmel_m5", "m5")]
    assert 0.9 < parameters[0] / parameters[1] < 1
    assert 0.9 < multiplications("logmel_m5") / multiplications("m5") < 1


def test_nothing_of_the_log_mel_is_in_the_state_dict(network):
    log_mel = LogMel(44100)
    assert not log_mel.state_dict() and not list(log_mel.parameters())
    assert network("wavemsnet_logmel").state_dict().keys() == network("wavemsnet").state_dict().keys()


def test_phase_2_takes_over_all_of_phase_1_but_the_weights_for_the_log_mel(network):
    first, second = network("wavemsnet"), make("wavemsnet_logmel", seed=1)
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
