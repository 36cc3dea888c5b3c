"""Augmentations of one's own: what they are given, what becomes of what they return, and that they repeat."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from hardviews.errors import InputError
from hardviews.selection.costs import Costs
from hardviews.selection.hard_views import HardViews
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Photometric, Slot, TransformInput, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream
from hardviews.views.transforms import check_transforms

COLOURS = v2.Compose([v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.5), v2.RandomErasing(1.0)])
WHOLE = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4)])
PLAN = ViewPlan((Slot(size=24, draw=3, keep=2, flip_p=0.5),))


def own(transform: Callable[..., Any], given: TransformInput = "crop") -> ViewPlan:
    return PLAN.with_transform(transform, given)


def drawn(plan: ViewPlan, images: ImageBatch, step: int = 0) -> Views:
    return draw(plan, images.size, stream(5, "views", step))


def denormalised(views: list[Tensor], plan: ViewPlan) -> list[Tensor]:
    mean, std = (torch.tensor(numbers, device=views[0].device)[:, None, None] for numbers in (plan.mean, plan.std))
    return [view * std + mean for view in views]


@pytest.fixture
def images() -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    sizes = ((40, 31), (25, 60), (33, 33), (28, 40))
    return ImageBatch.pack(
        [torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8) for size in sizes]
    )


def test_colours_are_those_of_the_transform_called_by_hand(images: ImageBatch, device: str) -> None:
    plan = own(COLOURS)
    numbers, there = drawn(plan, images), images.to(device)
    assert numbers.seed is not None
    plain = denormalised(render(there, numbers, plan.without_transforms()), plan)
    found = denormalised(render(there, numbers, plan), plan)
    for v in range(3):
        for b in range(4):
            torch.manual_seed(int(numbers.seed[v, b]))
            torch.testing.assert_close(found[v][b], COLOURS(plain[v][b].clamp(0, 1)), atol=1e-5, rtol=0)
    assert len({int(seed) for seed in numbers.seed.flatten()}) == 12


def test_crops_are_those_of_the_plan_without_it(images: ImageBatch) -> None:
    jitter = ViewPlan((replace(PLAN.slots[0], photometric=Photometric(0.4, blur_p=0.5)),))
    ours, theirs = drawn(own(COLOURS), images), drawn(jitter, images)
    assert torch.equal(ours.box, theirs.box)
    assert torch.equal(ours.flip, theirs.flip)
    assert torch.equal(ours.ticket, theirs.ticket)
    assert theirs.seed is None
    assert not ours.blur.any()


@pytest.mark.filterwarnings("ignore")  # albumentations asks its server for a newer version
def test_the_block_of_the_docs_runs(images: ImageBatch) -> None:
    """albumentations gives the same pixels each time, and others than without it."""
    pytest.importorskip("albumentations")
    page = Path(__file__).parents[2] / "docs" / "augmentations.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)
    plan = own(made["colours"])
    check_transforms(plan)
    numbers = drawn(plan, images)
    ours, again, plain = (render(images, numbers, p) for p in (plan, plan, plan.without_transforms()))
    assert all(map(torch.equal, ours, again))
    assert not any(map(torch.equal, ours, plain))


def test_a_whole_view_is_that_of_the_transform_called_by_hand(images: ImageBatch, device: str) -> None:
    plan = own(WHOLE, "image")
    numbers, before = drawn(plan, images), images.pixels.clone()
    assert numbers.seed is not None
    assert torch.equal(numbers.box, torch.tensor([0.0, 0, 1, 1]).double().expand(3, 4, 4))
    assert not numbers.flip.any()
    found = denormalised(render(images.to(device), numbers, plan), plan)
    for v in range(3):
        for b in range(4):
            torch.manual_seed(int(numbers.seed[v, b]))
            expected = WHOLE(images.image(b)).float() / 255
            torch.testing.assert_close(found[v][b].cpu(), expected, atol=1e-5, rtol=0)
    small = denormalised(render(images.to(device), numbers, plan, 0.5), plan)
    expected = nn.functional.interpolate(found[1], (12, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(small[1], expected, atol=1e-5, rtol=0)
    assert torch.equal(images.pixels, before)


def test_an_image_changed_in_place_stays_as_it_is(images: ImageBatch) -> None:
    def blackened(image: Tensor) -> Tensor:
        return image.zero_()[:, :24, :24]

    before = images.pixels.clone()
    render(images, drawn(own(blackened, "image"), images), own(blackened, "image"))
    assert torch.equal(images.pixels, before)


def test_all_generators_are_seeded_and_put_back(images: ImageBatch, device: str) -> None:
    def noisy(crop: Tensor) -> Tensor:
        shift = random.random() + float(np.random.rand()) + float(torch.rand(()))  # noqa: NPY002
        return (crop * 0 + shift / 3 + torch.rand(crop.shape, device=crop.device) * 0.01).clamp(0, 1)

    plan = own(noisy)
    there, numbers = images.to(device), drawn(plan, images)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first = render(there, numbers, plan)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # type: ignore[index]  # noqa: NPY002
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    for one, other in zip(first, render(there, numbers, plan), strict=True):
        assert torch.equal(one, other)
    ids = torch.tensor([[0, 1, 0, 1], [2, 2, 1, 2]])  # kept views, and a part of the batch
    kept = render(there, numbers.take(ids), plan)
    assert torch.equal(kept[1][2], first[1][2])
    part = render(images[1:3].to(device), numbers[1:3], plan)
    assert torch.equal(part[2], first[2][1:3])
    share = draw(plan, images.size[2:], stream(5, "views", 0), start=2, total=4)  # of the second of two processes
    assert torch.equal(render(images[2:].to(device), share, plan)[0], first[0][2:])


def test_it_is_given_what_it_names(images: ImageBatch) -> None:
    given: list[dict[str, Any]] = []

    def named(crop: Tensor, *, size: int, slot: str, seed: int) -> Tensor:
        assert crop.dtype == torch.float32
        given.append({"shape": list(crop.shape), "size": size, "slot": slot, "seed": seed})
        return crop.clamp(0, 1)

    plan = own(named)
    numbers = drawn(plan, images)
    render(images, numbers, plan, 0.5)
    assert numbers.seed is not None
    assert [one["seed"] for one in given] == numbers.seed.flatten().tolist()
    assert all(one["shape"] == [3, 12, 12] and one["size"] == 12 and one["slot"] == "view" for one in given)


def test_slots_without_one_are_as_ever(images: ImageBatch) -> None:
    jitter = Photometric(0.4, 0.4, 0.4, 0.1, grey_p=0.2, blur_p=0.5, blur_kernel=3, solarize_p=0.2)
    plan = ViewPlan((replace(PLAN.slots[0], photometric=jitter), replace(PLAN.slots[0], transform=COLOURS)))
    numbers = drawn(plan, images)
    for colour in ("matrix", "exact"):
        mixed = replace(plan, colour=colour)
        theirs = render(images, numbers, replace(mixed, slots=(plan.slots[0], replace(plan.slots[1], transform=None))))
        torch.testing.assert_close(render(images, numbers, mixed)[:3], theirs[:3], atol=1e-5, rtol=0)


GENERATOR = torch.Generator()


def unseeded(crop: Tensor) -> Tensor:
    return torch.rand(crop.shape, generator=GENERATOR)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (
            lambda crop: crop[:, 1:],
            r"returned float32 \[3, 23, 24\]; it must return float \[3, 24, 24\] of 0..1, or uint8",
        ),
        (lambda crop: crop.mean(0), r"returned float32 \[24, 24\]; it must"),
        (lambda crop: (crop * 255).long(), r"returned int64 \[3, 24, 24\]; it must"),
        (lambda crop: crop.numpy(), "returned ndarray; it must return"),
        (
            v2.Normalize((0.5,) * 3, (0.2,) * 3),
            r"Normalize returned values from -2\.\d+ to 2\.\d+; .* leave Normalize out",
        ),
        (lambda crop: crop * torch.nan, "returned values from nan to nan"),
        (lambda crop: crop.reshape(7), "RuntimeError: shape"),
        (unseeded, "makes other pixels of the same view: it draws from a generator of its own; let it take"),
    ],
)
def test_what_can_not_be_used_is_one_line(transform: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        check_transforms(own(transform))
    assert "\n" not in str(raised.value)


def test_a_slot_takes_one_or_the_other() -> None:
    with pytest.raises(InputError, match="give a transform or a photometric"):
        Slot(photometric=Photometric(0.4), transform=COLOURS)


def test_views_of_another_plan_are_refused(images: ImageBatch) -> None:
    with pytest.raises(InputError, match="drawn from a plan without transforms"):
        render(images, drawn(PLAN, images), own(COLOURS))


def test_hard_views_of_a_loop_of_ones_own_take_such_a_plan(images: ImageBatch) -> None:
    plan = own(COLOURS)
    numbers = drawn(plan, images)
    hard = HardViews(_costs, plan, guard=())
    views = render(images, numbers, plan)
    kept = hard(views)
    assert [view.shape for view in kept] == [(4, 3, 24, 24)] * 2


def _costs(views: list[Tensor]) -> Costs:
    means = torch.stack([view.mean((1, 2, 3)) for view in views])
    return Costs((means[:, None] - means[None]).square())


def test_views_of_a_cpu_leave_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.manual_seed`` seeds those too, and nobody would restore them."""

    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refused)
    monkeypatch.setattr(torch, "manual_seed", refused)
    images = ImageBatch.pack([torch.zeros(30, 30, 3, dtype=torch.uint8)])
    plan = own(COLOURS)
    render(images, drawn(plan, images), plan)
    check_transforms(plan)
