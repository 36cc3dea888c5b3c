"""Semantic segmentation by a linear head on a frozen backbone.

The head follows Oquab et al., "DINOv2" (arXiv 2304.07193, section 7.4): batch norm and one linear layer at every cell,
with logits upsampled to the picture. Unlike there, test pictures are processed once, at full size.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.data.labelled.scenes import SIZE
from hardviews.data.labelled.semantic import IGNORED, Segmented, SegmentedScenes, open_segmented
from hardviews.data.loading.read_ahead import batches
from hardviews.errors import InputError, RunError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import evaluating
from hardviews.evaluation.pyramid import Stages, finest_map
from hardviews.evaluation.short_training import shuffled
from hardviews.views.plan import whole_patches
from hardviews.views.streams import stream

IMAGE_SIZE = 512  # usual shorter side of photographs in pixels
CLASSES_AT_ONCE = 16  # classes to upsample at once: 150 classes of a large photograph would take gigabytes


def segmentation(
    bench: Bench,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    image_size: int | None = None,
    layers: int = 1,
) -> Iterator[tuple[str, float]]:
    """Mean intersection over union and pixel accuracy of a linear layer on frozen features.

    --data is a folder with train/images, train/masks, val/images and val/masks (masks are PNGs of class numbers, 255 is
    ignored; classes.txt may name the classes), or shapes.

    Args:
        epochs: of training the head.
        steps: of training, instead of epochs.
        batch_size: pictures per step.
        lr: peak rate of AdamW, which falls to 0 along a half cosine.
        weight_decay: of AdamW.
        image_size: shorter side of pictures after resizing, rounded to whole patches, and side of the random training
            crops; by default 512, or 128 for shapes.
        layers: number of last feature maps that the head gets: stages, upsampled to the finest, or blocks of a plain
            Vision Transformer.

    Yields:
        ``("segmentation_miou", value)`` over the classes that occur in the test pictures or predictions, and
        ``("segmentation_pixel_accuracy", value)``.

    Raises:
        InputError: a setting or the data is invalid.
        RunError: training diverged.
    """
    settings = {"epochs": epochs, "batch_size": batch_size, "image_size": image_size, "layers": layers}
    for name, value in settings.items():
        if value is not None and value < 1:
            raise InputError(f"segmentation: {name} {value} must be at least 1")
    if lr <= 0 or weight_decay < 0 or (steps is not None and steps < 0):
        raise InputError("segmentation: lr must be above 0, weight_decay and steps not below")
    bench.check_rgb("segmentation", "its pictures are RGB")
    train, test = open_segmented(bench.data, image_size or SIZE, bench.workers)
    if len(train.classes) < 2:
        raise InputError(f"{train.name}: masks have only one class; {IGNORED} is ignored")
    bench.scenes["segmentation"] = (test.name, len(train), len(test))
    head = Head(bench, len(train.classes), layers)
    wanted = math.ceil(epochs * len(train) / batch_size) if steps is None else steps
    side = whole_patches(image_size or train.native_size or IMAGE_SIZE, head.stages.multiple)
    with evaluating(bench.backbone):
        fit(head, train, side, wanted, batch_size, lr, weight_decay)
        found = confusion(head, test, side)
    yield "segmentation_miou", mean_iou(found)
    yield "segmentation_pixel_accuracy", (found.diagonal().sum() / found.sum()).item()


class Head(nn.Module):
    """Maps pictures to logits of every cell ``[B, C, h, w]``; its parameters do not include the backbone's.

    Args:
        bench: gives backbone, mean and std, and precision.
        classes: C.
        layers: number of feature maps used.
    """

    def __init__(self, bench: Bench, classes: int, layers: int) -> None:
        super().__init__()
        self.bench = bench
        self.stages = Stages(bench.backbone, layers, layers)
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (bench.preprocessing.mean, bench.preprocessing.std))
        self.mean, self.std = mean.to(bench.device), std.to(bench.device)
        self.norm = nn.BatchNorm2d(sum(self.stages.channels))
        # Starts at zero, so nothing is random.
        self.linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Conv2d, sum(self.stages.channels), classes, 1
        )
        self.own = nn.ModuleList([self.norm, self.linear]).to(bench.device)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Takes float pictures ``[B, 3, h, w]`` in 0..1 whose sides are multiples of the backbone's ``multiple``."""
        with torch.no_grad(), self.bench.autocast():
            features = finest_map(self.stages((images.to(self.bench.device) - self.mean) / self.std))
        logits: Tensor = self.linear(self.norm(features.float()))
        return logits


