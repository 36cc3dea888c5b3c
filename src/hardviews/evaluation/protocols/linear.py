"""Linear classification of frozen features, by stochastic gradient descent."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hardviews.data.loading.loader import Loader
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import encode, evaluating
from hardviews.evaluation.heads import Batches, Heads, fitted, shuffled, tuning_rows, warn_of_edge
from hardviews.views.draw import draw
from hardviews.views.plan import Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

# Peak learning rates per 256 images. Features are standardised, so one grid suits all kinds of backbones.
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]


def linear(
    bench: Bench, rates: list[float] = RATES, epochs: int = 100, batch_size: int = 256, augment: bool = False
) -> Iterator[tuple[str, float]]:
    """Test accuracy of a linear layer. Trains one per learning rate on nine tenths of the training images, chooses the
    best on the last tenth, and trains it again on all of them.

    Args:
        rates: peak learning rates per 256 images to try; a single one is used as it is.
        epochs: of training, with a half-cosine schedule.
        batch_size: images per step.
        augment: train on random crops and flips, encoded anew in every epoch, as published (DINO, SimSiam), instead of
            features of central crops computed once. That takes two forwards per image and epoch.

    Yields:
        ``linear_top1``, and the chosen ``linear_rate``.
    """
    if min(rates, default=0.0) <= 0 or epochs < 1 or batch_size < 1:
        raise InputError(f"linear: rates {rates}, epochs {epochs} and batch_size {batch_size} must be above 0")
    train, test = bench.labelled
    x, y = train.richest.to(bench.device), train.labels.to(bench.device)

    def trained(rows: Tensor, rates: list[float], what: str) -> Heads:
        """Trains classifiers on these training images."""
        size = min(batch_size, len(rows))
        if augment:
            some, form = Subset(bench.sources[0], train.rows[rows]), bench.preprocessing.form
            loader = Loader(some, size, bench.seed, workers=bench.workers, form=form)
            batches, steps = augmented(bench, loader, y[rows.to(y.device)]), loader.steps_per_epoch
        else:
            batches, steps = shuffled(x, y, rows, size, bench.seed), -(-len(rows) // size)
        advance = bench.progress(what, epochs)

        def counted(epoch: int) -> Batches:
            yield from batches(epoch)
            advance(1)

        return fitted(x, bench.classes, [rate * size / 256 for rate in rates], counted, epochs, steps)

    best = rates[0]
    if len(rates) > 1:
        fit, choose = tuning_rows(train.labels, bench.seed)
        predicted = trained(fit, rates, "linear, choosing the rate").predict(train.richest[choose])
        right = (predicted == train.labels[choose]).double().mean(1)
        best = rates[int(right.argmax())]
        warn_of_edge("linear", "rates", rates, right.tolist(), best)
    (predictions,) = trained(torch.arange(len(train.labels)), [best], "linear").predict(test.richest)
    metric, value = bench.score(predictions, test.labels)
    yield f"linear_{metric}", value
    yield "linear_rate", best


def augmented(bench: Bench, loader: Loader, labels: Tensor) -> Callable[[int], Batches]:
    """An epoch's batches: features of random crops, and labels."""
    ready = bench.ready(bench.sources[0])
    slot = Slot("crop", ready.image_size, (0.08, 1.0), draw=1, keep=1)
    plan = ViewPlan((slot,), ready.mean, ready.std, rgb=ready.form.rgb)
    images = loader.batches()

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(loader.steps_per_epoch):
            batch = next(images).to(bench.device)
            views = draw(plan, batch.size, stream(bench.seed, "linear", epoch, step)).to(bench.device)
            with torch.no_grad(), evaluating(bench.backbone), bench.autocast():
                vectors, tokens = encode(bench.backbone, render(batch, views, plan)[0], bench.blocks)
            yield (vectors if tokens is None else tokens).float(), labels[batch.index.to(labels.device)]

    return batches
