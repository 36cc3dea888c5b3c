"""The input of every protocol: a backbone, labelled data, and the features of both, computed once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from hardviews.data.sources import ImageSource, why_unlabelled
from hardviews.data.sources.subset import Subset
from hardviews.data.sources.torchvision_sets import MEAN_PER_CLASS, TorchvisionSet
from hardviews.errors import InputError
from hardviews.evaluation.cache import FeatureCache
from hardviews.evaluation.features import Features, Preprocessing, extract, has_tokens
from hardviews.evaluation.splits import held_out
from hardviews.views.streams import stream
from hardviews.wording import several

# Maps a task's name and length to a function that is called with the number of items done.
StartProgress = Callable[[str, int], Callable[[int], None]]


def silent(_name: str, _length: int) -> Callable[[int], None]:
    return lambda _done: None


@dataclass
class Bench:
    """A backbone and the data it is measured on.

    Args:
        backbone: images to features ``[B, D]``, on the device to use. Protocols leave it unchanged, or train a copy.
        data: the user's name for it; detection and segmentation read it in their own ways.
        open: opens the training data and, if there is any, the test data.
        preprocessing: of the backbone's images.
        autocast: sets the precision of forwards.
        batch_size, workers: affect speed only.
        seed: of all randomness.
        whole_if_small: do not crop small images, whatever ``preprocessing`` says.
        blocks: number of a ViT's last blocks in ``Features.tokens``; 0 for none.
        cache: stores features; None for no cache.
        progress: shows the progress of a task.
        scenes: protocol → (test set, training images, test images), for protocols that open ``data`` themselves.
        left_out: number of unreadable images so far among the training images (``features``) and the test images
            (``test features``).
    """

    backbone: nn.Module
    data: str
    open: Callable[[], tuple[ImageSource, ImageSource | None]]
    preprocessing: Preprocessing
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    batch_size: int = 256
    workers: int = 0
    seed: int = 0
    whole_if_small: bool = True
    blocks: int = 0
    cache: FeatureCache | None = None
    progress: StartProgress = silent
    scenes: dict[str, tuple[str, int, int]] = field(default_factory=dict, init=False)
    left_out: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @cached_property
    def sources(self) -> tuple[ImageSource, ImageSource]:
        """Training and test images. Without a test split, a random tenth is the test set.

        Never use the test images to choose anything.
        """
        source, test = self.open()
        if test is not None:
            return source, test
        rows, query_rows = held_out(len(source), stream(self.seed, "held-out"))
        if not len(rows):
            raise InputError(f"{source.name}: one image can't be split into training and test")
        return Subset(source, rows), Subset(source, query_rows)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Labels of ``sources``, renumbered 0..classes - 1; int64 ``[N]``, ``[M]``.

        Raises:
            InputError: the data has no labels.
        """
        given = []
        for source in self.sources:
            if source.labels is None:
                raise InputError(f"{source.name}: has no labels, which this protocol needs: {why_unlabelled(source)}")
            given.append(source.labels)
        _, labels = torch.cat(given).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        train, test = labels.split([len(part) for part in given])
        return train, test

    @property
    def classes(self) -> int:
        return int(torch.cat(self.labels).max()) + 1

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Features of the training and the test images, with labels if there are any."""
        train, test = self.sources
        return self.features_of(train, "features"), self.features_of(test, "test features")

    @property
    def labelled(self) -> tuple[Features, Features]:
        """``features``; raises InputError if the data has no labels."""
        labels = self.labels  # fails before anything is encoded
        train, test = (
            replace(features, labels=numbers[features.rows])
            for features, numbers in zip(self.features, labels, strict=True)
        )
        return train, test

    @property
    def metric(self) -> str:
        """The usual metric for this data: ``top1``, the accuracy over all images, or ``mean_per_class``, the mean
        accuracy over classes, for sets with classes of unequal size."""
        source = self.sources[0].source if isinstance(self.sources[0], Subset) else self.sources[0]
        uneven = isinstance(source, TorchvisionSet) and source.name in MEAN_PER_CLASS
        return "mean_per_class" if uneven else "top1"

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler if ``autocast`` is to fp16; otherwise a disabled one."""
        kind = self.device.type
        with self.autocast():
            half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        return torch.amp.GradScaler(kind, enabled=half)

    def score(self, predictions: Tensor, labels: Tensor) -> tuple[str, float]:
        """The name and the value of ``metric``."""
        right = (predictions == labels).double()
        if self.metric == "top1":
            return self.metric, right.mean().item()
        found, counts = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        per_class = torch.zeros(len(found), dtype=torch.float64).index_add_(0, counts, right)
        return self.metric, (per_class / counts.bincount()).mean().item()

    def check_rgb(self, protocol: str, why: str) -> None:
        """Raises InputError if the backbone's images are not RGB."""
        form = self.preprocessing.form
        if not form.rgb:
            raise InputError(
                f"{protocol}: {why}, and this backbone takes images of {several(form.channels, 'channel')} of "
                f"{form.dtype}; leave {protocol} out"
            )

    def ready(self, source: ImageSource) -> Preprocessing:
        """The preprocessing for the images of a source."""
        uncropped = self.whole_if_small and source.native_size
        return replace(self.preprocessing, crop=1.0) if uncropped else self.preprocessing

    def features_of(self, source: ImageSource, what: str) -> Features:
        """The backbone's features of a source, from the cache if possible."""
        blocks = self.blocks if has_tokens(self.backbone) else 0
        if self.cache is None:
            return self.encode(self.backbone, source, what, blocks)
        with self.autocast():
            kind = self.device.type
            precision = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "as it is"
        key = self.cache.key(self.backbone, source, self.ready(source), precision)
        found = self.cache.get(key, blocks, lambda: self.encode(self.backbone, source, what, blocks))
        self.left_out[what] = len(source) - len(found.rows)
        return found

    def encode(self, network: nn.Module, source: ImageSource, what: str, blocks: int = 0) -> Features:
        """Features of a source's central crops by any network."""
        advance = self.progress(what, len(source))
        with self.autocast():
            found = extract(
                network, source, self.ready(source), batch_size=self.batch_size, workers=self.workers, blocks=blocks,
                on_batch=advance,
            )  # fmt: skip
        self.left_out[what] = len(source) - len(found.rows)
        return found
