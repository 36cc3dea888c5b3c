"""Pixels against torchvision. Plans here normalise with mean 0 and std 1, so that values are 0..1."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as V
from torch import Tensor
from torchvision.transforms import InterpolationMode

import hardviews.views.geometry as geometry
import hardviews.views.render as rendering
from hardviews.views.colour import step_by_step, steps_of
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ColourMode, Interpolation, Photometric, Slot, ViewPlan, size_at
from hardviews.views.render import render
from hardviews.views.streams import stream


@pytest.fixture(autouse=True, params=["by taps", "by matrices"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it depends on the size of the pictures how they are resampled; here every test sees both. On a GPU it is
    kernels for the one and, as where Triton is missing, matrices for the other."""
    monkeypatch.setattr(rendering, "TAPS_PIXELS", 0 if request.param == "by taps" else 1 << 40)
    if request.param == "by matrices":
        monkeypatch.setattr(rendering, "kernels_on", lambda _: None)


EVERYTHING = Photometric(0.4, 0.4, 0.2, 0.1, jitter_p=0.8, grey_p=0.2, blur_p=0.5, solarize_p=0.3)


def plain(look: Photometric | None = None, **settings: object) -> ViewPlan:
    slot = replace(Slot(photometric=look or Photometric(), keep=1), **settings)  # type: ignore[arg-type]
    return ViewPlan((slot,), mean=(0, 0, 0), std=(1, 1, 1))


def views_of(images: ImageBatch, plan: ViewPlan) -> Views:
    return draw(plan, images.size, stream(0, "views", 1))


def pixel_box(images: ImageBatch, views: Views, v: int, b: int) -> tuple[int, int, int, int]:
    """Top, left, height, width."""
    height, width = images.size[b].tolist()
    x0, y0, x1, y1 = (views.box[v, b] * torch.tensor([width, height, width, height])).round().int().tolist()
    return y0, x0, y1 - y0, x1 - x0


def distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    return torch.stack(ours).cpu() - torch.stack(theirs).cpu()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [31, 96, 224])
def test_crop_flip_and_blur_are_torchvisions(
    mixed: ImageBatch, device: str, interpolation: Interpolation, side: int
) -> None:
    """Up- and downscaling, odd sizes, long images; one batch, padded."""
    plan = plain(Photometric(blur_p=0.5, blur_kernel=9), size=side, draw=6, interpolation=interpolation)
    views = views_of(mixed, plan)
    assert views.flip.any()
    assert not views.flip.all()
    found = render(mixed.to(device), views.to(device), plan)
    mode = InterpolationMode(interpolation)
    for v in range(6):
        assert found[v].shape == (len(mixed), 3, side, side)
        assert found[v].device.type == device
        for b in range(len(mixed)):
            expected = V.resized_crop(mixed.image(b) / 255, *pixel_box(mixed, views, v, b), [side, side], mode, True)
            if views.flip[v, b]:
                expected = V.horizontal_flip(expected)
            sigma = views.blur[v, b].item()
            if sigma > 0:
                expected = V.gaussian_blur(expected, [9, 9], [sigma, sigma])
            torch.testing.assert_close(found[v][b].cpu(), expected.clamp(0, 1), rtol=0, atol=1e-4)


def test_a_crop_shows_nothing_from_outside_it() -> None:
    pixels = torch.zeros(40, 40, 3, dtype=torch.uint8)
    pixels[10:30, 10:30] = 200
    box = torch.full((1, 1, 4), 0.25, dtype=torch.float64)
    box[..., 2:] = 0.75
    for interpolation in ("bilinear", "bicubic"):
        for side in (7, 20, 64):
            plan = plain(size=side, draw=1, interpolation=interpolation, flip_p=0.0)
            images = ImageBatch.pack([pixels])
            view = render(images, replace(views_of(images, plan), box=box), plan)[0]
            torch.testing.assert_close(view, torch.full_like(view, 200 / 255))


@pytest.mark.parametrize("kernel", [None, 23])
def test_blur_only_where_drawn(mixed: ImageBatch, kernel: int | None) -> None:
    plan = plain(Photometric(blur_p=0.5, blur_kernel=kernel), size=64, draw=4)
    views = views_of(mixed, plan)
    blurred, sharp = render(mixed, views, plan), render(mixed, replace(views, blur=views.blur * 0), plan)
    changed = (distance(blurred, sharp).abs().amax((2, 3, 4))) > 0
    wide = views.blur > 0.5  # narrower ones leave the pixels as they are, nearly
    assert wide.any()
    assert changed[wide].all()
    assert not changed[views.blur == 0].any()


