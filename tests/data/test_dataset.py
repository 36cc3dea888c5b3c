"""Data of one's own is a source like every other, and a wrong item is told by its number."""

import doctest
import pickle
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from hardviews.data.loading.in_order import in_order
from hardviews.data.loading.loader import Loader
from hardviews.data.reading.decode import Bounds, UnreadableImage
from hardviews.data.sources import as_source, fingerprint, open_source
from hardviews.errors import InputError, RunError
from hardviews.views.pixels import Pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 20, 30, 3), dtype=np.uint8)  # [40, h, w, 3]


class Numbered(Dataset[Any]):
    """Forty images by number; ``items`` stand in place of some. Counts how often an item is read."""

    def __init__(self, items: dict[int, Any] | None = None, labelled: bool = True) -> None:
        self.items, self.labelled, self.reads = items or {}, labelled, 0

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if isinstance(self.items.get(index), Exception):
            raise self.items[index]
        image = Image.fromarray(PIXELS[index])
        return self.items.get(index, (image, index % 4) if self.labelled else image)


class WithTargets(Numbered):
    classes = ("a", "b", "c", "d")
    targets = tuple(k % 4 for k in range(40))


FORMS = {
    "PIL": Image.fromarray,
    "array [h, w, 3]": lambda image: image,
    "array [3, h, w]": lambda image: image.transpose(2, 0, 1),
    "float32 array": lambda image: (image / 255).astype(np.float32),
    "tensor [3, h, w]": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "tensor [h, w, 3]": torch.from_numpy,
    "float tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
    "float64 tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1).double() / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_keep_their_pixels(form: str) -> None:
    source = as_source([FORMS[form](image) for image in PIXELS])  # type: ignore[no-untyped-call]
    assert len(source) == 40
    assert source.labels is None
    assert "no label" in source.unlabelled  # type: ignore[attr-defined]
    for index in range(40):
        assert np.array_equal(source.read(index).numpy(), PIXELS[index])
    assert source.read(0, Bounds(10)).shape == (10, 15, 3)


def test_grey_images_and_a_whole_array() -> None:
    grey = as_source([torch.full((1, 8, 8), 0.5), np.full((8, 8, 1), 128, np.uint8)])
    assert torch.equal(grey.read(0), grey.read(1))
    assert torch.equal(grey.read(0), as_source(np.full((2, 8, 8), 128, np.uint8)).read(1))
    assert grey.read(0).shape == (8, 8, 3)
    assert grey.native_size == 8
    whole = as_source(PIXELS, name="noise")
    assert np.array_equal(whole.read(7).numpy(), PIXELS[7])
    assert whole.path(7) == "noise[7]"


def test_labels_are_those_of_the_items(caplog: pytest.LogCaptureFixture) -> None:
    wanted = [k % 4 for k in range(40)]
    named = [(image, "abcd"[k % 4]) for k, image in enumerate(PIXELS)]
    arrays = torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(wanted)
    for data in (Numbered(), WithTargets(), named, TensorDataset(*arrays), Subset(Numbered(), range(40))):
        labels = as_source(data).labels
        assert isinstance(labels, Tensor)
        assert labels.dtype == torch.int64
        assert labels.tolist() == wanted
    assert as_source(named).class_names == as_source(WithTargets()).class_names == ["a", "b", "c", "d"]
    assert as_source(Numbered(labelled=False), labels=wanted).labels.tolist() == wanted  # type: ignore[union-attr]
    unlabelled = as_source(Numbered({3: (PIXELS[3], None)}))
    assert unlabelled.labels is None
    assert "row 3 has null" in unlabelled.unlabelled  # type: ignore[attr-defined]


def test_targets_spare_reading_and_are_believed_only_where_they_agree() -> None:
    quick = WithTargets()
    as_source(quick)
    assert quick.reads < 20
    moved = WithTargets({39: (Image.fromarray(PIXELS[39]), 0)})  # as a target_transform would
    assert as_source(moved).labels.tolist() == [k % 4 for k in range(39)] + [0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the list is empty"),
        ("pictures/", "str gives no images by number"),
        ({"a": PIXELS[0]}, "dict gives no images by number"),
        (iter(PIXELS), "gives no images by number"),
        (DataLoader(Numbered()), r"got DataLoader; give its data set, DataLoader\.dataset"),
        ([PIXELS[0], 3], r"list\[1\]: came as int; wanted: a PIL image"),
        ([PIXELS[0], "b.jpg"], "b.jpg: No such file"),
        (PIXELS[0], r"data: got one image, of shape \[20, 30, 3\]; give a list"),
        (torch.zeros(2, 40, 50, 60), r"Tensor\[0\]: came as float32 of shape \[40, 50, 60\]; wanted"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), r"came as complex64 of shape \[3, 8, 8\]; wanted"),
        ([(PIXELS[0], 0, 1)], r"list\[0\]: came as tuple of 3"),
        ([(PIXELS[0], 0.5)], "labels are float, not integers or strings"),
        (Numbered({0: ValueError("no\nsuch file")}), r"Numbered\[0\]: raised ValueError: no such file"),
        (Numbered({9: ValueError("gone")}), r"Numbered\[9\]: raised ValueError: gone; with labels="),
    ],
)
def test_what_is_no_data_is_one_line(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_source(data)
    assert "\n" not in str(caught.value)


def test_data_without_a_length_is_one_line() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    class Lengthless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return PIXELS[0]

    for data in (Endless(), Lengthless()):
        with pytest.raises(InputError, match="has no length; give a map-style Dataset"):
            as_source(data)


def test_labels_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(InputError, match="3 labels for 40 items"):
        as_source(Numbered(), labels=[0, 1, 2])
    with pytest.raises(InputError, match="label 3 has no name among 2 class names"):
        as_source(Numbered(), class_names=["a", "b"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_item_in_the_middle_counts_as_unreadable(workers: int) -> None:
    source = as_source(Numbered({7: torch.zeros(5, 5).long(), 8: OSError("disk")}, labelled=False))
    loader = Loader(source, 8, 0, workers=workers, tolerance=0.1)
    steps = loader.batches()
    seen = {int(index) for _ in range(5) for index in next(steps).index}
    assert seen == set(range(40)) - {7, 8}
    assert loader.unreadable["Numbered[8]"] == "raised OSError: disk"
    assert "of shape [5, 5]; wanted" in loader.unreadable["Numbered[7]"]
    with pytest.raises(RunError, match=r"of 40 images can't be read, more than the allowed fraction of 0.01"):
        list(islice(Loader(source, 8, 0, workers=workers).batches(), 5))


def test_workers_and_resuming_change_nothing() -> None:
    source = as_source(Numbered())

    def steps(first: int, workers: int) -> list[Tensor]:
        batches = Loader(source, 8, 3, workers=workers).batches(first)
        return [next(batches).pixels for _ in range(first, 8)]

    whole = steps(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(whole, steps(0, 2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], steps(5, 2), strict=True))
    assert [len(batch) for batch in in_order(source, 16, workers=2)] == [16, 16, 8]


def test_files_opened_by_pil_are_read_before_workers_share_them(tmp_path: Path) -> None:
    for k in range(16):
        Image.fromarray(PIXELS[k]).save(tmp_path / f"{k}.png")
    source = as_source([Image.open(tmp_path / f"{k}.png") for k in range(16)])
    for file in tmp_path.iterdir():
        file.unlink()
    batches = Loader(source, 8, 0, workers=2).batches()
    for batch in (next(batches), next(batches)):
        for row, index in enumerate(batch.index.tolist()):
            assert np.array_equal(batch.image(row).permute(1, 2, 0).numpy(), PIXELS[index])
    assert len(pickle.loads(pickle.dumps(source))) == 16


def test_what_it_is_known_by() -> None:
    source, other = as_source(PIXELS), as_source(255 - PIXELS)
    assert source.identity() == as_source(PIXELS).identity()
    assert len({source.identity(), other.identity(), as_source(PIXELS, version="2").identity()}) == 3
    assert fingerprint(source) == fingerprint(as_source(PIXELS))
    one = PIXELS.copy()
    one[17, 3, 3, 0] ^= 1
    others = [other, as_source(one), as_source(PIXELS[:39]), as_source(PIXELS, name="other")]
    others.append(as_source(PIXELS, version="2"))
    assert fingerprint(source) not in [fingerprint(one) for one in others]


def test_a_set_that_draws_at_random_can_resume() -> None:
    class Flipped(Numbered):
        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(PIXELS[index]) / 510 + torch.rand(()) / 2

    assert fingerprint(as_source(Flipped())) == fingerprint(as_source(Flipped()))
    assert as_source(Flipped()).identity() != as_source(Flipped()).identity()  # its features are not cached


def test_a_dotted_path_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_images.py").write_text(
        "import numpy as np\n"
        "def images(): return [(np.full((8, 8, 3), k, np.uint8), k % 2) for k in range(6)]\n"
        "def broken(): raise ValueError('no disk')\n"
        "def nothing(): return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = open_source("python:own_images:images")
    assert source.name == "own_images:images"
    assert source.labels is not None
    assert set(source.read(5).flatten().tolist()) == {5}
    for data, message in {
        "python:own_images:broken": "own_images:broken: ValueError: no disk",
        "python:own_images:missing": "has no attribute 'missing'",
        "python:no_such_module:images": "No module named 'no_such_module'",
        "python:own_images": "give python:package.module:function",
        "python:own_images:nothing": "NoneType gives no images by number",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            open_source(data)
        assert "\n" not in str(caught.value)
    del sys.modules["own_images"]


def test_the_docstrings_example() -> None:
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(as_source, globs={"as_source": as_source}):
        assert runner.run(test).attempted == 3
    assert runner.failures == 0


def test_an_unreadable_image_names_its_place() -> None:
    source = as_source(Numbered({7: torch.zeros(5, 5)}, labelled=False), name="mine")
    with pytest.raises(UnreadableImage, match=r"mine\[7\]: came as float32 of shape \[5, 5\]; wanted: a PIL image"):
        source.read(7)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 8, 8), r"came as float32 of shape \[4, 8, 8\]; wanted"),
        (torch.full((3, 8, 8), 255.0), r"with values 255 to 255; .*\(no Normalize\)"),
        (torch.full((3, 8, 8), torch.nan), "with values nan to nan"),
    ],
)
def test_what_is_data_and_no_rgb_is_refused_as_rgb(image: Tensor, message: str) -> None:
    source = as_source([image, image])
    with pytest.raises(UnreadableImage, match=message):
        source.read(0)
    assert source.read(0, Bounds(form=None)).shape == (8, 8, len(image))


