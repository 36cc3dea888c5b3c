"""What every protocol is given: a backbone, labelled data, and the features of both, made once."""

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

# Of a task's name and length, what is to be told of every part done.
StartProgress = Callable[[str, int], Callable[[int], None]]


def silent(_name: str, _length: int) -> Callable[[int], None]:
    return lambda _done: None


@dataclass
class Bench:
    """A backbone and the data it is measured on.

    Args:
        backbone: images to features ``[B, D]``, on the device where the work is done. Protocols leave it as it is, or
            train a copy.
        data: as the user named it; detection and segmentation read it in their own ways.
        open: the training data and, where there is any, the test data.
        preprocessing: of the backbone's images.
        autocast: for the precision of forwards.
        batch_size, workers: for speed only.
        seed: of all that is random.
        whole_if_small: small images are not cropped, whatever ``preprocessing`` says.
        blocks: of a ViT, the last blocks that ``Features.tokens`` are of; 0 for none.
        cache: where features are kept, if anywhere.
        progress: shows how far a task is.
        scenes: of protocols that open ``data`` themselves the name of the test set, training and test images.
        left_out: unreadable images so far, of the training images (``features``) and of the test images
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
        """Training and test images: of data without a test split, nine tenths and a random tenth.

        Nothing may be chosen by the test images.
        """
        source, test = self.open()
        if test is not None:
            return source, test
        rows, query_rows = held_out(len(source), stream(self.seed, "held-out"))
        if not len(rows):
            raise InputError(f"{source.name}: one image can't be shared out to training and test")
        return Subset(source, rows), Subset(source, query_rows)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Of ``sources``, renumbered 0..classes - 1; int64 ``[N]``, ``[M]``.

        Raises:
            InputError: there are none.
        """
        given = []
        for source in self.sources:
            if source.labels is None:
                raise InputError(f"{source.name}: has no labels, which this needs: {why_unlabelled(source)}")
            given.append(source.labels)
        _, labels = torch.cat(given).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        train, test = labels.split([len(part) for part in given])
        return train, test

    @property
    def classes(self) -> int:
        return int(torch.cat(self.labels).max()) + 1

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Of the training and of the test images, with labels where there are any."""
        train, test = self.sources
        return self.features_of(train, "features"), self.features_of(test, "test features")

    @property
    def labelled(self) -> tuple[Features, Features]:
        """``features``, of data that has labels."""
        labels = self.labels  # before anything is encoded
        train, test = (
            replace(features, labels=numbers[features.rows])
            for features, numbers in zip(self.features, labels, strict=True)
        )
        return train, test

    @property
    def metric(self) -> str:
        """What is the custom with this data: how often predictions are right of all images (``top1``), or the mean over
        classes of how often (``mean_per_class``), for sets whose classes are of different sizes."""
        source = self.sources[0].source if isinstance(self.sources[0], Subset) else self.sources[0]
        uneven = isinstance(source, TorchvisionSet) and source.name in MEAN_PER_CLASS
        return "mean_per_class" if uneven else "top1"

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps gradients in range where ``autocast`` is to fp16; elsewhere it does nothing."""
        kind = self.device.type
        with self.autocast():
            half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        return torch.amp.GradScaler(kind, enabled=half)

    def score(self, predictions: Tensor, labels: Tensor) -> tuple[str, float]:
        """``metric``, and its value."""
        right = (predictions == labels).double()
        if self.metric == "top1":
            return self.metric, right.mean().item()
        found, counts = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        per_class = torch.zeros(len(found), dtype=torch.float64).index_add_(0, counts, right)
        return self.metric, (per_class / counts.bincount()).mean().item()

    def ready(self, source: ImageSource) -> Preprocessing:
        """How the images of a source become the backbone's input."""
        whole = self.whole_if_small and source.native_size
        return replace(self.preprocessing, crop=1.0) if whole else self.preprocessing

    def features_of(self, source: ImageSource, what: str) -> Features:
        """Features of a source by the backbone, from the cache if they are there."""
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
        """What a network, which may be another than the backbone, makes of a source's central crops."""
        advance = self.progress(what, len(source))
        with self.autocast():
            found = extract(
                network, source, self.ready(source), batch_size=self.batch_size, workers=self.workers, blocks=blocks,
                on_batch=advance,
            )  # fmt: skip
        self.left_out[what] = len(source) - len(found.rows)
        return found
