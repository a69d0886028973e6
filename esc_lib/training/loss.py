"""The loss: cross-entropy in standard training, Kullback-Leibler divergence in between-class learning."""

import torch.nn.functional as F
from torch import Tensor


def kl_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the softmax of the logits to soft labels: sum over classes, mean over the batch.

    Source: Tokozume, Ushiku, Harada, ICLR 2018, section 3.

    Shape:
        logits, label: `(batch, n_classes)` -> one number, zero if every softmax equals its label

    >>> import torch
    >>> kl_loss(torch.tensor([[0.3, 0.7]]).log(), torch.tensor([[0.3, 0.7]])).item()
    0.0
    """
    return F.kl_div(logits.log_softmax(dim=1), label, reduction="batchmean")


def batch_loss(logits: Tensor, label: Tensor) -> Tensor:
    """The loss of a batch: cross-entropy with class numbers, `kl_loss` with soft labels.

    Shape:
        logits: `(batch, n_classes)`; label: `(batch,)` int64 or `(batch, n_classes)` float32 -> one number
    """
    return F.cross_entropy(logits, label) if label.ndim == 1 else kl_loss(logits, label)
