"""EnvNet against its authors' table: sizes, parameter counts, and a plain float64 version of the same arithmetic."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_lib.models import build_model
from esc_lib.models.cpu import plain_operations
from esc_lib.models.envnet import EnvNet

BLOCKS = ("conv1", "conv2", "conv3", "conv4")
LAYERS = ("fc5", "fc6", "fc7")


def make(n_classes=10, seed=0):
    """A network whose batch norms are not the identity, so that a mistake in one of them shows."""
    torch.manual_seed(seed)
    model = build_model("envnet", n_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def noise(batch, dtype=torch.float32, seed=1):
    return 0.3 * torch.randn(batch, 1, 24014, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    return build_model("envnet", 10)


@pytest.fixture(scope="module")
def model():
    return make().eval()


@pytest.mark.parametrize(("n_classes", "count"), [(10, 48_396_758), (50, 48_560_638)])
def test_number_of_parameters(n_classes, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in EnvNet(n_classes).parameters() if p.requires_grad) == count


def test_unknown_network_and_too_few_classes_are_refused():
    with pytest.raises(ValueError, match="'envnat'.*envnet"):
        build_model("envnat", 10)
    with pytest.raises(ValueError, match="n_classes is 1"):
        build_model("envnet", 1)


def test_every_stage_has_the_tables_shape(model):
    # What goes into each stage shows the pooling and the swap of axes before it.
    expected = {
        "conv1": [(1, 1, 24014), (40, 1, 24007)],
        "conv2": [(40, 1, 24007), (40, 1, 24000)],
        "conv3": [(1, 40, 150), (50, 33, 138)],
        "conv4": [(50, 11, 46), (50, 11, 42)],
        "fc5": [(7700,), (4096,)],
        "fc6": [(4096,), (4096,)],
        "fc7": [(4096,), (10,)],
    }
    found, hooks = {}, []
    for name in expected:
        layer = getattr(model, name)
        layer = layer[0] if name in BLOCKS else layer  # the convolution: what its block returns is pooled already
        hook = lambda _, given, out, name=name: found.update({name: [tuple(given[0].shape), tuple(out.shape)]})  # noqa: E731
        hooks.append(layer.register_forward_hook(hook))
    with torch.no_grad(), plain_operations():  # ours leave hooks out
        out = model(noise(2))
    for hook in hooks:
        hook.remove()
    assert found == {name: [(2, *given), (2, *made)] for name, (given, made) in expected.items()}
    assert out.shape == (2, 10)


def test_convolutions_are_those_of_the_table_and_have_no_bias(model):
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [tuple(conv.weight.shape) for conv in convs] == [
        (40, 1, 1, 8),
        (40, 40, 1, 8),
        (50, 1, 8, 13),
        (50, 50, 1, 5),
    ]
    assert all(conv.bias is None for conv in convs)


def test_batch_norm_has_chainers_constants(fresh):
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [40, 40, 50, 50]
    assert {norm.eps for norm in norms} == {2e-5}
    assert {norm.momentum for norm in norms} == {0.1}
    assert all(norm.affine and norm.track_running_stats for norm in norms)


def test_convolutions_begin_he_normal(fresh):
    for name, fan_in in [("conv1", 8), ("conv2", 40 * 8), ("conv3", 8 * 13), ("conv4", 50 * 5)]:
        weight = getattr(fresh, name)[0].weight.detach().double().flatten()
        spread = 4 / (2 * len(weight)) ** 0.5  # four standard errors of a standard deviation
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=spread), name
        assert abs(weight.mean()) < 4 * weight.std() / len(weight) ** 0.5, name
        if len(weight) > 1000:  # a normal distribution's fourth moment is 3; a uniform one's is 1.8
            kurtosis = ((weight / weight.std()) ** 4).mean().item()
            assert kurtosis == pytest.approx(3, abs=0.3), name


def test_linear_layers_begin_with_variance_one_over_inputs_and_no_bias(fresh):
    for name, n_in in [("fc5", 7700), ("fc6", 4096), ("fc7", 4096)]:
        layer = getattr(fresh, name)
        assert layer.weight.std().item() == pytest.approx(n_in**-0.5, rel=0.02), name
        assert not layer.bias.any(), name


def test_weights_depend_on_the_seed_alone():
    a, b, c = make(seed=3).conv2[0].weight, make(seed=3).conv2[0].weight, make(seed=4).conv2[0].weight
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def block(x, state, name, pool, training):
    """Convolution, batch norm, ReLU, max-pool in the paper's order, from the definitions."""
    x = F.conv2d(x, state[f"{name}.0.weight"])
    if training:
        mean = x.mean(dim=(0, 2, 3))
        var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
    else:
        mean, var = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
    x = (x - mean[:, None, None]) / torch.sqrt(var + 2e-5)[:, None, None]
    x = x * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]
    x = x.clamp(min=0)
    return x if pool is None else F.max_pool2d(x, pool, pool)


