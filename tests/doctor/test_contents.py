"""What is wrong with pictures is named, each kind by itself, and nothing is found in the sets that people train on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardviews.data.reading.decode import Bounds
from hardviews.data.sources import open_source
from hardviews.data.sources.shapes import Shapes
from hardviews.doctor.contents import check_contents, contents_of
from hardviews.probing.sample import DecodedSample, sampled

DATA = Path(__file__).parents[3] / "shared" / "data"
REAL = [
    "cifar10/cifar10-jpeg-train.parquet", "cifar10/cifar10-lossless-subset-test.parquet",
    "imagenette224/imagenette224-sub-train.parquet", "coco-mini/train2017", "coco-mini/val2017",
]  # fmt: skip
SHAPES = Shapes(count=48)
GENERATOR = torch.Generator().manual_seed(0)


def verdict(sample: DecodedSample) -> tuple[str, str, str]:
    found = check_contents(contents_of(sample))
    return found.verdict, found.says, found.remedy


@pytest.mark.parametrize("name", ["shapes", *REAL])
def test_sets_that_people_train_on_are_sound(name: str) -> None:
    if name != "shapes" and not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    source = open_source(name if name == "shapes" else str(DATA / name))
    found = contents_of(sampled(source, Bounds(256, 1 << 20), 256, 0, seconds=120))
    assert check_contents(found).verdict == "ok"
    assert (found.dark, found.light, found.twins, found.plain) == (0, 0, 0, 0)
    assert found.high - found.low > 240


@pytest.mark.parametrize("name", [REAL[0], REAL[2]])
def test_and_so_is_every_class_of_them(name: str) -> None:
    """Whose pictures are more alike than those of a whole set: tenches, skies with parachutes."""
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    source = open_source(str(DATA / name))
    assert source.labels is not None
    for label in range(10):
        rows = (source.labels == label).nonzero()[:256, 0].tolist()
        found = contents_of(DecodedSample([source.read(row, Bounds(256, 1 << 20)) for row in rows]))
        assert check_contents(found).verdict == "ok"
        assert found.twins <= 2
        assert found.plain <= 2


def random(*size: int, high: int = 256) -> Tensor:
    return torch.randint(0, high, size, generator=GENERATOR, dtype=torch.uint8)


def plain(level: int | None = None) -> Tensor:
    """Of one level, or of a random colour."""
    colour = random(1, 1, 3) if level is None else torch.full((1, 1, 3), level, dtype=torch.uint8)
    return colour.expand(40, 30, 3).contiguous()


ONE = SHAPES.read(0)


@pytest.mark.parametrize(
    ("picture", "verdict_", "says"),
    [
        (SHAPES.read, "ok", "48 pictures, none of them like another, of levels 0 to 255"),
        (lambda _: random(40, 30, 3), "ok", "none of them like another"),  # noise is a matter of learning
        (lambda _: plain(0), "failed", "100% of all pairs of pictures are nearly the same"),
        (lambda _: plain(0), "failed", "48 of 48 are nearly black"),
        (lambda _: plain(255), "failed", "48 of 48 are nearly white"),
        (lambda _: ONE.clamp(max=250) + random(32, 32, 3, high=5), "failed", "100% of all pairs"),  # noisy copies
        (lambda n: SHAPES.read(n // 4 * 4), "warning", "48 of 48 pictures are nearly the same as another"),
        (lambda n: SHAPES.read(n if n > 5 else 0), "warning", "6 of 48 pictures are nearly the same as another"),
        (lambda n: SHAPES.read(n if n > 3 else 0), "ok", "48 pictures, 4 of them like another"),
        (lambda _: plain(), "failed", "48 of 48 show a single colour"),
        (lambda n: SHAPES.read(n) if n < 20 else plain(), "warning", "28 of 48 show a single colour"),
        (lambda n: SHAPES.read(n) // 16, "warning", "they use 0 to 15 alone"),  # 12 bits in 16
        (lambda n: SHAPES.read(n) // 16, "warning", "48 of 48 are nearly black"),
        (lambda n: SHAPES.read(n) // 6 + 100, "warning", "they use 100 to 142 alone"),
        (lambda n: SHAPES.read(n) // 10 + 230, "warning", "48 of 48 are nearly white"),
        (lambda n: SHAPES.read(n) // (16 if n < 30 else 1), "warning", "30 of 48 are nearly black"),
    ],
)
def test_every_kind_is_named(picture: Callable[[int], Tensor], verdict_: str, says: str) -> None:
    found = verdict(DecodedSample([picture(number) for number in range(48)]))
    assert found[0] == verdict_
    assert says in found[1]
    assert bool(found[2]) == (verdict_ != "ok")


def test_a_single_picture_is_like_no_other() -> None:
    assert verdict(DecodedSample([ONE]))[:2] == ("ok", "1 picture, none of them like another, of levels 0 to 255")