@pytest.mark.parametrize(("channels", "dtype"), [(1, "int16"), (3, "uint16"), (4, "uint8"), (13, "float32")])
def test_arrays_of_any_channels_are_read_as_they_are(channels: int, dtype: str) -> None:
    images = np.random.default_rng(0).normal(0, 99, (6, 20, 30, channels)).astype(dtype)
    form = Pixels(channels, dtype, rgb=False)  # type: ignore[arg-type]
    first = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    for source in (as_source(images), as_source(first, name="ndarray"), as_source(list(images.transpose(0, 3, 1, 2)))):
        for bounds in (Bounds(form=form), Bounds(form=None)):
            assert all(np.array_equal(source.read(k, bounds).numpy(), images[k]) for k in range(6))
        assert source.read(0, Bounds(10, form=form)).shape == (10, 15, channels)
        with pytest.raises(UnreadableImage, match=f"of {dtype}, where {channels + 1} of"):
            source.read(0, Bounds(form=Pixels(channels + 1, dtype, rgb=False)))  # type: ignore[arg-type]
    changed = images.copy()
    changed[3, 2, 1] += 1
    assert fingerprint(as_source(images)) == fingerprint(as_source(first, name="ndarray"))
    assert fingerprint(as_source(images)) != fingerprint(as_source(changed))


