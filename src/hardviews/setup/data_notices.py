"""Warnings about data that may not be what the user expects, printed at the start and stored with the results."""

from collections.abc import Callable, Hashable
from typing import Literal
from weakref import WeakKeyDictionary, ref

from hardviews.console import say
from hardviews.data.overlap import Overlap, overlap, repeated
from hardviews.data.sources import ImageSource, passed_over, why_unlabelled
from hardviews.data.sources.streams import Stream
from hardviews.data.sources.subset import Subset
from hardviews.evaluation.splits import held_out
from hardviews.launch.environment import rank
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.streams import stream
from hardviews.wording import several

# What of the training data is tested: the tenth of a seed, every image by the others ("each"), or nothing (None).
Tenth = int | Literal["each"] | None


def warn_of_data(
    source: ImageSource | Stream,
    test: ImageSource | None = None,
    test_data: str | None = None,
    tenth: Tenth = None,
    form: Pixels = RGB,
) -> None:
    """Prints which files are skipped, and how many test images are also training images. Only rank 0 prints.

    Args:
        source: the training data.
        test: the test data; None where a part of the training data is tested, or nothing.
        test_data: as named; None where it is the training data's own test split, which is not compared.
        tenth: what of the training data is tested, without test data.
        form: of the pixels, where these are compared.
    """
    if rank():
        return
    lines = [
        f"data: {data.name}: {passed_over(data)}"
        for data in (source, test)
        if data is not None and not isinstance(data, Stream) and passed_over(data)
    ]
    lines += shared_line(source, test, test_data, tenth, form)
    for line in dict.fromkeys(lines):  # both sets may be of one folder
        say(line)


def warn_unlabelled(source: ImageSource | Stream, without: str) -> None:
    """Prints why data has no labels, and what is left out because of it. Streams never have labels."""
    if not isinstance(source, Stream) and source.labels is None:
        say(f"data: {source.name} has no labels: {without}; {why_unlabelled(source)}")


def shared_line(
    source: ImageSource | Stream,
    test: ImageSource | None,
    test_data: str | None,
    tenth: Tenth = None,
    form: Pixels = RGB,
) -> list[str]:
    """One line on how many test images are also training images; an empty list if there are none.

    Arguments as of ``warn_of_data``.
    """
    found = _overlap(source, test, test_data, tenth, form)
    if found is None or not found.shared:
        return []
    says = "byte for byte: what is measured by them says little of new images"
    if test_data is None and tenth == "each":
        count = f"{'' if found.exact else 'at least '}{found.shared:,} of the {several(found.compared, 'image')}"
        return [f"knn-test leave_one_out: {count} are there more than once, {says}"]
    kind, where = ("test", "test-data") if test_data is not None else ("held-out", f"held-out tenth of seed {tenth}")
    count = f"{'' if found.exact else 'at least '}{found.shared:,} of the {several(found.compared, f'{kind} image')}"
    asked = max(1, len(source) // 10) if test is None else len(test)
    of = f" compared, of {asked:,}," if found.compared < asked else ""
    be = "is a training image" if found.shared == 1 else "are training images"
    return [f"{where}: {count}{of} {be} too, {says}"]


def shared_figures(
    source: ImageSource | Stream,
    test: ImageSource | None,
    test_data: str | None,
    tenth: Tenth = None,
    form: Pixels = RGB,
) -> dict[str, int]:
    """The same as numbers for ``summary.json``; empty where nothing was compared.

    Arguments as of ``warn_of_data``.
    """
    found = _overlap(source, test, test_data, tenth, form)
    return {} if found is None else {"test_images_in_train": found.shared, "test_images_compared": found.compared}


def _overlap(
    source: ImageSource | Stream,
    test: ImageSource | None,
    test_data: str | None,
    tenth: Tenth,
    form: Pixels,
) -> Overlap | None:
    """The overlap of test and training images; None where there is nothing to compare. Arguments as of
    ``warn_of_data``."""
    if isinstance(source, Stream):
        return None
    if isinstance(source, Subset) and isinstance(test, Subset):  # the two parts that evaluation makes of one source
        source, test = source.source, None
    if test is not None:
        return None if test_data is None else _once(source, ref(test), lambda: overlap(source, test, form))
    if tenth is None or source.labels is None:
        return None
    if tenth == "each":
        return _once(source, "each", lambda: repeated(source, form))
    return _once(source, f"held-out {tenth}", lambda: _tenth(source, tenth, form))


def _tenth(source: ImageSource, seed: int, form: Pixels) -> Overlap:
    """The overlap of the held-out tenth with the rest."""
    rest, tenth = held_out(len(source), stream(seed, "held-out"))
    return overlap(Subset(source, rest), Subset(source, tenth), form)


# By source, for as long as it lives: it is asked at the start, and again beside the figures.
_known: "WeakKeyDictionary[ImageSource, dict[Hashable, Overlap]]" = WeakKeyDictionary()


def _once(source: ImageSource, key: Hashable, compare: Callable[[], Overlap]) -> Overlap:
    known = _known.setdefault(source, {})
    if key not in known:
        known[key] = compare()
    return known[key]
