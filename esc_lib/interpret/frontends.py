"""The learned first layers of a network, before and after its training, in one small file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esc_lib.arguments import as_path, check
from esc_lib.files import atomic_write, explain_write_errors, load_tensors, serialize
from esc_lib.models import ARCHITECTURES, build_model
from esc_lib.models.blocks import Network
from esc_lib.models.wavemxnet import WaveMxNet
from esc_lib.paths import FRONTENDS
from esc_lib.training.config import TrainConfig
from esc_lib.training.runs import Run, as_run, check_weights


@dataclass(frozen=True)
class FrontEnd:
    """The front-end of one network at both ends of its training.

    Attributes:
        config: the settings of the training.
        accuracy: on its evaluation folds after the last epoch; None if there were none.
        before: network in eval mode with the front-end's weights before the first epoch.
        after: the same with those after the last epoch.
            Their classifiers have no weights: only `learned_map` and the front-end's layers can be computed.
    """

    config: TrainConfig
    accuracy: float | None
    before: Network
    after: Network


def front_end_layers(network: Network) -> tuple[str, ...]:
    """Names of the layers that make the time-frequency map; of an M-net the first, whose filters are 10 ms long.

    An M-net has no map to classify: its other convolutions, `stages`, are the rest of the network.
    """
    return tuple(name for name in network.FRONT_END if name != "stages")


def learned_map(network: Network, x: Tensor) -> Tensor:
    """The time-frequency map that a network's front-end computes.

    Args:
        network: of `esc_lib.models`.
        x: waveforms.

    Shape:
        `(batch, 1, samples)` -> `(batch, bands, frames)`
    """
    if isinstance(network, WaveMxNet):
        return network.conv1(network.prepare(x).unsqueeze(2))[:, :, 0]  # (B, C, 1, T) -> (B, C, T)
    return network.features(x)[:, 0]  # (B, 1, bands, frames) -> (B, bands, frames)


def save_frontend(run: Run | str | Path, *, folder: str | Path | None = None) -> Path:
    """Stores a run's front-end: a fresh network's of the same seed, and the last checkpoint's.

    Kernels are stored in half precision, all else as it is. An older file of the same network is replaced.

    Args:
        run: a finished run of this course, or its directory.
        folder: where the file is written, if not in the repository's `data/frontends/`.

    Returns:
        the file.

    Raises:
        FileNotFoundError: no run there.
        ValueError: it is not finished, or its front-end is not learned, or did not start from its seed.
        WriteError: the file cannot be written.
    """
    run = as_run(run)
    config = run.config
    if type(run) is not Run:
        raise ValueError(f"{run.path} is another project's run: what it started from is not known")
    if config.start_from:
        raise ValueError(f"{run.path} started from another run's weights, not from its seed: name that run")
    if not run.finished:
        raise ValueError(f"{run.path} is not finished: train it to its last epoch first")
    with torch.random.fork_rng(devices=[]):  # all that is random is put back afterwards
        torch.manual_seed(config.seed)  # as `train` does
        fresh = build_model(config.architecture, len(config.class_names))
        trained = run.model("last")
    before, after = (_front_end_state(fresh, of.state_dict()) for of in (fresh, trained))
    if not before:
        raise ValueError(f"{run.path}: nothing in the front-end of {config.architecture} is learned")
    accuracy = run.checkpoint("last")["eval_acc"]
    content = {"config": config.to_dict(), "accuracy": accuracy, "before": before, "after": after}
    file = _file(config.architecture, folder)
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, lambda opened: opened.write(serialize(content)))
    return file


def load_frontend(architecture: str, *, folder: str | Path | None = None) -> FrontEnd:
    """Opens what `save_frontend` wrote; the file can hold only tensors and settings.

    Args:
        architecture: the network's name.
        folder: as for `save_frontend`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or another network's.
    """
    check("architecture", architecture, str)
    file = _file(architecture, folder)
    if not file.is_file():
        known = ", ".join(list_frontends(folder)) or "none"
        raise FileNotFoundError(
            f"{file} is missing (there are {known}): write it by `python -m esc_lib.interpret RUN`, of a finished run"
        )
    try:
        content = load_tensors(file)
        config = TrainConfig.from_dict(content["config"])
        if config.architecture != architecture:
            raise ValueError(f"it is that of {config.architecture}")
        before, after = (_network(config, content[when]) for when in ("before", "after"))
        return FrontEnd(config, content["accuracy"], before, after)
    except Exception as error:  # the unpickler trips over a damaged file in many ways
        raise ValueError(
            f"{file} is not a front-end of {architecture}: {error}; restore it, or write it again"
        ) from error


def list_frontends(folder: str | Path | None = None) -> list[str]:
    """The networks whose front-ends are stored, in the order of `ARCHITECTURES`."""
    return [name for name in ARCHITECTURES if _file(name, folder).is_file()]


def _file(architecture: str, folder: str | Path | None) -> Path:
    return (FRONTENDS if folder is None else as_path("folder", folder)) / f"{architecture}.pt"


def _front_end_state(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the front-end's layers, kernels in half precision; batch norm's values may be too small for it."""
    parts = tuple(f"{layer}." for layer in front_end_layers(network))
    kept = {name: value for name, value in state.items() if name.startswith(parts)}
    return {name: (value.half() if value.ndim > 1 else value).clone() for name, value in kept.items()}


def _network(config: TrainConfig, state: dict[str, Tensor]) -> Network:
    """A network with weights in its front-end alone: the rest of EnvNet-v2 would take 400 MB."""
    with torch.device("meta"):
        network = build_model(config.architecture, len(config.class_names))
    check_weights(state)
    if set(state) != set(_front_end_state(network, network.state_dict())):
        raise ValueError("it has other layers")
    kernels = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    network.load_state_dict(kernels, strict=False, assign=True)
    return network.eval()
