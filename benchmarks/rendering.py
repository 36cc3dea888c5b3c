"""How fast views are rendered, against torchvision and kornia, and how near torchvision's they are.

    python benchmarks/rendering.py FOLDER [--device cuda] [--images 16] [--height 375 --width 500] [--json FILE]

The view recipes of SimSiam (2 views of 224 px) and DINO (2 of 224, 8 of 96), from pictures of a folder, resized to one
size beforehand, as decoded uint8. One thread. Against:

- torchvision's v2 transforms on uint8 tensors, one image and view at a time, as a loader's worker does;
- the same on PIL images, with Pillow's own blur;
- kornia's augmentations on a float batch (where kornia is installed), whose resize knows no antialiasing.

First, views of the same numbers are compared with torchvision's functions, called step by step.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from side_by_side import arguments, ratios, side_by_side, table, write
from torch import Tensor, nn
from torchvision.transforms import v2

from hardviews.methods import find
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.resampling import kernel_at
from hardviews.views.streams import stream

MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def pictures(folder: Path, count: int, height: int, width: int) -> list[Image.Image]:
    """The first pictures of a folder, resized; over again where it has fewer."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise SystemExit(f"{folder}: no pictures")
    return [Image.open(files[i % len(files)]).convert("RGB").resize((width, height)) for i in range(count)]


def plan_of(name: str) -> ViewPlan:
    """A method's published views, none to choose from."""
    return find(name).default_plan(224).without_selection()


def torchvision_transform(slot: Slot, plan: ViewPlan, pil: bool) -> Callable[[Any], Tensor]:
    look = slot.photometric
    kernel = kernel_at(look.blur_kernel, slot.size, slot.size)
    blur: Callable[[Any], Any] = v2.GaussianBlur(kernel, look.blur_sigma)
    if pil:
        low, high = look.blur_sigma

        def blur(image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(low + (high - low) * torch.rand(()).item()))

    steps = [
        v2.RandomResizedCrop(slot.size, slot.scale, slot.ratio, MODES[slot.interpolation], antialias=True),
        v2.RandomHorizontalFlip(slot.flip_p),
        v2.RandomApply([v2.ColorJitter(look.brightness, look.contrast, look.saturation, look.hue)], look.jitter_p),
        v2.RandomGrayscale(look.grey_p),
        v2.RandomApply([v2.Lambda(blur)], look.blur_p),
        v2.RandomSolarize(128, look.solarize_p),
        *([v2.PILToTensor()] if pil else []),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(plan.mean, plan.std),
    ]
    transform: Callable[[Any], Tensor] = v2.Compose(steps)
    return transform


def kornia_transform(slot: Slot, plan: ViewPlan) -> nn.Module:
    import kornia.augmentation as K

    look = slot.photometric
    kernel = kernel_at(look.blur_kernel, slot.size, slot.size)
    return nn.Sequential(
        K.RandomResizedCrop(
            (slot.size, slot.size), slot.scale, slot.ratio, resample=slot.interpolation.upper(), cropping_mode="slice"
        ),
        K.RandomHorizontalFlip(p=slot.flip_p),
        K.ColorJitter(look.brightness, look.contrast, look.saturation, look.hue, p=look.jitter_p),
        K.RandomGrayscale(p=look.grey_p),
        K.RandomGaussianBlur((kernel, kernel), look.blur_sigma, p=look.blur_p),
        K.RandomSolarize(p=look.solarize_p),
        K.Normalize(torch.tensor(plan.mean), torch.tensor(plan.std)),
    )


def by_kornia(transforms: list[nn.Module], batch: Tensor) -> list[Tensor]:
    pixels = batch.float() / 255
    return [transform(pixels) for transform in transforms]


def distances(images: ImageBatch, plan: ViewPlan) -> dict[str, float]:
    """Mean absolute distance, 0..1, of every view from torchvision's functions on the same numbers, step by step."""
    plan = replace(plan, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    views = draw(plan, images.size, stream(0, "views", 0))
    # A pixel beside the threshold is solarized or not, whatever the distance: compared before it.
    views = replace(views, solarize=torch.zeros_like(views.solarize))
    ours, theirs = render(images, views, plan), render(images, views, replace(plan, colour="exact"))
    apart = torch.cat([(a - b).abs().mean((1, 2, 3)) for a, b in zip(ours, theirs, strict=True)])
    return {"mean": apart.mean().item(), "p99": apart.quantile(0.99).item(), "max": apart.max().item()}


@torch.no_grad()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pil = pictures(args.folder, args.images, args.height, args.width)
    images = ImageBatch.pack([torch.from_numpy(np.array(image)) for image in pil]).to(args.device)
    tensors = [images.image(b) for b in range(len(images))]

    everything: dict[str, Any] = {"device": str(args.device), "images": args.images}
    for name in ("simsiam", "dino"):
        plan = plan_of(name)
        slots = [plan.slots[slot] for slot in plan.slot_of_kept()]
        step = iter(range(1_000_000))

        def ours(plan: ViewPlan = plan, step: Any = step) -> None:
            render(images, draw(plan, images.size, stream(0, "views", next(step))), plan)

        def theirs(transforms: list[Any], of: list[Any]) -> Callable[[], object]:
            return lambda: [torch.stack([transform(image) for image in of]) for transform in transforms]

        runs = {
            "hardviews": ours,
            "torchvision v2, tensors": theirs([torchvision_transform(s, plan, False) for s in slots], tensors),
        }
        if args.device.type == "cpu":
            runs["torchvision v2, PIL"] = theirs([torchvision_transform(s, plan, True) for s in slots], pil)
        if importlib.util.find_spec("kornia"):
            batch = torch.stack(tensors)
            augment = [kornia_transform(slot, plan).to(args.device) for slot in slots]
            runs["kornia"] = partial(by_kornia, augment, batch)
        else:
            print("kornia is not installed, and left out: pip install kornia")
        found = ratios(side_by_side(runs, args.repeats, args.device), "hardviews")
        count = args.images * plan.draw
        apart = distances(images, plan)
        everything[name] = {"times": found, "distance": apart, "views": count}
        table(
            f"{name}: {plan.draw} views of {args.images} pictures of {args.width} x {args.height}, {args.device}, one "
            f"thread; distance from torchvision's: mean {apart['mean']:.4f}, p99 {apart['p99']:.4f}, "
            f"max {apart['max']:.4f}",
            ["", "ms per view", "views/s", "x hardviews' time", "lowest", "highest"],
            [
                [
                    run,
                    f"{1e3 * v['seconds'] / count:.2f}",
                    f"{count / v['seconds']:.0f}",
                    f"{v['ratio']:.1f}",
                    f"{v['lowest']:.1f}",
                    f"{v['highest']:.1f}",
                ]
                for run, v in found.items()
            ],
        )
    write(args.json, everything)


if __name__ == "__main__":
    main()
