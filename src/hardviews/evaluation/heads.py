"""Linear classifiers with several learning rates, trained together in one pass over the data."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from hardviews.errors import InputError
from hardviews.evaluation.splits import stratified
from hardviews.views.streams import stream

log = logging.getLogger(__name__)

TENTH = 0.1  # fraction of the training images held out for choosing

Batches = Iterable[tuple[Tensor, Tensor]]  # features [B, D] and labels [B]


class Heads(nn.Module):
    """R linear classifiers on standardised features, as one product. They start at zero, so nothing is random.

    Args:
        mean, scale: ``[D]``, of the training features; without standardising, one learning rate would not suit all
            features.
        classes: C.
        count: R.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, classes: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.weights = nn.ParameterList(torch.zeros(classes, len(mean)) for _ in range(count))
        self.biases = nn.ParameterList(torch.zeros(classes) for _ in range(count))

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to logits ``[R, B, C]``."""
        standard = (features - self.mean) / self.scale
        logits = F.linear(standard, torch.cat(list(self.weights)), torch.cat(list(self.biases)))
        return logits.view(len(features), len(self.weights), -1).transpose(0, 1)

    @torch.no_grad()
    def predict(self, features: Tensor, rows: int = 4096) -> Tensor:
        """The most likely class by every classifier, int64 ``[R, N]`` on the CPU."""
        parts = [self(part.to(self.mean.device)).argmax(2).cpu() for part in torch.split(features, rows)]
        return torch.cat(parts, 1)


def fitted(
    features: Tensor, classes: int, rates: Sequence[float], batches: Callable[[int], Batches], epochs: int, steps: int
) -> Heads:
    """Trains one classifier per learning rate with cross-entropy, SGD of momentum 0.9 without weight decay, and a half
    cosine to 0, as in Caron et al. (DINO, ICCV 2021, section 4.1) and Chen and He (SimSiam, CVPR 2021, section 4).

    Args:
        features: ``[N, D]``, for their mean and scale; runs on their device.
        classes: C.
        rates: peak learning rates.
        batches: maps an epoch's number to its batches.
        epochs, steps: of training, and steps in every epoch.
    """
    scale = features.std(0)
    heads = Heads(features.mean(0), torch.where(scale > 0, scale, 1.0), classes, len(rates)).to(features.device)
    groups = [
        {"params": [weight, bias], "lr": rate}
        for rate, weight, bias in zip(rates, heads.weights, heads.biases, strict=True)
    ]
    optimizer = SGD(groups, momentum=0.9)
    schedule = CosineAnnealingLR(optimizer, epochs * steps)
    for epoch in range(epochs):
        for x, labels in batches(epoch):
            logits = heads(x).float()
            # A sum over classifiers, so that each trains as if alone.
            loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(rates)), reduction="sum") / len(labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return heads


def shuffled(features: Tensor, labels: Tensor, rows: Tensor, batch_size: int, seed: int) -> Callable[[int], Batches]:
    """Batches of the given rows of features, reshuffled every epoch; the last batch of an epoch may be smaller."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = rows[torch.randperm(len(rows), generator=stream(seed, "classifier", epoch))]
        for some in torch.split(order.to(features.device), batch_size):
            yield features[some], labels[some]

    return batches


def warn_of_edge(protocol: str, option: str, grid: Sequence[float], scores: Sequence[float], best: float) -> None:
    """Says where the best of a grid lies at its edge, and is better than what lies beside it.

    Args:
        protocol, option: whose grid it is.
        grid: values that were tried.
        scores: of every value.
        best: that was chosen.
    """
    order = sorted(range(len(grid)), key=grid.__getitem__)
    for edge, beside, word in ((order[0], order[1], "smallest"), (order[-1], order[-2], "largest")):
        if grid[edge] == best and scores[edge] > scores[beside]:
            further = "smaller" if word == "smallest" else "larger"
            log.warning(
                "%s: the best, %g, is the %s of --%s.%s: %s ones may do better",
                protocol, best, word, protocol, option, further,
            )  # fmt: skip


def tuning_rows(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the training images, per class, into rows to fit on and rows to choose by; used by ``linear`` and
    ``logistic``.

    Raises:
        InputError: there are too few images.
    """
    fitted_on, chosen_by = stratified(labels, 1 - TENTH, stream(seed, "tuning"))
    if not len(chosen_by) or len(labels[fitted_on].unique()) < 2:  # type: ignore[no-untyped-call]
        raise InputError(
            "linear and logistic need training images of at least two classes, and two images of one class to choose by"
        )
    return fitted_on, chosen_by
