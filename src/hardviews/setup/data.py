"""The data that a command line names."""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from lightning_fabric import Fabric

from hardviews.data.loading.loader import Loader
from hardviews.data.loading.stream_batches import SHUFFLE_BYTES
from hardviews.data.reading.decode import printable
from hardviews.data.sources import ImageSource, is_named, open_source, why_unlabelled
from hardviews.data.sources.hub import STREAM_PREFIX, hub_stream
from hardviews.data.sources.parts import Parts
from hardviews.data.sources.streams import Stream, is_stream, tar_stream
from hardviews.data.sources.table import IMAGE_COLUMN
from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.views.pixels import Pixels


class ReadOptions(Protocol):
    """The options of every verb that reads images."""

    @property
    def data_root(self) -> str: ...
    @property
    def download(self) -> bool: ...
    @property
    def image_column(self) -> str: ...
    @property
    def label_column(self) -> str: ...
    @property
    def tile(self) -> int: ...
    @property
    def frames(self) -> str: ...


class DataOptions(ReadOptions, Protocol):
    """The options of verbs that also need labelled test data."""

    @property
    def data(self) -> str | None: ...
    @property
    def test_data(self) -> str | None: ...


class TrainingOptions(DataOptions, Protocol):
    """Further options of pretraining."""

    @property
    def epoch_images(self) -> int | None: ...
    @property
    def allow_pipe(self) -> bool: ...


class Given(NamedTuple):
    """Data that a caller from Python gives as objects, in place of names."""

    data: ImageSource | None = None
    test_data: ImageSource | None = None


BY_NAME = Given()  # nothing is given as an object


def opened(options: ReadOptions, data: str, split: str) -> ImageSource:
    """One split of the data.

    Raises:
        InputError: it can't be opened.
    """
    return open_source(
        data,
        split=split,
        root=options.data_root,
        image_column=options.image_column,
        label_column=options.label_column,
        download=options.download,
        tile=options.tile,
        every_frame=options.frames == "all",
    )


def in_parts(options: ReadOptions, source: ImageSource) -> ImageSource:
    """A source that was given as an object, cut as the options say.

    Raises:
        InputError: it has no files, and is to be cut.
    """
    every_frame = options.frames == "all"
    return Parts(source, options.tile, every_frame) if options.tile or every_frame else source


def open_sources(
    options: DataOptions, must_be_labelled: bool = True, given: Given = BY_NAME
) -> tuple[ImageSource, ImageSource | None]:
    """The training data, and the test data where there is any besides, its labels numbered alike.

    Args:
        options: name the data.
        must_be_labelled: both, where test data is named.
        given: what was given as an object, and need not be opened.

    Raises:
        InputError: either can't be opened, or test data was named and the labels don't go together.
    """
    if options.data is None:
        raise InputError("data: none given")
    source = opened(options, options.data, "train") if given.data is None else in_parts(options, given.data)
    if options.test_data is None:
        return source, opened(options, options.data, "test") if is_named(options.data) else None
    test = opened(options, options.test_data, "test") if given.test_data is None else in_parts(options, given.test_data)
    for option, data, images in (("test-data", options.test_data, test), ("data", options.data, source)):
        if images.labels is None and must_be_labelled:
            raise InputError(
                f"{option}: {printable(data)} has no labels, and kNN needs them on both sides: "
                f"{why_unlabelled(images)}; or leave out --test-data"
            )
    match_classes(source, test)
    return source, test


def tested_on(data: str | None, test_data: str | None, knn_test: str | None) -> str:
    """The test set that ``open_sources`` finds, in words; ``knn_test`` as of the run, None for a tenth. Of paths only
    the last part, so that published files don't show where the data is."""
    if test_data is not None:
        return printable(Path(test_data).name or test_data)
    if data is not None and is_named(data):
        return f"the test split of {data}"
    named = printable(Path(str(data)).name or str(data))
    return f"{named}, each left out in turn" if knn_test == "leave_one_out" else f"a held-out tenth of {named}"


def open_training(options: TrainingOptions, given: Given = BY_NAME) -> tuple[ImageSource | Stream, ImageSource | None]:
    """The training data, which may be a stream, and the test data where there is any. Arguments as of
    ``open_sources``.

    Raises:
        InputError: as ``open_sources``, or of a stream the number of images is not known, or its commands not allowed.
    """
    if options.data is None or not is_stream(options.data):
        if options.epoch_images is not None:
            raise InputError("epoch-images: only streams take it; of other data an epoch is all images")
        return open_sources(options, given=given)
    if options.tile or options.frames == "all":
        raise InputError("tile, frames: a stream's images are read as they come; store them as files or shards")
    if options.test_data is not None:
        raise InputError("test-data: kNN needs labelled training data, and streams have no labels; leave it out")
    if options.data.startswith(STREAM_PREFIX):
        return hub_stream(options.data, options.epoch_images, options.image_column), None
    image = None if options.image_column == IMAGE_COLUMN else options.image_column
    return tar_stream(options.data, options.epoch_images, options.allow_pipe, image), None


def match_classes(source: ImageSource, test: ImageSource) -> None:
    """Numbers the labels of ``test`` as those of ``source``: every source numbers its own classes from 0.

    Raises:
        InputError: a class of the test data is not one of the training data's, or only one of them names its classes.
    """
    if source.class_names == test.class_names or source.labels is None or test.labels is None:
        return
    if source.class_names is None or test.class_names is None:
        named, bare = (source, test) if test.class_names is None else (test, source)
        raise InputError(
            f"test-data: {named.name} names its classes and {bare.name} numbers them, so nobody knows which is which; "
            "give both names, or neither"
        )
    numbers = {name: number for number, name in enumerate(source.class_names)}
    strange = sorted(set(test.class_names) - numbers.keys())
    if strange:
        raise InputError(f"test-data: {test.name} has a class {strange[0]!r} that {source.name} has not")
    test.labels = torch.tensor([numbers[name] for name in test.class_names])[test.labels]
    test.class_names = source.class_names


def create_loader(options: PretrainOptions, source: ImageSource | Stream, fabric: Fabric) -> Loader:
    return Loader(
        source,
        batch_size=options.images_per_step // fabric.world_size,
        seed=options.seed,
        process=fabric.global_rank,
        processes=fabric.world_size,
        workers=options.workers,
        decode_size=options.decode_size or 0,
        max_batch_bytes=options.max_batch_bytes,
        tolerance=options.max_unreadable,
        pin_memory=fabric.device.type == "cuda",
        device=fabric.device,
        in_memory=in_memory(options),
        shuffle_bytes=SHUFFLE_BYTES if options.shuffle_bytes is None else options.shuffle_bytes,
        form=Pixels.from_config({"pixels": options.pixels}),
    )


def in_memory(options: PretrainOptions) -> bool | Literal["auto"]:
    """``in_memory`` as ``Loader`` takes it."""
    return "auto" if options.in_memory == "auto" else options.in_memory == "on"
