"""The built-in set: drawn from the index alone, balanced, and not to be read off its pixels."""

import numpy as np
import pytest
import torch

from hardviews.data.sources.shapes import LUMA, SHAPES, Shapes, draw_scene
from hardviews.errors import InputError


def test_image_depends_on_seed_split_and_index_alone() -> None:
    forward = [Shapes(count=20).read(i) for i in range(20)]
    backward = [Shapes(count=5000).read(i) for i in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    for other in (Shapes("test"), Shapes(seed=1)):
        assert not any(torch.equal(forward[i], other.read(i)) for i in range(20))
    assert len({image.numpy().tobytes() for image in forward}) == 20


@pytest.mark.parametrize("count", [1, 10, 995])
def test_labels_are_balanced_whatever_the_count(count: int) -> None:
    source = Shapes(count=count)
    assert len(source) == count
    assert source.labels is not None
    seen = torch.bincount(source.labels, minlength=len(SHAPES))
    assert seen.max() - seen.min() <= 1
    assert source.labels[-1] == draw_scene(count - 1).label


def test_raw_pixels_hardly_tell_the_class() -> None:
    source = Shapes(count=2000)
    pixels = torch.stack([source.read(i) for i in range(2000)]).flatten(1).float()
    pixels = torch.nn.functional.normalize(pixels - pixels.mean(0), dim=1)
    assert source.labels is not None
    near = (pixels[1500:] @ pixels[:1500].T).topk(20).indices
    vote = torch.nn.functional.one_hot(source.labels[near], len(SHAPES)).sum(1).argmax(1)
    assert (vote == source.labels[1500:]).float().mean() < 0.2


@pytest.mark.parametrize("name", SHAPES)
def test_all_shapes_have_the_same_area(name: str) -> None:
    axis = np.linspace(-2, 2, 3001, dtype=np.float32)
    inside = SHAPES[name](axis[None, :], axis[:, None]) < 0
    assert inside.mean() * 16 == pytest.approx(1.7, abs=0.02)


@pytest.mark.parametrize("size", [32, 100])
def test_masks_are_where_the_objects_are(size: int) -> None:
    for index in range(len(SHAPES)):
        scene = draw_scene(index, size=size)
        assert scene.image.shape == (size, size, 3)
        assert scene.masks.shape[1:] == (size, size)
        assert scene.masks.shape[0] in (3, 4)
        assert scene.masks.sum(0).max() == 1  # a pixel belongs to one object
        area = scene.masks.mean((1, 2))
        assert (area > 0.008).all()
        assert (area < 0.2).all()


def test_objects_stand_out_in_grey() -> None:
    for index in range(30):
        scene = draw_scene(index, size=64)
        grey = scene.image @ LUMA
        ground = grey[~scene.masks.any(0)].mean()
        assert min(abs(grey[mask].mean() - ground) for mask in scene.masks) > 30


def test_size_only_says_how_finely_the_scene_is_drawn() -> None:
    for index in range(10):
        small, large = draw_scene(index, size=32).image, draw_scene(index, size=128).image
        shrunk = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
        assert np.abs(small - shrunk).mean() < 8


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="no split 'val'; known: train, test"):
        Shapes("val")
    with pytest.raises(InputError, match="at least one image"):
        Shapes(count=0)
