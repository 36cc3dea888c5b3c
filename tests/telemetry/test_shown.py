"""Pictures of any channels: which are shown, how they are scaled, and their views against those of all channels."""

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.analysis import pictures
from hardviews.errors import InputError
from hardviews.selection.hard_views import Choice
from hardviews.selection.search import first_ids
from hardviews.telemetry import reading
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.telemetry.shown import as_values, caption, picture, plan_shown, shown_channels, views_shown
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

FOUR = Pixels(4, "uint16", (0, 100, 200, 300), (4095, 3000, 3100, 3200), False)
GREY = Pixels(1, "int16", (-1350,), (150,), False)
LOOK = Photometric(brightness=0.4, contrast=0.4, blur_p=0.5, gain=0.3, offset=0.1, gamma=0.2, drop_p=0.2)
PLAN = ViewPlan((Slot(size=32, photometric=LOOK),), (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8), rgb=False)
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 4096, (8, 40, 36, 4)).astype(np.uint16))


@pytest.mark.parametrize(
    ("form", "asked", "shown", "said"),
    [
        (RGB, None, (0, 1, 2), ""),
        (RGB, (3, 2, 1), (2, 1, 0), "channels 3, 2, 1 of 3, values 0 to 255"),
        (GREY, None, (0, 0, 0), "channel 1 of 1, values -1350 to 150"),
        (FOUR, None, (0, 1, 2), "channels 1, 2, 3 of 4, values 0 to 4095; 100 to 3000; 200 to 3100"),
        (FOUR, (4,), (3, 3, 3), "channel 4 of 4, values 300 to 3200"),
        (FOUR, 4, (3, 3, 3), "channel 4 of 4, values 300 to 3200"),
        (Pixels(2, rgb=False), None, (0, 0, 0), "channel 1 of 2, values 0 to 255"),
        (Pixels(3, "uint16", (0,), (9,)), None, (0, 1, 2), "RGB, values 0 to 9"),
        (Pixels(3, low=(5,)), None, (0, 1, 2), "RGB, values 5 to 255"),
        (
            Pixels(1, "uint16", (0,), (65535,), False, (1, 99)), None, (0, 0, 0),
            "channel 1 of 1, values 0 to 65535 after each image's stretch",
        ),
    ],
)  # fmt: skip
def test_what_is_shown_and_said(
    form: Pixels, asked: int | tuple[int, ...] | None, shown: tuple[int, int, int], said: str
) -> None:
    assert shown_channels(form, asked) == shown
    assert caption(form, shown) == said


@pytest.mark.parametrize("asked", [(), (1, 2), (0,), (5,), (1, 2, 5), (1, 2, 3, 4)])
def test_channels_that_are_not_there(asked: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="show-channels: 2: the images have one channel; leave the option out"):
        shown_channels(Pixels(1, rgb=False), 2)
    with pytest.raises(InputError, match="give one or three of the channels 1 to 4"):
        shown_channels(FOUR, asked)


def test_a_picture_is_scaled_by_the_range() -> None:
    stored = PIXELS[0].permute(2, 0, 1)
    low, high = (np.array(limits)[:, None, None] for limits in FOUR.ranges)
    by_hand = ((stored.numpy() - low).clip(0) / (high - low) * 255).clip(0, 255).round()
    found = picture(stored, FOUR, (3, 1, 0)).numpy()
    assert np.abs(found - by_hand[[3, 1, 0]]).max() <= 1
    assert (found == by_hand[[3, 1, 0]]).mean() > 0.999  # the rest are ties
    assert found.dtype == np.uint8
    photo = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    assert picture(photo, RGB, (0, 1, 2)) is photo
    assert torch.equal(picture(photo, RGB, (2, 1, 0)), photo.flip(0))


def test_views_of_a_picture_are_those_of_its_channels() -> None:
    images = ImageBatch.pack(list(PIXELS), form=FOUR)
    views = draw(PLAN, images.size, stream(0, "views", 0))
    channels = (3, 1, 1)
    small = [picture(images.image(b), FOUR, channels).permute(1, 2, 0) for b in range(len(images))]
    plan = plan_shown(PLAN, channels)
    theirs = render(ImageBatch.pack(small), views_shown(views, channels), plan)
    ours = render(images, views, PLAN)
    assert plan_shown(ViewPlan(PLAN.slots), (0, 1, 2)) == ViewPlan(PLAN.slots)
    for all_channels, shown in zip(ours, theirs, strict=True):
        apart = (as_values(all_channels, PLAN)[:, list(channels)] - as_values(shown, plan)).abs()
        assert apart.mean() < 2e-3  # of pictures of 8 bits
        assert apart.max() < 0.05  # of a dark value under a gamma below 1


def test_a_run_of_four_channels_is_recorded_and_shown(tmp_path: Path) -> None:
    images = ImageBatch.pack(list(PIXELS), form=FOUR)
    shown = (3, 2, 0)
    recorder = Recorder(
        tmp_path / "telemetry", PLAN, Followed(8, 8, 3, 0, "hardest", 1, 1), say=pytest.fail, shown=shown
    )
    views = draw(PLAN, images.size, stream(0, "views", 0))
    recorder.note(0, images, views, Choice(first_ids(PLAN, 8, torch.device("cpu"))))
    recorder.fetch()
    recorder.write(ended=True)
    found = reading.load(tmp_path)
    assert found.shown == shown
    assert found.plan == PLAN
    again, tone = found.views().tone, views.tone
    assert again is not None
    assert tone is not None
    assert torch.equal(again, tone)
    assert found.where(np.arange(2)).shown == shown
    for index, file in found.gallery.items():
        with Image.open(file) as opened:
            thumbnail = torch.from_numpy(np.array(opened))
        assert torch.equal(thumbnail.permute(2, 0, 1), picture(images.image(index), FOUR, shown))
    (first, *_) = pictures.gallery(found)
    assert len(first.moments[0].candidates) == 4
    with Image.open(io.BytesIO(b64decode(first.data.partition(",")[2]))) as opened:
        assert opened.size == (36, 40)
