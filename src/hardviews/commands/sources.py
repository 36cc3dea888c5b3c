"""The data that a command line names."""

from typing import Protocol

from hardviews.data.sources import ImageSource, is_named, open_source
from hardviews.errors import InputError


class DataOptions(Protocol):
    """What every verb that reads images has."""

    @property
    def data(self) -> str | None: ...
    @property
    def test_data(self) -> str | None: ...
    @property
    def data_root(self) -> str: ...
    @property
    def image_column(self) -> str: ...
    @property
    def label_column(self) -> str: ...


def open_sources(options: DataOptions) -> tuple[ImageSource, ImageSource | None]:
    """The training data, and the labelled test data where there is any besides."""
    if options.data is None:
        raise InputError("data: none given")

    def opened(data: str, split: str) -> ImageSource:
        return open_source(
            data,
            split=split,
            root=options.data_root,
            image_column=options.image_column,
            label_column=options.label_column,
        )

    source = opened(options.data, "train")
    if options.test_data is not None:
        test = opened(options.test_data, "test")
        if test.labels is None:
            raise InputError(f"test-data: {options.test_data} has no labels; give class folders or a label column")
        return source, test
    return source, opened(options.data, "test") if is_named(options.data) else None