def reference(state, x, training):
    """The table of EnvNet, row by row; dropout is left out."""
    x = x[:, :, None, :]
    x = block(x, state, "conv1", None, training)
    x = block(x, state, "conv2", (1, 160), training)
    x = x.permute(0, 2, 1, 3)
    x = block(x, state, "conv3", (3, 3), training)
    x = block(x, state, "conv4", (1, 3), training)
    x = x.reshape(len(x), 50 * 11 * 14)
    x = (x @ state["fc5.weight"].T + state["fc5.bias"]).clamp(min=0)
    x = (x @ state["fc6.weight"].T + state["fc6.bias"]).clamp(min=0)
    return x @ state["fc7.weight"].T + state["fc7.bias"]


def test_a_plain_version_in_float64_gives_the_same_logits_and_gradients():
    model, x, target = make().double(), noise(2, torch.float64), torch.tensor([3, 7])
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(x), reference(model.state_dict(), x, training=False), rtol=1e-9, atol=1e-9
        )
    # In training the batch's own mean and variance count; dropout is chance and has its own test.
    model.train().dropout.eval()
    state = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    logits = reference(state, x, training=True)
    expected = torch.autograd.grad(F.cross_entropy(logits, target), list(state.values()))
    found = model(x)
    F.cross_entropy(found, target).backward()
    torch.testing.assert_close(found, logits, rtol=1e-8, atol=1e-9)
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        scale = gradient.abs().max()
        assert scale > 0, f"no gradient reaches {name}"
        assert (parameter.grad - gradient).abs().max() < 1e-8 * scale, name


def test_every_parameter_gets_a_gradient():
    model = make(n_classes=2).train()
    F.cross_entropy(model(noise(2)), torch.tensor([0, 1])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_running_statistics_move_by_a_tenth():
    model = make(n_classes=2).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    x = noise(2)
    with torch.no_grad():
        model(x)
        made = model.conv1[0](x[:, :, None, :])
    mean, var = made.mean(dim=(0, 2, 3)), made.var(dim=(0, 2, 3))
    norm = model.conv1[1]
    torch.testing.assert_close(norm.running_mean, 0.9 * before["conv1.1.running_mean"] + 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 * before["conv1.1.running_var"] + 0.1 * var)


def test_examples_of_a_batch_do_not_see_each_other_in_eval_mode(model):
    x = noise(3)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
        again = model(x)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(together, again), "dropout must be off in eval mode"
    assert together.std(dim=0).max() > 0.05, "the logits must depend on the sound"


def test_dropout_is_one_half_and_only_behind_the_first_two_linear_layers():
    model = make().train()
    given, made, hooks = {}, {}, []
    for name in (*BLOCKS, *LAYERS):

        def keep(_, inputs, out, name=name):
            given[name], made[name] = inputs[0], out

        hooks.append(getattr(model, name).register_forward_hook(keep))
    torch.manual_seed(5)
    with torch.no_grad():
        out = model(noise(4))
    for after, before in [("fc6", "fc5"), ("fc7", "fc6")]:
        relu = made[before].clamp(min=0)
        passed = given[after][relu > 0]
        assert (passed == 0).double().mean().item() == pytest.approx(0.5, abs=0.03), after
        torch.testing.assert_close(passed[passed != 0], 2 * relu[relu > 0][passed != 0])
    assert torch.equal(given["conv2"], made["conv1"].clamp(min=0))
    assert torch.equal(given["conv3"], made["conv2"].clamp(min=0).transpose(1, 2))
    assert torch.equal(given["conv4"], made["conv3"].clamp(min=0))
    assert torch.equal(given["fc5"], made["conv4"].clamp(min=0).flatten(1))
    assert torch.equal(out, made["fc7"]), "logits: neither dropout nor softmax behind the last layer"


def test_channels_last_gives_the_same(model):
    x = noise(2)
    other = make()
    other.load_state_dict(model.state_dict())
    other = other.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-4)


def test_exports_as_one_graph(model):
    x = noise(2)
    exported = torch.export.export(model, (x,), strict=True)  # strict: a graph break is an error
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(24014,), (1, 24014), (2, 2, 24014), (2, 1, 24013), (2, 1, 24015), (2, 1, 1, 24014)])
def test_other_shapes_are_refused_by_name(model, shape):
    with pytest.raises(ValueError, match=f"EnvNet.*24014.*{re.escape(str(shape))}"):
        model(torch.zeros(shape))


def test_state_dict_is_plain_tensors_under_the_tables_names(fresh):
    state = fresh.state_dict()
    assert len(state) == 30  # as many as the authors' network has: 4 x (1 + 5) and 3 x 2
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert list(dict.fromkeys(key.split(".")[0] for key in state)) == [*BLOCKS, *LAYERS]
    assert all(re.fullmatch(r"conv[1-4]\.[01]\.\w+|fc[567]\.(weight|bias)", key) for key in state)
