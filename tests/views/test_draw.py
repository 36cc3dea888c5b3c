from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

import hardviews.views.draw as drawing
from hardviews.views.draw import Views, draw
from hardviews.views.plan import Masking, Photometric, Slot, ViewPlan
from hardviews.views.streams import stream

EVERYTHING = Photometric(0.4, 0.4, 0.4, 0.1, jitter_p=0.8, grey_p=0.2, blur_p=0.5, solarize_p=0.2)
MULTI_CROP = ViewPlan(
    (
        Slot("global", 224, (0.4, 1), draw=3, keep=1, photometric=EVERYTHING, mask=Masking()),
        Slot("local", 96, (0.05, 0.4), draw=5, keep=2, target=False, photometric=EVERYTHING),
    ),
    multiple=16,
)


def one_slot(**settings: object) -> ViewPlan:
    return ViewPlan((replace(Slot(), **settings),))  # type: ignore[arg-type]


def sizes(batch: int, height: int = 224, width: int = 224) -> Tensor:
    return torch.tensor([[height, width]]).expand(batch, 2)


def p_value(result: Any) -> float:
    return float(result.pvalue)


def assert_equal(a: Views, b: Views) -> None:
    for field in fields(Views):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert (one is None and other is None) or torch.equal(one, other), field.name


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (224, 224, (0.08, 1.0)),
        (32, 32, (0.2, 1.0)),
        (60, 200, (0.08, 1.0)),
        (400, 100, (0.4, 1.0)),
        (30, 300, (0.9, 1.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    """Square, small, wide and tall images; the last two fall back to the central crop often, and always."""
    count, image = 20_000, torch.empty(3, height, width)
    torch.manual_seed(0)
    ratio = (3 / 4, 4 / 3)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    ).double()
    top, left, h, w = theirs.unbind(1)
    size = torch.tensor([height, width])
    views = draw(one_slot(scale=scale, ratio=ratio, draw=4), sizes(count // 4, height, width), stream(0, "views", 0))
    pixels = views.box.flatten(0, 1) * size.flip(0).repeat(2)
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-9)  # whole pixels come back
    x0, y0, x1, y1 = pixels.round().unbind(1)
    assert min(x0.min(), y0.min()) >= 0
    assert x1.max() <= width
    assert y1.max() <= height
    ours = {"area": (x1 - x0) * (y1 - y0), "ratio": (x1 - x0) / (y1 - y0), "x": x0, "y": y0}
    for (name, mine), other in zip(ours.items(), (h * w, w / h, left, top), strict=True):
        assert p_value(ks_2samp(mine.numpy(), other.numpy())) > 0.01, name


def test_fallback_is_the_central_crop() -> None:
    for height, width in ((30, 300), (301, 30)):
        views = draw(one_slot(scale=(0.9, 1.0), draw=2), sizes(3, height, width), stream(0, "views", 0))
        top, left, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
        expected = torch.tensor([left / width, top / height, (left + w) / width, (top + h) / height])
        torch.testing.assert_close(views.box, expected.double().expand(2, 3, 4), rtol=0, atol=1e-7)


def test_tiny_images() -> None:
    size = torch.tensor([[1, 1], [1, 50], [50, 1], [2, 3]])
    views = draw(one_slot(draw=20), size, stream(0, "views", 0))
    sides = (views.box[..., 2:] - views.box[..., :2]) * size.flip(1)
    assert (sides.round() >= 1).all()


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_of_0_and_1_are_never_and_always(p: float) -> None:
    look = Photometric(0.4, 0.4, 0.4, 0.1, jitter_p=p, grey_p=p, blur_p=p, solarize_p=p)
    views = draw(one_slot(flip_p=p, photometric=look), sizes(5000), stream(1, "views", 0))
    jittered = (views.jitter != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(-1)
    for happened in (views.flip, views.grey, views.blur > 0, views.solarize, jittered):
        assert happened.all() if p else not happened.any()


def test_probabilities_in_between_and_ranges() -> None:
    look = Photometric(0.4, 1.2, 0.8, 0.1, jitter_p=0.8, grey_p=0.2, blur_p=0.5, blur_sigma=(0.1, 2.0), solarize_p=0.3)
    views = draw(one_slot(draw=4, flip_p=0.6, photometric=look), sizes(5000), stream(1, "views", 0))
    jittered = (views.jitter != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(-1)
    happened = {0.6: views.flip, 0.2: views.grey, 0.5: views.blur > 0, 0.3: views.solarize, 0.8: jittered}
    for p, event in happened.items():
        assert abs(event.double().mean().item() - p) < 4 * (p * (1 - p) / 20_000) ** 0.5
    for number, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.2), (0.2, 1.8), (-0.1, 0.1)]):
        uniform = (views.jitter[jittered][:, number] - low) / (high - low)
        assert p_value(ks_2samp(uniform.numpy(), torch.linspace(0, 1, 20_000).numpy())) > 0.01
    uniform = (views.blur[views.blur > 0] - 0.1) / 1.9
    assert p_value(ks_2samp(uniform.numpy(), torch.linspace(0, 1, 20_000).numpy())) > 0.01
    assert p_value(ks_2samp(views.ticket.flatten().numpy(), torch.linspace(0, 1, 20_000).numpy())) > 0.01
    _, counts = torch.unique(views.order.flatten(0, 1), dim=0, return_counts=True)
    assert len(counts) == 24
    assert p_value(chisquare(counts.numpy())) > 0.01
    assert (views.order.sort(-1).values == torch.arange(4)).all()


def test_numbers_of_a_view_are_independent_of_each_other() -> None:
    views = draw(one_slot(draw=4, photometric=EVERYTHING), sizes(5000), stream(2, "views", 0))
    area = (views.box[..., 2:] - views.box[..., :2]).prod(-1)
    columns = [views.flip, views.grey, views.blur > 0, views.solarize, views.ticket, area, *views.jitter.unbind(-1)]
    table = torch.stack([column.double().flatten() for column in columns])
    off_diagonal = torch.corrcoef(table)[~torch.eye(len(columns), dtype=torch.bool)]
    # Jitter factors share whether they are applied, but are centred on what stands where they are not.
    assert off_diagonal.abs().max() < 4.5 / 20_000**0.5
    between_views = torch.corrcoef(area)[0, 1:]
    assert between_views.abs().max() < 4.5 / 5000**0.5


def test_blur_only_in_slots_that_blur() -> None:
    calm = Photometric(blur_p=0.0, solarize_p=0.0)
    plan = ViewPlan((Slot("A", draw=2, keep=1, photometric=EVERYTHING), Slot("B", draw=2, keep=1, photometric=calm)))
    views = draw(plan, sizes(500), stream(0, "views", 0))
    assert views.blur[:2].any()
    assert views.solarize[:2].any()
    assert not views.blur[2:].any()
    assert not views.solarize[2:].any()
    assert (views.jitter[2:] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all()
    assert views.slot.tolist() == [0, 0, 1, 1]


def test_a_stream_gives_its_views_again_and_no_other_does() -> None:
    size = sizes(10)
    first = draw(MULTI_CROP, size, stream(0, "views", 5))
    assert_equal(first, draw(MULTI_CROP, size, stream(0, "views", 5)))
    for other in (stream(0, "views", 6), stream(1, "views", 5), stream(0, "evaluation", 5)):
        assert (draw(MULTI_CROP, size, other).box != first.box).any(-1).double().mean() > 0.9


def test_draws_do_not_depend_on_the_number_of_processes() -> None:
    size = torch.randint(20, 400, (12, 2), generator=torch.Generator().manual_seed(0))
    whole = draw(MULTI_CROP, size, stream(0, "views", 5))
    for world in (2, 3):
        share = 12 // world
        for rank in range(world):
            part = slice(rank * share, (rank + 1) * share)
            mine = draw(MULTI_CROP, size[part], stream(0, "views", 5), start=part.start, total=12)
            assert_equal(mine, whole[part])
    assert (whole.box[:, :6] != whole.box[:, 6:]).any()


def test_a_part_outside_the_global_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="not within a global batch of 12"):
        draw(MULTI_CROP, sizes(8), stream(0, "views", 0), start=8, total=12)


def test_take_gathers_every_number_per_image(device: str) -> None:
    views = draw(MULTI_CROP, sizes(4), stream(0, "views", 0))
    views = replace(views, seed=torch.arange(4 * len(views)).view(-1, 4), tone=torch.rand(len(views), 4, 3, 4))
    ids = torch.tensor([[0, 2, 1, 1], [3, 5, 7, 3], [6, 7, 3, 4]])
    for kept in (views.to(device).take(ids.to(device)), views.to(device).take(ids, MULTI_CROP.slot_of_kept())):
        assert kept.device.type == device
        assert kept.slot.tolist() == [0, 1, 1]
        assert kept.slot.device.type == "cpu"
        for field in fields(Views)[1:]:
            numbers, taken = getattr(views, field.name), getattr(kept, field.name)
            for k in range(3):
                for b in range(4):
                    assert torch.equal(taken[k, b].cpu(), numbers[ids[k, b], b])


def test_take_of_one_slot() -> None:
    kept = draw(one_slot(draw=4), sizes(3), stream(0, "views", 0)).take(torch.tensor([[0, 1, 2], [1, 3, 3]]))
    assert len(kept) == 2
    assert kept.slot.tolist() == [0, 0]


def test_one_thread_draws_and_the_others_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def fails(*_: object) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError

    monkeypatch.setattr(drawing, "_boxes", fails)
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError):
            draw(MULTI_CROP, sizes(1), stream(0, "views", 0))
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
