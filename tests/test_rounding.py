"""Rounded weights: half a step from the trained ones, a small file, and damaged or malicious ones refused."""

import re

import pytest
import torch
from tiny import TinyNet, config, new_run, register

from esc_lib import load_run
from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.training.rounding import restore_weights, round_weights

WEIGHT, SCALE = "conv2.0.weight", "conv2.0.weight.scale"


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    register(monkeypatch)


def test_the_numbers_are_the_nearest_of_their_scale():
    weight = torch.tensor([[7.0, 3.4, 3.6, -7.0, 0.0], [0.07, 0.034, 0.036, -0.07, 0.0]])
    rounded = round_weights({"fc.weight": weight, "fc.bias": torch.tensor([3.4, 0.034])}, bits=4)
    assert rounded["fc.weight"].tolist() == [[7, 3, 4, -7, 0]] * 2
    torch.testing.assert_close(rounded["fc.weight.scale"], torch.tensor([[1.0], [0.01]]))
    assert rounded["fc.bias"].tolist() == torch.tensor([3.4, 0.034]).tolist()


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_no_weight_moves_by_more_than_half_a_step_of_its_channel(bits):
    torch.manual_seed(0)
    weight = torch.randn(50, 20, 1, 3) * torch.logspace(-4, 2, 50)[:, None, None, None]  # channels of many sizes
    weight[7] = 0  # one that has died
    again = restore_weights(round_weights({"weight": weight}, bits))["weight"]
    step = weight.abs().amax(dim=(1, 2, 3)) / (2 ** (bits - 1) - 1)
    moved = (again - weight).abs().amax(dim=(1, 2, 3))
    assert (moved <= 0.5001 * step).all()
    assert (moved[step > 0] > 0.4 * step[step > 0]).all()  # and not by much less: there are no more bits than asked for


@pytest.mark.parametrize("bits", [1, 3, 9, 7.0, "7"])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits is"):
        round_weights({}, bits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_takes_its_rounded_weights(architecture):
    model = build_model(architecture, 10)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    restored = restore_weights(round_weights(trained, bits=8))
    assert list(restored) == list(trained)
    model.load_state_dict(restored)
    for name, value in model.state_dict().items():
        assert value.ndim > 1 or torch.equal(value, trained[name]), name
        torch.testing.assert_close(value, trained[name], rtol=0, atol=float(trained[name].abs().max()) / 200)


def saved(folder, bits):
    torch.manual_seed(0)
    model = TinyNet(10)
    model(torch.randn(8, 1, 100))  # batch norms have statistics
    run = new_run(config(epochs=2), folder / str(bits))
    run.save_checkpoint(model, 2, None, bits=bits)
    return model.eval(), load_run(run.path), run.path / "epoch-0002/epoch-0002.model"


def test_a_run_with_rounded_weights_is_used_like_any_other(tmp_path):
    model, run, _ = saved(tmp_path, 8)
    x = torch.randn(100, 1, 100)
    found, expected = run.model()(x), model(x)
    assert 0 < (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_the_file_of_a_real_network_has_less_than_a_quarter_of_the_size(tmp_path):
    sizes = {}
    for bits in (None, 7):
        torch.manual_seed(0)
        run = new_run(config(architecture="m5", sample_rate=8000, crop_samples=32000), tmp_path / str(bits))
        run.save_checkpoint(build_model("m5", 10), 1, None, bits=bits)
        sizes[bits] = (run.path / "epoch-0001/epoch-0001.model").stat().st_size
    assert sizes[7] < sizes[None] / 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (SCALE, torch.ones(16)),
        (SCALE, torch.ones(1, 16, 1, 1)),
        (SCALE, torch.ones(16, 16, 1, 3)),
        (SCALE, torch.ones(1, 1, 1, 1).expand(16, 1, 1, 1)),
        (SCALE, 1.0),
        (SCALE, torch.full((16, 1, 1, 1), float("nan"))),
        (WEIGHT, torch.ones(16, 16, 1, 3)),
        (WEIGHT, torch.ones(16, 16, 1, 3).int()),
        (WEIGHT, torch.ones(1, 1, 1, 1).to(torch.int8).expand(16, 10**6, 10**6, 3)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{getattr(value, 'shape', value)}",
)
def test_what_no_rounding_writes_is_refused_by_name(tmp_path, name, value):
    _, run, file = saved(tmp_path, 8)
    del run.checkpoints["epoch-0002"]["sha256"]  # as in older runs
    state = torch.load(file, weights_only=True)
    torch.save({**state, name: value}, file)
    with pytest.raises(ValueError, match=f"is not a checkpoint of tiny: {re.escape(WEIGHT)}"):
        run.model()


def test_rounded_weights_without_their_scales_are_refused(tmp_path):
    _, run, file = saved(tmp_path, 8)
    del run.checkpoints["epoch-0002"]["sha256"]
    state = torch.load(file, weights_only=True)
    del state[SCALE]
    torch.save(state, file)
    with pytest.raises(ValueError, match=f"{re.escape(WEIGHT)} is of torch.int8"):
        run.model()
