"""The picture of the README: candidates of a few photographs as a run's model scores them, the kept pair framed.

    hardviews pretrain --data PHOTOGRAPHS --out RUN && python docs/candidates.py RUN docs/photographs.jpg NAME...

NAME is the end of a photograph's path. It may appear in the picture for what it is: docs/gallery.md has the credits.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hardviews import HardViews, ImageBatch, draw, render
from hardviews.commands.pretrain import parse
from hardviews.data.sources import open_source
from hardviews.setup.defaults import resolve_defaults
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.streams import stream

SIDE, GAP, FRAME = 150, 6, 5
KEPT, SCORED = (214, 69, 65), (255, 255, 255)


def picture(view: Tensor) -> Image.Image:
    """A ``[3, h, w]`` tensor of 0..1."""
    return Image.fromarray((view.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def main(run: str, out: str, *names: str) -> None:
    folder = RunFolder(Path(run))
    options, _ = parse(["--config", str(folder.config_file)])
    source = open_source(str(options.data))
    _, method = resolve_defaults(options, source)
    state, _ = folder.checkpoints.newest()
    assert state is not None, f"{run} has no checkpoint yet"
    method.load_state_dict(state["method"])
    plan = method.plan

    shown = [next(i for i in range(len(source)) if source.path(i).endswith(name)) for name in names]
    order = shown + [index for index in range(min(len(source), 128)) if index not in shown]  # a batch as in training
    images = ImageBatch.pack([source.read(index) for index in order])
    views = draw(plan, images.size, stream(7, "figure"))
    choice = HardViews(lambda seen: method.costs(method(seen)), plan, guard=method).choose(
        render(images, views, plan), views
    )
    large = render(images, views, plan, SIDE / plan.slots[0].size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (plan.mean, plan.std))

    cell = SIDE + 2 * FRAME + GAP
    left = round(1.5 * SIDE) + GAP
    sheet = Image.new("RGB", (left + cell * plan.draw, cell * len(shown) - GAP), "white")
    for row in range(len(shown)):
        top = row * cell
        photo = picture(images.image(row) / 255)
        photo.thumbnail((left - 2 * GAP, SIDE + 2 * FRAME), Image.Resampling.LANCZOS)
        x, y = (left - GAP - photo.width) // 2, top + (SIDE + 2 * FRAME - photo.height) // 2
        sheet.paste(photo, (x, y))
        pen = ImageDraw.Draw(sheet)
        for v in sorted(range(plan.draw), key=lambda v: v in choice.ids[:, row]):  # kept ones on top
            kept = v in choice.ids[:, row]
            x0, y0, x1, y1 = views.box[v, row].tolist()
            box = (x + x0 * photo.width, y + y0 * photo.height, x + x1 * photo.width - 1, y + y1 * photo.height - 1)
            pen.rectangle(box, outline=KEPT if kept else SCORED, width=3 if kept else 1)
            at, far = left + cell * v, SIDE + 2 * FRAME - 1
            pen.rectangle((at, top, at + far, top + far), fill=KEPT if kept else "white")
            sheet.paste(picture(large[v][row] * std + mean), (at + FRAME, top + FRAME))
    sheet.save(out, quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