def exact_of(images: ImageBatch, plan: ViewPlan, views: Views) -> list[Tensor]:
    """torchvision step by step, written out once more."""
    out: list[Tensor] = []
    look, side = plan.slots[0].photometric, plan.slots[0].size
    for v in range(len(views)):
        row: list[Tensor] = []
        for b in range(len(images)):
            x = V.resized_crop(images.image(b) / 255, *pixel_box(images, views, v, b), [side, side], antialias=True)
            x = V.horizontal_flip(x) if views.flip[v, b] else x
            brightness, contrast, saturation, hue = views.jitter[v, b].tolist()
            for step in views.order[v, b].tolist():
                if step == 0:
                    x = V.adjust_brightness(x, brightness)
                elif step == 1:
                    x = V.adjust_contrast(x, contrast)
                elif step == 2:
                    x = V.adjust_saturation(x, saturation)
                elif hue != 0:
                    x = V.adjust_hue(x, hue)
            x = V.rgb_to_grayscale(x, 3) if views.grey[v, b] else x
            sigma = views.blur[v, b].item()
            x = V.gaussian_blur(x, [5, 5], [sigma, sigma]) if sigma else x
            x = V.solarize(x, look.solarize_threshold) if views.solarize[v, b] else x
            row.append(V.normalize(x, list(plan.mean), list(plan.std)))
        out.append(torch.stack(row))
    return out


