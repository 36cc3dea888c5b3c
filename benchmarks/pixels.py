"""How fast views of images with other channels and types are rendered, beside 8-bit RGB.

    python benchmarks/pixels.py [--images 16] [--height 375 --width 500] [--json FILE]

SimSiam's 2 views of 224 px, their colours as far as they apply, one thread. ``per channel`` is the number of channels
rendered in a second, as a part of RGB's: 1 if a channel costs its share. ``toned`` has gain, offset, gamma and dropped
channels besides.
"""

from dataclasses import replace
from functools import partial

import torch
from side_by_side import arguments, ratios, side_by_side, table, write
from torch import Tensor

from hardviews.methods import find
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.pixels import RGB, SPANS, Pixels, PixelType
from hardviews.views.plan import ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

KINDS: tuple[tuple[int, PixelType], ...] = (
    (1, "uint8"), (1, "uint16"), (1, "float32"), (3, "uint16"), (4, "uint8"), (4, "uint16"), (13, "uint16"),
    (13, "float32"),
)  # fmt: skip


def batch_of(form: Pixels, count: int, height: int, width: int) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)

    def picture() -> Tensor:
        part = torch.rand(height, width, form.channels, generator=generator)
        return (form.low[0] + part * (form.high[0] - form.low[0])).to(form.torch_dtype)

    return ImageBatch.pack([picture() for _ in range(count)], form=form)


def toned(plan: ViewPlan) -> ViewPlan:
    looks = [replace(slot.photometric, gain=0.2, offset=0.1, gamma=0.3, drop_p=0.1) for slot in plan.slots]
    slots = (replace(slot, photometric=look) for slot, look in zip(plan.slots, looks, strict=True))
    return replace(plan, slots=tuple(slots))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rgb = find("simsiam").default_plan(224).without_selection()
    runs, channels = {}, {}
    for count, dtype in ((0, "uint8"), *KINDS):
        low, high = SPANS[dtype]
        form = Pixels(count, dtype, (low,), (high,), rgb=False) if count else RGB
        plan = rgb.for_channels((0.5,) * count, (0.25,) * count) if count else rgb
        batch = batch_of(form, args.images, args.height, args.width).to(args.device)
        plans = {"": plan, ", toned": toned(plan)} if count in (1, 13) and dtype == "uint16" else {"": plan}
        for more, one in plans.items():
            name = f"{count} x {dtype}{more}" if count else "RGB"
            views = draw(one, batch.size, stream(0, "views", 0))
            runs[name], channels[name] = partial(render, batch, views, one), form.channels
    found = ratios(side_by_side(runs, args.repeats, args.device), "RGB")
    for name, figures in found.items():
        figures["per_channel"] = channels[name] / 3 / figures["ratio"]
    rows = [
        [name, f"{x['seconds'] * 1e3:.1f}", f"{x['ratio']:.2f}", f"{x['per_channel']:.2f}"] for name, x in found.items()
    ]
    table(f"{args.images} images of {args.height} x {args.width}", ["", "ms", "of RGB's", "per channel"], rows)
    write(args.json, found)


if __name__ == "__main__":
    main()
