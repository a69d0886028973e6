"""Front-ends as files: the weights before and after training, and nothing else."""

import pytest
import torch
from tiny import TinyNet, config, new_run, register, tones, write_set

from esc_lib import build_model, recipe, train
from esc_lib.files import load_tensors, serialize
from esc_lib.interpret import FrontEnd, learned_map, list_frontends, load_frontend, save_frontend
from esc_lib.interpret.frontends import front_end_layers
from esc_lib.models import ARCHITECTURES
from esc_lib.models.blocks import Network
from esc_lib.paths import FRONTENDS


class Front(TinyNet, Network):
    """`TinyNet` with a map."""

    LENGTHS = range(50, 1000)

    def features(self, x):
        return self.conv2(self.conv1(x.unsqueeze(2)).relu()).transpose(1, 2)

    def classify(self, x):
        return self.fc(self.dropout(x.relu().mean(dim=(1, 3))))

    forward = Network.forward


@pytest.fixture
def run(tmp_path, monkeypatch):
    register(monkeypatch, Front)
    data = write_set(tmp_path / "data", tones())
    return train(config(seed=7), data_dir=data, save_dir=tmp_path / "runs", device="cpu", progress=False)


def test_a_runs_front_end_is_kept_as_it_was_before_and_after_training(run, tmp_path):
    file = save_frontend(run, folder=tmp_path / "new")
    assert file.name == "tiny.pt" and list_frontends(tmp_path / "new") == ["tiny"]
    found = load_frontend("tiny", folder=tmp_path / "new")
    assert isinstance(found, FrontEnd) and found.config == run.config
    assert found.accuracy == run.history["eval_acc"][2]
    torch.manual_seed(7)
    fresh, trained, x = build_model("tiny", 10).eval(), run.model("last"), torch.randn(2, 1, 100)
    with torch.no_grad():
        before, after = learned_map(found.before, x), learned_map(found.after, x)
        torch.testing.assert_close(before, learned_map(fresh, x), rtol=0, atol=3e-3)
        torch.testing.assert_close(after, learned_map(trained, x), rtol=0, atol=3e-3)
        assert (before - after).abs().max() > 0.05


def test_saving_draws_nothing_from_the_global_generator(run, tmp_path):
    state = torch.get_rng_state()
    save_frontend(run, folder=tmp_path)
    assert torch.equal(state, torch.get_rng_state())


def test_the_file_holds_the_front_end_alone_and_kernels_in_half_precision(run, tmp_path):
    content = load_tensors(save_frontend(run, folder=tmp_path))
    assert {name.split(".")[0] for name in content["after"]} == {"conv1", "conv2"}
    assert content["after"]["conv1.0.weight"].dtype == torch.float16
    assert content["after"]["conv1.1.running_var"].dtype == torch.float32


def test_only_finished_runs_that_started_from_their_seed_are_kept(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not finished"):
        save_frontend(new_run(config(), save_dir=tmp_path), folder=tmp_path)
    phase_2 = new_run(recipe("wavemsnet_logmel", "synthetic", start_from="phase 1"), save_dir=tmp_path)
    with pytest.raises(ValueError, match="started from another run's weights"):
        save_frontend(phase_2, folder=tmp_path)
    monkeypatch.setattr("esc_lib.interpret.frontends.front_end_layers", lambda _: ())
    with pytest.raises(ValueError, match="nothing in the front-end of tiny is learned"):
        save_frontend(run, folder=tmp_path)
    monkeypatch.setattr("esc_lib.interpret.frontends.Run", object)
    with pytest.raises(ValueError, match="another project's run"):
        save_frontend(run, folder=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other", "layer", "infinite"])
def test_a_damaged_file_is_refused_by_name(run, tmp_path, damage):
    file = save_frontend(run, folder=tmp_path)
    content = load_tensors(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other":
        content["config"]["architecture"] = "m5"
    elif damage == "layer":
        del content["after"]["conv1.0.weight"]
    else:
        content["before"]["conv1.0.weight"][0] = torch.inf
    if damage != "cut":
        file.write_bytes(serialize(content))
    with pytest.raises(ValueError, match=r"tiny\.pt is not a front-end of tiny"):
        load_frontend("tiny", folder=tmp_path)


def test_a_missing_file_says_how_to_write_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"envnet\.pt is missing \(there are none\).*-m esc_lib\.interpret RUN"):
        load_frontend("envnet", folder=tmp_path)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "logmel" not in name])
def test_every_networks_map_has_bands_and_frames(name):
    with torch.device("meta"):
        network = build_model(name, 10)
        found = learned_map(network, torch.zeros(2, 1, network.INPUT_SAMPLES))
    bands = {"envnet": 40, "envnetv2": 64, "wavemsnet": 96, "acdnet": 64, "m3": 256, "m5": 128, "m34res": 48}
    assert found.shape[:2] == (2, bands.get(name, 64)) and found.shape[2] > 100
    assert front_end_layers(network)[0] in ("conv1", "branch1")


@pytest.mark.parametrize("name", list_frontends())
def test_the_committed_files_are_small_and_were_tested_on_other_folds(name):
    found = load_frontend(name)
    assert (FRONTENDS / f"{name}.pt").stat().st_size < 200_000
    assert not set(found.config.train_folds) & set(found.config.eval_folds)
    assert found.accuracy is not None and found.accuracy > 0.5, "chance is 0.1"
    assert not found.config.start_from, "the path of a folder"
    noise = 0.1 * torch.randn(1, 1, found.after.INPUT_SAMPLES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = learned_map(found.before, noise), learned_map(found.after, noise)
    assert torch.isfinite(before).all() and torch.isfinite(after).all() and not torch.equal(before, after)


def test_the_front_end_of_every_network_that_learns_one_is_there():
    """All but the two that have a spectrogram alone."""
    assert set(list_frontends()) == set(ARCHITECTURES) - {"logmel_cnn", "logmel_m5"}


def test_the_command_writes_a_file(run, tmp_path, monkeypatch, capsys):
    import runpy
    import sys

    monkeypatch.setattr("esc_lib.interpret.frontends.FRONTENDS", tmp_path / "all")
    monkeypatch.setattr(sys, "argv", ["interpret", str(run.path)])
    runpy.run_module("esc_lib.interpret", run_name="__main__", alter_sys=False)
    assert "tiny.pt:" in capsys.readouterr().out and (tmp_path / "all" / "tiny.pt").is_file()
