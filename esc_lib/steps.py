"""One step of learning: from a batch to the optimiser's update."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esc_lib.config import TrainConfig
from esc_lib.mixing import kl_loss


def new_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the settings, for all weights of a network."""
    settings = dict(lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **settings)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(model.parameters(), momentum=config.momentum, nesterov=nesterov, **settings)


def start_learning(model: nn.Module, frozen: bool) -> None:
    """Puts a network into training mode, with its front-end (weights and batch-norm statistics) frozen or not."""
    model.train()
    if frozen:
        for name in model.FRONT_END:
            getattr(model, name).eval().requires_grad_(False)
            # Without gradients: an optimiser would still take old ones for a weight decay or a momentum.
            getattr(model, name).zero_grad(set_to_none=True)


def train_step(
    config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor
) -> tuple[Tensor, Tensor]:
    """Learns from one batch, as `esc_lib.batches` makes them.

    Returns:
        the batch's mean loss and its number of correct examples, as they were before the update; on its device, so
        that nobody waits for them.
    """
    logits = model(x).float()
    loss = kl_loss(logits, label) if config.between_class else F.cross_entropy(logits, label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    correct = logits.argmax(dim=1) == (label.argmax(dim=1) if config.between_class else label)
    return loss.detach(), correct.sum()
