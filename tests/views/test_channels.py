"""Views of images that are not 8-bit RGB: other channels, types and ranges of values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
import yaml
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hardviews.errors import InputError
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels, PixelType
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

FORMS = (
    Pixels(1, "uint16", (0.0,), (4095.0,), rgb=False),
    Pixels(4, "uint8", (0.0,), (255.0,), rgb=False),
    Pixels(2, "float32", (-1000.0,), (400.0,), rgb=False),
    Pixels(13, "uint16", tuple(range(13)), tuple(range(3000, 3013)), rgb=False),
    Pixels(3, "int16", (-1024.0,), (3071.0,), rgb=False),
    Pixels(3, "uint16", (0.0,), (65535.0,), rgb=True),
)


def stored(form: Pixels, height: int, width: int, seed: int = 0, part: tuple[float, float] = (-0.2, 1.2)) -> Tensor:
    """A picture whose values fill a part of the range, and by default leave it on both sides."""
    random = np.random.default_rng(seed)
    low, high = (np.array(values) for values in form.ranges)
    values = low + (high - low) * random.uniform(*part, (height, width, form.channels))
    if form.dtype != "float32":
        limits = np.iinfo(form.dtype)
        values = values.clip(limits.min, limits.max).round()
    return torch.from_numpy(values.astype(form.dtype))


def by_hand(picture: Tensor, form: Pixels) -> Tensor:
    """In 0..1, float64 ``[C, h, w]``."""
    low, high = (np.array(values) for values in form.ranges)
    return torch.from_numpy(((picture.numpy().astype(np.float64) - low) / (high - low)).clip(0, 1)).movedim(2, 0)


def plan_of(form: Pixels, **look: float) -> ViewPlan:
    slot = Slot(size=24, draw=2, keep=2, scale=(0.3, 1), photometric=Photometric(**look))  # type: ignore[arg-type]
    mean = tuple(0.1 + 0.05 * c for c in range(form.channels))
    std = tuple(0.3 + 0.02 * c for c in range(form.channels))
    return ViewPlan((slot,), mean, std, rgb=form.rgb)


def drawn(plan: ViewPlan, batch: ImageBatch) -> Views:
    return draw(plan, batch.size, stream(0, "views", 0))


@pytest.mark.parametrize("side", [40, 90])  # on a CPU, by matrices and by taps
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_crop_resize_blur_and_normalisation_equal_torchvisions_per_channel(form: Pixels, side: int) -> None:
    pictures = [stored(form, side, side + 7, seed) for seed in range(2)]
    batch = ImageBatch.pack(pictures, form=form)
    plan = plan_of(form, blur_p=0.7)
    views = drawn(plan, batch)
    for v, rendered in enumerate(render(batch, views, plan)):
        for b, picture in enumerate(pictures):
            box = views.box[v, b] * torch.tensor([side + 7, side] * 2)
            left, top, right, bottom = box.round().int().tolist()
            wanted = []
            for channel, mean, std in zip(by_hand(picture, form).float(), plan.mean, plan.std, strict=True):
                pixels = V.resized_crop(
                    channel[None], top, left, bottom - top, right - left, [24, 24], InterpolationMode.BILINEAR, True
                )
                pixels = V.horizontal_flip(pixels) if views.flip[v, b] else pixels
                sigma = float(views.blur[v, b])
                pixels = V.gaussian_blur(pixels, [3, 3], [sigma, sigma]) if sigma else pixels
                wanted.append((pixels[0] - mean) / std)
            torch.testing.assert_close(rendered[b], torch.stack(wanted), atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_exact_mode_agrees_where_no_step_leaves_the_range(form: Pixels) -> None:
    batch = ImageBatch.pack([stored(form, 40, 47, seed, (0.4, 0.6)) for seed in range(3)], form=form)
    plan = plan_of(form, brightness=0.1, contrast=0.3, gain=0.1, offset=0.02, gamma=0.3, drop_p=0.3, blur_p=0.5)
    views = drawn(plan, batch)
    assert views.tone is not None
    for fast, exact in zip(
        render(batch, views, plan), render(batch, views, replace(plan, colour="exact")), strict=True
    ):
        torch.testing.assert_close(fast, exact, atol=3e-3 if form.rgb else 2e-4, rtol=0)


def test_one_channel_has_the_contrast_of_torchvision() -> None:
    form = Pixels(1, "uint8", rgb=False)
    batch = ImageBatch.pack([stored(form, 24, 24, part=(0.4, 0.6))], form=form)
    plan = replace(plan_of(form, contrast=0.5, jitter_p=1), mean=(0.0,), std=(1.0,))
    plan = replace(plan, slots=(replace(plan.slots[0], scale=(1, 1), ratio=(1, 1), flip_p=0),))
    views = drawn(plan, batch)
    for v, rendered in enumerate(render(batch, views, plan)):
        factor = float(views.jitter[v, 0, 1])
        torch.testing.assert_close(rendered[0], V.adjust_contrast(batch.image(0).float() / 255, factor))


def test_tone_by_hand() -> None:
    form = FORMS[3]
    batch = ImageBatch.pack([stored(form, 30, 30)], form=form)
    look = {"gain": 0.3, "offset": 0.1, "gamma": 0.5, "drop_p": 0.4, "tone_p": 0.6}
    plan = plan_of(form, **look)
    views = drawn(plan, batch)
    assert views.tone is not None
    plain = render(batch, replace(views, tone=None), replace(plan, mean=(0.0,) * 13, std=(1.0,) * 13))
    for v, rendered in enumerate(render(batch, views, plan)):
        for c, (gain, offset, gamma, dropped) in enumerate(views.tone[v, 0].double().tolist()):
            values = (gain * plain[v][0, c].double() + offset).clamp(0, 1) ** gamma
            values = torch.full_like(values, plan.mean[c]) if dropped else values
            wanted = (values - plan.mean[c]) / plan.std[c]
            torch.testing.assert_close(rendered[0, c].double(), wanted, atol=1e-5, rtol=0)


def test_drawn_tones_lie_in_their_ranges_and_one_channel_stays() -> None:
    form = Pixels(4, "uint8", rgb=False)
    plan = plan_of(form, gain=0.3, offset=0.1, gamma=0.5, drop_p=0.9, tone_p=0.5)
    size = torch.full((400, 2), 32)
    views = draw(plan, size, stream(0, "views", 0))
    assert views.tone is not None
    gain, offset, gamma, dropped = views.tone.unbind(-1)
    changed = gain[..., 0] != 1
    assert 0.45 < changed.float().mean() < 0.55
    assert torch.equal(changed, gamma[..., 0] != 1)
    assert 0.7 <= gain.min() < 0.72
    assert 1.28 < gain.max() <= 1.3
    assert -0.1 <= offset.min() < -0.09
    assert 0.09 < offset.max() <= 0.1
    assert 1 / 1.5 <= gamma.min() < 0.68
    assert 1.48 < gamma.max() <= 1.5
    assert torch.equal(gamma, gamma[..., :1].expand_as(gamma))
    assert dropped.sum(-1).max() == 3
    part = draw(plan, size[100:200], stream(0, "views", 0), start=100, total=400)
    assert part.tone is not None
    assert torch.equal(part.tone, views.tone[:, 100:200])


def test_tones_leave_all_other_numbers_as_they_are() -> None:
    """RGB runs that use none of this draw the numbers that they drew before."""
    plan = ViewPlan((Slot(photometric=Photometric(0.4, 0.4, 0.4, 0.1, grey_p=0.2, blur_p=0.5)),))
    toned = replace(plan, slots=(replace(plan.slots[0], photometric=replace(plan.slots[0].photometric, gain=0.2)),))
    size = torch.tensor([[50, 60], [70, 40]])
    one, other = (draw(p, size, stream(0, "views", 0)) for p in (plan, toned))
    for name, numbers in vars(one).items():
        if numbers is not None:
            assert torch.equal(numbers, getattr(other, name)), name


def test_rgb_with_tones_is_the_rgb_view_and_then_the_tone() -> None:
    batch = ImageBatch.pack([stored(Pixels(rgb=False), 40, 50)])
    assert batch.form == RGB
    plan = plan_of(RGB, brightness=0.4, saturation=0.4, hue=0.1, grey_p=0.3, solarize_p=0.5, gamma=0.5, gain=0.1)
    plan = replace(plan, slots=(replace(plan.slots[0], draw=6, keep=6),))
    views = drawn(plan, batch)
    plain = render(batch, replace(views, tone=None), replace(plan, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert views.tone is not None
    mean, std = (torch.tensor(x)[:, None, None] for x in (plan.mean, plan.std))
    for v, rendered in enumerate(render(batch, views, plan)):
        gain, offset, gamma, _ = views.tone[v, 0].unbind(-1)
        values = (plain[v][0] * gain[:, None, None] + offset[:, None, None]).clamp(0, 1) ** gamma[:, None, None]
        torch.testing.assert_close(rendered[0], (values - mean) / std, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_images_of_other_sizes_are_padded_and_gathered_as_stored(dtype: PixelType) -> None:
    form = Pixels(5, dtype, (0.0,), (200.0,), rgb=False)
    pictures = [stored(form, 6, 9, 1), stored(form, 8, 4, 2)]
    batch = ImageBatch.pack(pictures, form=form)
    padded = batch.padded()
    assert padded.dtype == pictures[0].dtype
    assert padded.shape == (2, 5, 8, 9)
    for b, picture in enumerate(pictures):
        assert torch.equal(batch.image(b), picture.permute(2, 0, 1))
        rows, columns = (torch.arange(n).clamp(max=m - 1) for n, m in zip((8, 9), picture.shape, strict=False))
        assert torch.equal(padded[b], picture[rows][:, columns].permute(2, 0, 1))
    assert torch.equal(batch[1:].image(0), pictures[1].permute(2, 0, 1))
    assert batch[1:].form == form


def test_stored_values_stay_what_they_are() -> None:
    form = Pixels(1, "float32", (0.0,), (2.0,), rgb=False)
    picture = stored(form, 5, 5)
    before = picture.clone()
    levels = form.levels(picture)
    assert torch.equal(picture, before)
    torch.testing.assert_close(levels, 255 * (before / 2).clamp(0, 1))


@pytest.mark.parametrize("form", [*FORMS, RGB, Pixels(2, "float32", percentiles=(1.0, 99.0), rgb=False)], ids=str)
def test_a_run_keeps_what_its_pixels_are(form: Pixels) -> None:
    assert Pixels.from_config({"pixels": yaml.safe_load(yaml.safe_dump(form.saved()))}) == form


def test_runs_from_before_have_rgb() -> None:
    assert Pixels.from_config({"method": "simsiam"}) == RGB


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Pixels(0, rgb=False), "channels: 0 must be 1 to 32"),
        (lambda: Pixels(4), "RGB has three channels, not 4"),
        (
            lambda: Pixels(4, "uint8", (0.0, 1.0), (255.0,), rgb=False),
            "2 values for low; give one, or one for each of 4",
        ),
        (lambda: Pixels(1, "uint8", (9.0,), (9.0,), rgb=False), "must be below"),
        (lambda: Pixels(1, "float32", (0.0,), (float("inf"),), rgb=False), "must be finite"),
        (lambda: Pixels(1, "float64", rgb=False), "pixel type 'float64' is none of uint8"),  # type: ignore[arg-type]
        (lambda: Pixels(1, percentiles=(99.0, 1.0), rgb=False), "must be an increasing range"),
        (lambda: ViewPlan((Slot(),), (0.5,), (0.5,)), "RGB has three channels, not 1; give rgb=False"),
        (lambda: ViewPlan((Slot(),), (0.5,), (0.5, 1.0)), "mean has 1 channels and std 2"),
        (lambda: plan_of(FORMS[0], hue=0.1, grey_p=0.2), "hue, grey_p needs RGB; use for_channels()"),
        (lambda: Photometric(drop_p=1.0), "drop_p is a probability, 0 to below 1"),
        (lambda: Photometric(gamma=-1.0), "gamma can't be negative"),
        (lambda: ImageBatch.pack([stored(FORMS[0], 3, 3), stored(FORMS[1], 3, 3)]), "4 channels of uint8; those of"),
    ],
)
def test_wrong_input_is_named(wrong: object, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        wrong()  # type: ignore[operator]


def test_images_of_other_channels_than_the_plan_are_refused() -> None:
    batch = ImageBatch.pack([stored(FORMS[1], 30, 30)], form=FORMS[1])
    plan = plan_of(FORMS[0])
    with pytest.raises(InputError, match="images have 4 channels, and mean and std of the plan 1"):
        render(batch, drawn(plan, batch), plan)


def test_a_plan_for_other_channels_leaves_out_what_only_rgb_has() -> None:
    look = Photometric(0.4, 0.3, 0.2, 0.1, grey_p=0.2, blur_p=0.5, solarize_p=0.1)
    plan = ViewPlan((Slot(photometric=look),)).for_channels((0.5,), (0.2,))
    assert plan.slots[0].photometric == Photometric(0.4, 0.3, blur_p=0.5)
    assert (plan.channels, plan.rgb) == (1, False)
    same = ViewPlan((Slot(photometric=look),)).for_channels((0.5,) * 3, (0.2,) * 3, rgb=True)
    assert same.slots[0].photometric == look