def fit(
    head: Head, scenes: SegmentedScenes, side: int, steps: int, batch_size: int, lr: float, weight_decay: float
) -> None:
    """Trains the head on random crops, half of them mirrored.

    Raises:
        RunError: the loss is no longer finite.
    """
    bench = head.bench
    optimizer = torch.optim.AdamW(head.own.parameters(), lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    order, flips = shuffled(len(scenes), steps * batch_size, bench.seed, "segmentation")
    places = torch.rand(len(order), 2, generator=stream(bench.seed, "segmentation crops")).tolist()
    drawn = zip(flips, places, strict=True)
    advance = bench.progress("segmentation", steps)
    head.own.train()
    for step, part in enumerate(batches(scenes.read, order, batch_size, bench.workers)):
        crops = [crop(scene, side, *how) for scene, how in zip(part, drawn, strict=False)]
        images, masks = (torch.stack(parts) for parts in zip(*crops, strict=True))
        masks = masks.to(bench.device)
        logits = F.interpolate(head(images), masks.shape[-2:], mode="bilinear")
        loss = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="sum")
        loss = loss / (masks != IGNORED).sum().clamp(min=1)  # a crop may contain ignored pixels only
        if not loss.isfinite():
            raise RunError(f"segmentation: the loss is not finite at step {step}; a smaller --segmentation.lr may help")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        advance(1)


def crop(scene: Segmented, side: int, flip: bool, place: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """A square crop of a picture, resized so that its shorter side is ``side``, and of its mask.

    Args:
        scene: a picture and its mask.
        side: in pixels.
        flip: mirrors both.
        place: position of the square, from 0 (upper left) to 1.
    """
    scale = side / min(scene.mask.shape)
    size = [max(side, round(length * scale)) for length in scene.mask.shape]
    image = resized(scene.image, size)[0]
    mask = F.interpolate(scene.mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
    y, x = (round((length - side) * where) for length, where in zip(size, place, strict=True))
    image, mask = image[:, y : y + side, x : x + side], mask[y : y + side, x : x + side]
    return (image.flip(-1), mask.flip(-1)) if flip else (image, mask)


def resized(image: Tensor, size: list[int]) -> Tensor:
    """Resizes uint8 ``[h, w, 3]`` to float ``[1, 3, *size]`` in 0..1."""
    pixels = image.permute(2, 0, 1)[None].float() / 255
    if list(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", antialias=True).clamp(0, 1)


@torch.no_grad()
def confusion(head: Head, scenes: SegmentedScenes, side: int) -> Tensor:
    """Counts pixels by true and predicted class, int64 ``[C, C]``, without ignored ones.

    Raises:
        InputError: all pixels are ignored.
    """
    count = len(scenes.classes)
    found = torch.zeros(count, count, dtype=torch.int64)
    advance = head.bench.progress("segmentation test", len(scenes))
    head.own.eval()
    # In full and one at a time, since sizes differ.
    for (scene,) in batches(scenes.read, range(len(scenes)), 1, head.bench.workers):
        scale = side / min(scene.mask.shape)
        size = [whole_patches(length * scale, head.stages.multiple) for length in scene.mask.shape]
        predictions = best_class(head(resized(scene.image, size)), list(scene.mask.shape))[0].cpu()
        found += confusions(scene.mask, predictions, count)
        advance(1)
    if not found.sum():
        raise InputError(f"{scenes.name}: all pixels are {IGNORED}, which means ignored")
    return found


def best_class(logits: Tensor, size: list[int]) -> Tensor:
    """The class of the largest logit after upsampling, int64 ``[B, *size]``; processes some classes at a time."""
    parts = torch.split(logits, CLASSES_AT_ONCE, 1)
    best = [F.interpolate(part, size, mode="bilinear").max(1) for part in parts]
    part = torch.stack([values for values, _ in best]).argmax(0, keepdim=True)
    inside = torch.stack([numbers for _, numbers in best]).gather(0, part)
    return (part * CLASSES_AT_ONCE + inside)[0]


def confusions(truth: Tensor, found: Tensor, classes: int) -> Tensor:
    """Counts pairs of true and predicted class numbers of the same shape, int64 ``[C, C]``."""
    counted = truth != IGNORED
    return (truth[counted] * classes + found[counted]).bincount(minlength=classes**2).view(classes, classes)


def mean_iou(confusion: Tensor) -> float:
    """The mean intersection over union; classes neither present nor predicted are left out (Everingham et al., "The
    PASCAL Visual Object Classes Challenge", IJCV 2015)."""
    right = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float((right[union > 0] / union[union > 0]).mean())