def test_channels_are_the_axis_of_the_forms_length() -> None:
    image = np.random.default_rng(0).integers(0, 9, (8, 20, 4), dtype=np.uint8)
    for data, form in ((image, 4), (image, 8), (torch.from_numpy(image), 4), (torch.from_numpy(image), 8)):
        found = as_source([data]).read(0, Bounds(form=Pixels(form, rgb=False)))
        assert np.array_equal(found.numpy(), image if form == 4 else image.transpose(1, 2, 0))
    square = np.random.default_rng(0).integers(0, 9, (5, 20, 5), dtype=np.uint8)
    stored = Bounds(form=None)
    assert np.array_equal(as_source([square]).read(0, stored).numpy(), square)
    tensor = as_source([torch.from_numpy(square)]).read(0, stored)
    assert np.array_equal(tensor.numpy(), square.transpose(1, 2, 0))


def test_what_can_be_shown_in_8_bits_is_taken_for_that_unless_asked() -> None:
    floats = np.random.default_rng(0).random((20, 30, 3), np.float32)
    source = as_source([floats])
    assert torch.equal(source.read(0, Bounds(form=None)), source.read(0))
    stored = source.read(0, Bounds(form=Pixels(3, "float32")))
    assert np.array_equal(stored.numpy(), floats)
    deep = Image.fromarray((floats[..., 0] * 65535).astype(np.uint16))
    assert np.array_equal(as_source([deep]).read(0, Bounds(form=None)).numpy()[..., 0], np.asarray(deep))
