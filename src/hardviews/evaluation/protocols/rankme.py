"""Label-free measures of embeddings: their rank, and their spread on the sphere."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hardviews.data.loading.in_order import in_order
from hardviews.data.sources import ImageSource
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import evaluating
from hardviews.evaluation.rank import effective_rank
from hardviews.views.draw import draw
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream


def rankme(bench: Bench, images: int = 2048) -> Iterator[tuple[str, float]]:
    """RankMe (Garrido et al., ICML 2023) of the test images (of all images if there are none), and uniformity and
    alignment (Wang and Isola, ICML 2020, arXiv 2005.10242). Needs no labels.

    Alignment compares two views of an image, with SimSiam's crops, flips and colours, without blur; of channels that
    are not RGB, with brightness and contrast alone.

    Args:
        images: number of random images on which uniformity and alignment are measured.

    Yields:
        ``rank`` (1 to D, higher is richer), ``uniformity`` and ``alignment`` (both lower is better).
    """
    if images < 2:
        raise InputError(f"rankme: images {images} must be at least 2")
    source, test = bench.open()
    source = test or source
    features = bench.features_of(source, "features" if test is None else "test features")
    if len(features.rows) < 2:
        raise InputError(f"rankme: {source.name}: needs two images or more")
    yield "rank", effective_rank(features.vectors)
    some = torch.randperm(len(features.rows), generator=stream(bench.seed, "rankme"))[:images]
    yield "uniformity", uniformity(features.vectors[some])
    yield "alignment", alignment(*two_views(bench, Subset(source, features.rows[some])))


def uniformity(vectors: Tensor) -> float:
    """log E exp(-2 |x - y|²) over pairs of different vectors scaled to length 1 (equation 7, t = 2)."""
    distances = torch.pdist(F.normalize(vectors.double(), dim=1))
    return (distances.square() * -2).exp().mean().log().item()


def alignment(a: Tensor, b: Tensor) -> float:
    """E |x - y|² over pairs scaled to length 1 (equation 6, α = 2)."""
    return (F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(1).mean().item()


def two_views(bench: Bench, source: ImageSource) -> tuple[Tensor, Tensor]:
    """Features of two random views of every image, ``[N, D]`` each."""
    ready = bench.ready(source)
    look = Photometric(0.4, 0.4, 0.4, 0.1, grey_p=0.2)
    plan = ViewPlan((Slot("view", ready.image_size, draw=2, keep=2, photometric=look),))
    plan = plan.for_channels(ready.mean, ready.std, ready.form.rgb)
    found: tuple[list[Tensor], list[Tensor]] = [], []
    advance = bench.progress("two views", len(source))
    with evaluating(bench.backbone), torch.no_grad(), bench.autocast():
        batches = in_order(source, bench.batch_size, workers=bench.workers, form=ready.form)
        for number, images in enumerate(batches):
            views = draw(plan, images.size, stream(bench.seed, "two views", number)).to(bench.device)
            for part, batch in zip(found, render(images.to(bench.device), views, plan), strict=True):
                part.append(bench.backbone(batch).float().cpu())
            advance(len(images))
    return torch.cat(found[0]), torch.cat(found[1])
