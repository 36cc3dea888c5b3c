"""Fine-tuning of the entire network, with all labels or a fraction of them."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from timm.data import Mixup, create_transform  # type: ignore[attr-defined]
from timm.data.random_erasing import RandomErasing
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Sampler

from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError, RunError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.features import why_unreadable
from hardviews.evaluation.rng import seeded
from hardviews.evaluation.splits import stratified
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import Pixels
from hardviews.views.plan import Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

# The setting of BEiT and MAE, except for the magnitude: 10 would leave no bits of a picture, which Pillow 13 refuses.
RAND_AUGMENT = "rand-m9-mmax9-mstd0.5-inc1"
ERASED = 0.25  # of the pictures

log = logging.getLogger(__name__)


def finetune(
    bench: Bench,
    fractions: float | list[float] = 1.0,
    epochs: int = 100,
    lr: float = 1e-3,
    batch_size: int = 128,
    layer_decay: float = 0.75,
    weight_decay: float = 0.05,
    warmup_epochs: int = 5,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    smoothing: float = 0.1,
    rand_augment: str = RAND_AUGMENT,
) -> Iterator[tuple[str, float]]:
    """Test accuracy of a copy of the entire network with a new linear layer, trained by AdamW as BEiT and MAE are (Bao
    et al., ICLR 2022, arXiv 2106.08254; He et al., CVPR 2022, arXiv 2111.06377, table 9). No epoch is selected: the
    network after the last epoch counts.

    Args:
        fractions: fractions of each class's training labels to use, one number or several (0.01,0.1,1); smaller
            fractions are subsets of larger ones.
        epochs: of training on each fraction, with a half-cosine schedule.
        lr: peak learning rate of the last layer per 256 images.
        batch_size: images per step.
        layer_decay: factor between the learning rates of a layer and the one before it (timm's).
        weight_decay: of weights with two or more dimensions.
        warmup_epochs: of the learning rate; at most half the epochs.
        mixup, cutmix: their alphas (timm's); 0 for neither.
        smoothing: of labels.
        rand_augment: timm's specification of RandAugment, which is for 8-bit RGB; empty for none. Other images are
            cropped and mirrored alone. A random part is erased in a quarter of the pictures.

    Yields:
        ``finetune_top1``, or ``finetune_top1_10%`` for a fraction.
    """
    parts = fractions if isinstance(fractions, list) else [fractions]
    if not parts or not all(0 < part <= 1 for part in parts):
        raise InputError(f"finetune: fractions {fractions} must be above 0 and at most 1")
    if min(epochs, lr, layer_decay) <= 0 or layer_decay > 1 or batch_size < 2:
        raise InputError(
            f"finetune: epochs {epochs}, lr {lr} and layer_decay {layer_decay} must be above 0, the last at most 1, "
            f"and batch_size {batch_size} at least 2"
        )

    if rand_augment and not by_timm(bench.preprocessing.form):
        if rand_augment != RAND_AUGMENT:
            raise InputError(f"finetune: rand_augment {rand_augment!r} is for 8-bit RGB; give an empty one")
        log.warning("finetune: RandAugment is for 8-bit RGB; these images are cropped, mirrored and erased alone")

    def tuned(rows: Tensor) -> nn.Module:
        """A copy of the network, trained on these training images."""
        size = min(batch_size, len(rows)) // 2 * 2  # mixup pairs images
        if not size:
            raise InputError(f"finetune: {bench.sources[0].name}: one training image is too few")
        pictures = Augmented(bench, rows, rand_augment)
        steps = len(rows) // size
        order = Order(len(rows), size, epochs, bench.seed)
        model: Any = copy.deepcopy(bench.backbone)
        model.reset_classifier(bench.classes)
        model = model.to(bench.device).train()
        optimizer = create_optimizer_v2(
            model, "adamw", lr=lr * size / 256, weight_decay=weight_decay, layer_decay=layer_decay
        )
        schedule, _ = create_scheduler_v2(
            optimizer, "cosine", num_epochs=epochs, warmup_epochs=min(warmup_epochs, epochs // 2), warmup_lr=0.0,
            min_lr=0.0, step_on_epochs=False, updates_per_epoch=steps,
        )  # fmt: skip
        mixed: Any = Mixup(  # type: ignore[no-untyped-call]
            mixup, cutmix, prob=float(max(mixup, cutmix) > 0), label_smoothing=smoothing, num_classes=bench.classes
        )
        labels = bench.labels[0][rows].to(bench.device)
        scaler = bench.scaler()
        advance = bench.progress("finetune", len(order))
        for step, (images, index) in enumerate(DataLoader(pictures, batch_sampler=order, num_workers=bench.workers)):
            schedule.step_update(step)
            images, targets = mixed(images.to(bench.device), labels[index.to(bench.device)])
            with bench.autocast():
                logits = model(images)
            loss = cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            advance(1)
        if not loss.isfinite():
            raise RunError(f"finetune: the final loss is {loss.item()}; give a --finetune.lr below {lr:g}")
        return model  # type: ignore[no-any-return]

    for part in parts:
        rows, _ = stratified(bench.labels[0], part, stream(bench.seed, "fraction"))
        with seeded(bench.seed, bench.device):
            model = tuned(rows)
        metric, value = bench.score(*predictions(bench, model))
        yield f"finetune_{metric}" + ("" if part == 1 else f"_{part * 100:g}%"), value


def predictions(bench: Bench, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The predicted class and the label of every readable test image."""
    logits = bench.encode(model, bench.sources[1], "test features")
    return logits.vectors.argmax(1), bench.labels[1][logits.rows]


def by_timm(form: Pixels) -> bool:
    """Whether images are 8-bit RGB of the whole range, which timm's augmentations take."""
    return form.converts and form.plain


class Order(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position), reshuffled every epoch; an incomplete last batch is dropped."""

    def __init__(self, count: int, size: int, epochs: int, seed: int) -> None:
        self.count, self.size, self.epochs, self.seed = count, size, epochs, seed

    def __len__(self) -> int:
        return self.count // self.size * self.epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.epochs):
            order = torch.randperm(self.count, generator=stream(self.seed, "finetune", epoch))
            for start in range(0, self.count - self.size + 1, self.size):
                yield [(epoch, place) for place in order[start : start + self.size].tolist()]


class Augmented(Dataset[tuple[Tensor, int]]):
    """Training pictures by (epoch, position in ``rows``), augmented by timm. Those that are not 8-bit RGB are only
    cropped, mirrored and erased. The same arguments give the same picture in any process.

    An unreadable picture is replaced by the next readable one.
    """

    def __init__(self, bench: Bench, rows: Tensor, rand_augment: str) -> None:
        self.source, self.seed, self.rand_augment = Subset(bench.sources[0], rows), bench.seed, rand_augment
        ready = bench.ready(bench.sources[0])
        self.form, self.bounds = ready.form, Bounds(2 * ready.image_size, form=ready.form)
        slot = Slot("crop", ready.image_size, interpolation="bicubic", draw=1, keep=1)
        self.plan = ViewPlan((slot,), ready.mean, ready.std, rgb=ready.form.rgb)
        self.erase = RandomErasing(ERASED, mode="pixel", device="cpu")  # type: ignore[no-untyped-call]
        self.transform: Any = None
        if by_timm(self.form):
            self.transform = create_transform(
                ready.image_size, is_training=True, color_jitter=0.0, auto_augment=rand_augment or None,
                interpolation="bicubic", mean=ready.mean, std=ready.std, re_prob=ERASED, re_mode="pixel",
            )  # fmt: skip

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, place = key
        for other in range(len(self.source)):
            index = (place + other) % len(self.source)
            try:
                picture = self.source.read(index, self.bounds)
            except UnreadableImage:
                continue
            generator = stream(self.seed, "augment", epoch, place)
            with seeded(int(torch.randint(1 << 31, (), generator=generator))):
                if self.transform is None:
                    return self.cropped(picture, generator), index
                try:
                    return self.transform(Image.fromarray(picture.numpy())), index
                except ValueError as error:
                    raise InputError(f"finetune: rand_augment {self.rand_augment!r} fails: {error}") from error
        raise RunError(f"{self.source.name}: no image can be read{why_unreadable(self.source, self.form)}")

    def cropped(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """A random crop of a picture ``[h, w, C]``, mirrored half the time, with a part erased: ``[C, S, S]``."""
        images = ImageBatch.pack([picture], form=self.form)
        (view,) = render(images, draw(self.plan, images.size, generator), self.plan)
        erased: Tensor = self.erase(view[0])
        return erased