def test_exact_mode_is_torchvision(mixed: ImageBatch, device: str) -> None:
    plan = plain(replace(EVERYTHING, blur_kernel=5), size=48, draw=6)
    plan = replace(plan, colour="exact", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    views = views_of(mixed, plan)
    tolerance = 1e-6 if device == "cpu" else 1e-4  # solarize and hue have jumps, which rounding can cross
    found = render(mixed.to(device), views.to(device), plan)
    error = distance(found, exact_of(mixed, plan, views)).abs()
    assert error.mean() <= tolerance
    if device == "cpu":
        assert error.max() <= tolerance


def view_distances(images: ImageBatch, look: Photometric) -> Tensor:
    """Mean absolute distance of every view in the matrix mode from torchvision's, V·B numbers."""
    plan = plain(look, size=112, draw=4)
    views = views_of(images, plan)
    error = distance(render(images, views, plan), render(images, views, replace(plan, colour="exact")))
    return error.abs().mean((2, 3, 4)).flatten()


@pytest.mark.parametrize(
    ("jitter", "mean", "p99", "largest"),
    # The bounds of the method's description, for one affine map and one clamp.
    [((0.4, 0.4, 0.2, 0.1), 0.009, 0.033, 0.049), ((0.8, 0.8, 0.8, 0.2), 0.013, 0.076, 0.12)],
)
def test_colours_are_within_the_stated_bounds(
    photographs: ImageBatch, jitter: tuple[float, float, float, float], mean: float, p99: float, largest: float
) -> None:
    found = view_distances(photographs, Photometric(*jitter, jitter_p=0.8, grey_p=0.2))
    assert found.mean() <= mean
    assert found.quantile(0.99) <= p99
    assert found.max() <= largest


def test_a_batch_of_steps_is_torchvisions(mixed: ImageBatch) -> None:
    """The reference that colours are fitted to: clamps, hue in HSV, each image in an order of its own."""
    plan = plain(Photometric(0.8, 0.8, 0.8, 0.5, jitter_p=0.9, grey_p=0.2), size=16, draw=8)
    views = views_of(mixed, plan)
    bare = torch.stack(render(mixed, views, plain(size=16))).flatten(0, 1)
    steps = steps_of(views.jitter.flatten(0, 1), views.order.flatten(0, 1))
    found = step_by_step(bare.flatten(2), steps, views.grey.flatten(0, 1))
    expected = torch.stack(render(mixed, replace(views, blur=views.blur * 0), replace(plan, colour="exact")))
    error = (found.view_as(bare) - expected.flatten(0, 1)).abs()
    assert error.mean() < 1e-6
    assert error.max() < 1e-4  # near a grey, hue turns rounding into colour


def tame(images: ImageBatch) -> ImageBatch:
    """The same pictures with values around the middle, where no step of a small jitter needs a clamp."""
    return replace(images, pixels=(images.pixels.float() * 0.3 + 90).to(torch.uint8))


@pytest.mark.parametrize(
    "look",
    [Photometric(brightness=0.4), Photometric(contrast=0.4), Photometric(saturation=0.4), Photometric(grey_p=0.5)],
)
def test_steps_are_torchvisions_where_nothing_clamps(mixed: ImageBatch, look: Photometric) -> None:
    assert view_distances(tame(mixed), look).max() < 1e-5


def test_steps_in_any_order_before_blur_and_solarize(mixed: ImageBatch) -> None:
    look = Photometric(0.3, 0.3, 0.3, jitter_p=1.0, blur_p=0.5, solarize_p=0.5, solarize_threshold=0.9)
    assert view_distances(tame(mixed), look).max() < 1e-5


def test_hue_turns_the_same_way(mixed: ImageBatch) -> None:
    """A third of a turn is the one shift (but 0) at which a rotation and HSV agree."""
    plan = plain(Photometric(hue=0.5, jitter_p=1.0), size=32, draw=2)
    for shift in (1 / 3, -1 / 3):
        views = views_of(mixed, plan)
        views = replace(views, jitter=torch.tensor([1.0, 1.0, 1.0, shift]).expand_as(views.jitter))
        error = distance(render(mixed, views, plan), render(mixed, views, replace(plan, colour="exact")))
        assert error.abs().max() < 1e-5


def test_solarize_follows_the_clamp(mixed: ImageBatch, device: str) -> None:
    """Also with a normalisation, into which the clamp and the threshold are folded."""
    look = Photometric(0.9, jitter_p=1.0, solarize_p=0.5, solarize_threshold=0.6)
    plan = plain(look, size=32, draw=4)
    views = views_of(mixed, plan)
    assert views.solarize.any()
    without = torch.stack(render(mixed, replace(views, solarize=torch.zeros_like(views.solarize)), plan))
    assert (without == 1).any()  # the clamp had something to do
    expected = torch.where(views.solarize[:, :, None, None, None], V.solarize(without, 0.6), without)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    found = torch.stack(render(mixed.to(device), views, replace(plan, mean=mean, std=std))).cpu()
    found = found * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    crossed = (found - expected).abs() > 1e-5  # rounding can carry a value over the threshold
    assert crossed.double().mean() < 1e-4


@pytest.mark.parametrize("resolution", [0.5, 0.25])
def test_any_resolution_renders_the_same_view(mixed: ImageBatch, device: str, resolution: float) -> None:
    look = Photometric(0.4, 0.4, 0.2, 0.1, jitter_p=0.8, grey_p=0.2, blur_p=0.5)
    plan = plain(look, size=128, draw=4)
    images, views = mixed.to(device), views_of(mixed, plan)
    small = torch.stack(render(images, views, plan, resolution)).cpu()
    full = torch.stack(render(images, views, plan)).cpu()
    shrunk = F.avg_pool2d(full.flatten(0, 1), int(1 / resolution)).view_as(small)
    error = (small - shrunk).abs().mean((2, 3, 4))
    other = (small - shrunk.roll(1, 0)).abs().mean((2, 3, 4))
    assert error.max() < 0.02
    assert other.min() > 2 * error.max()


@pytest.mark.parametrize("colour", ["matrix", "exact"])
def test_blur_scales_with_the_resolution(colour: ColourMode) -> None:
    """On noise, where half or twice the blur shows."""
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageBatch.pack([noise])
    plan = plain(
        Photometric(blur_p=1.0, blur_sigma=(2, 2), blur_kernel=13), size=64, scale=(1, 1), ratio=(1, 1), draw=1
    )
    plan = replace(plan, colour=colour)
    views = views_of(images, plan)
    shrunk = F.avg_pool2d(render(images, views, plan)[0], 2)
    small = render(images, views, plan, 0.5)[0]
    assert abs(small.std() / shrunk.std() - 1) < 0.15
    assert (small - shrunk).abs().mean() < 0.2 * shrunk.std()


def test_sizes_snap_to_the_patch() -> None:
    slot = Slot(size=96)
    sides = [size_at(ViewPlan((slot,), multiple=16), slot, resolution) for resolution in (1.0, 0.5, 0.4, 0.01)]
    assert sides == [96, 48, 32, 16]
    assert size_at(ViewPlan((slot,)), slot, 0.5) == 48


@pytest.mark.parametrize("colour", ["matrix", "exact"])
def test_a_padded_batch_is_its_images_one_by_one(mixed: ImageBatch, colour: ColourMode) -> None:
    plan = replace(plain(replace(EVERYTHING, solarize_p=0.0), size=40, draw=3), colour=colour)
    views = views_of(mixed, plan)
    together = render(mixed, views, plan)
    for b in range(len(mixed)):
        alone = render(mixed[b : b + 1], views[b : b + 1], plan)
        assert distance([view[b : b + 1] for view in together], alone).abs().max() < 1e-5


def test_chunks_change_nothing(mixed: ImageBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plain(replace(EVERYTHING, solarize_p=0.0), size=40, draw=3)
    views = views_of(mixed, plan)
    whole = render(mixed, views, plan)
    chunks: list[int] = []
    padded = ImageBatch.padded

    def counted(self: ImageBatch) -> Tensor:
        chunks.append(len(self))
        return padded(self)

    monkeypatch.setattr(ImageBatch, "padded", counted)
    monkeypatch.setattr(rendering, "TAPS_PIXELS", 1 << 40)
    # Of an image: its floats, those of its views and matrices, and 19 taps on each axis while they are made.
    numbers = 3 * 224 * 333 + 3 * 40 * (4 * 224 + 333 + 3 * 40) + 2 * 3 * 40 * 19 * geometry.TAP
    for chunk, expected in ((1, [1] * 6), (4 * numbers, [4, 2])):
        chunks.clear()
        monkeypatch.setattr(geometry, "CHUNK", {"cpu": chunk})
        assert distance(render(mixed, views, plan), whole).abs().max() < 1e-5
        assert chunks == expected


def test_both_ways_are_one(mixed: ImageBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way this test is run in against the other."""
    plan = plain(replace(EVERYTHING, solarize_p=0.0), size=100, draw=4, interpolation="bicubic")
    views = views_of(mixed, plan)
    one = render(mixed, views, plan)
    monkeypatch.setattr(rendering, "TAPS_PIXELS", (1 << 40) - rendering.TAPS_PIXELS)
    assert 0 < distance(one, render(mixed, views, plan)).abs().max() < 1e-4


def test_slots_of_several_sizes_and_a_choice(mixed: ImageBatch, device: str) -> None:
    """Rendering what was taken is taking from what was rendered."""
    slots = (
        Slot("global", 48, draw=2, keep=1, photometric=EVERYTHING, interpolation="bicubic"),
        Slot("local", 24, draw=4, keep=2, target=False, photometric=Photometric(blur_p=0.5)),
    )
    plan, images = ViewPlan(slots), mixed.to(device)
    views = views_of(mixed, plan).to(device)
    ids = torch.tensor([[0, 1, 0, 1, 0, 1], [2, 3, 4, 2, 2, 3], [3, 5, 5, 4, 5, 4]])
    every, kept = render(images, views, plan), render(images, views.take(ids.to(device)), plan)
    assert [view.shape[-1] for view in every] == [48, 48, 24, 24, 24, 24]
    for k in range(3):
        for b in range(len(mixed)):
            found, expected = kept[k][b], every[int(ids[k, b])][b]
            # Of products of matrices on a GPU, the last bits depend on how many views are made at once.
            products = device == "cuda" and rendering.kernels_on(found.device) is None
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if products else 0.0)


def test_autocast_and_gradients_stay_out(mixed: ImageBatch) -> None:
    plan = plain(EVERYTHING, size=32, draw=1)
    views = views_of(mixed, plan)
    expected = render(mixed, views, plan)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = render(mixed, views, plan)[0]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.equal(found, expected)


def test_an_empty_batch() -> None:
    images = ImageBatch.pack([])
    plan = plain(EVERYTHING, size=32, draw=2)
    assert [view.shape for view in render(images, views_of(images, plan), plan)] == [(0, 3, 32, 32)] * 2


def test_nothing_waits_for_a_gpu(mixed: ImageBatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    plan = plain(EVERYTHING, size=32, draw=3)
    images, views = mixed.to("cuda"), views_of(mixed, plan).to("cuda")
    expected = render(images, views, plan)  # fills the caches of constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = render(images, views, plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert distance(found, expected).abs().max() == 0
