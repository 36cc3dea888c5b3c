"""What is said of data where it may not be what its user takes it for, at the start and beside the figures."""

from functools import lru_cache

from hardviews.commands import processes
from hardviews.commands.saying import say
from hardviews.data.overlap import Overlap, overlap
from hardviews.data.sources import ImageSource, passed_over, why_unlabelled
from hardviews.data.sources.streams import Stream


def tell(source: ImageSource | Stream, test: ImageSource | None = None, test_data: str | None = None) -> None:
    """Says which files are passed over, and how many test images are training images too; the first process does.

    Args:
        source: the training data.
        test: the test data.
        test_data: as named; None where it is the training data's own test split, which is not compared.
    """
    if processes.number():
        return
    lines = [
        f"data: {data.name}: {passed_over(data)}"
        for data in (source, test)
        if data is not None and not isinstance(data, Stream) and passed_over(data)
    ]
    for line in dict.fromkeys(lines + shared_line(source, test, test_data)):  # both sets may be of one folder
        say(line)


def tell_unlabelled(source: ImageSource | Stream, without: str) -> None:
    """Says why data has no labels, and what is left out for it. Streams never have any."""
    if not isinstance(source, Stream) and source.labels is None:
        say(f"data: {source.name} has no labels: {without}; {why_unlabelled(source)}")


def shared_line(source: ImageSource | Stream, test: ImageSource | None, test_data: str | None) -> list[str]:
    """How many test images are training images too, in one line; none where none is. Arguments as of ``tell``."""
    if isinstance(source, Stream) or test is None or test_data is None or not compared(source, test).shared:
        return []
    found = compared(source, test)
    count = f"{'' if found.exact else 'at least '}{found.shared:,} of the {found.compared:,} test images"
    of = "" if found.compared == len(test) else f" compared, of {len(test):,},"
    be = "is a training image" if found.shared == 1 else "are training images"
    return [f"test-data: {count}{of} {be} too, byte for byte: what is measured by them says little of new images"]


def shared_figures(source: ImageSource | Stream, test: ImageSource | None, test_data: str | None) -> dict[str, int]:
    """The same for who reads results by machine; nothing where nothing was compared. Arguments as of ``tell``."""
    if isinstance(source, Stream) or test is None or test_data is None:
        return {}
    found = compared(source, test)
    return {"test_images_in_train": found.shared, "test_images_compared": found.compared}


def compared(source: ImageSource, test: ImageSource) -> Overlap:
    """Test images with training images, once: it is asked at the start, and again beside the figures."""
    return _compared(source, test)  # type: ignore[arg-type]  # a protocol does not say that sources are hashable


_compared = lru_cache(maxsize=1)(overlap)
