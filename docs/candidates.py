"""The picture of the README: candidates of a few images as a run's model sees them, the kept pair framed.

hardviews pretrain --out RUN && python docs/candidates.py RUN docs/candidates.png
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

IMAGES, SIDE, GAP, FRAME = 5, 96, 8, 4
KEPT, SCORED = (214, 69, 65), (150, 150, 150)


def picture(view: Tensor) -> Image.Image:
    """A ``[3, h, w]`` tensor of 0..1 at the side of this figure."""
    pixels = (view.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main(run: str, out: str) -> None:
    folder = RunFolder(Path(run))
    options, _ = parse(["--config", str(folder.config_file)])
    source = open_source(str(options.data))
    _, method = resolve_defaults(options, source)
    state, _ = folder.checkpoints.newest()
    assert state is not None, f"{run} has no checkpoint yet"
    method.load_state_dict(state["method"])
    plan = method.plan

    images = ImageBatch.pack([source.read(index) for index in range(256)])
    views = draw(plan, images.size, stream(1, "figure"))
    candidates = render(images, views, plan)
    choice = HardViews(lambda seen: method.costs(method(seen)), plan, guard=method).choose(candidates, views)
    mean, std = (torch.tensor(values)[:, None, None] for values in (plan.mean, plan.std))

    step = SIDE + 2 * FRAME + GAP
    sheet = Image.new("RGB", (step * (1 + plan.draw) + GAP, step * IMAGES), "white")
    pen = ImageDraw.Draw(sheet)
    for row in range(IMAGES):
        sheet.paste(picture(images.image(row) / 255), (FRAME, row * step + FRAME))
        for v, x0, y0, x1, y1 in ((v, *views.box[v, row].tolist()) for v in range(plan.draw)):
            kept = v in choice.ids[:, row]
            x, y = FRAME, row * step + FRAME
            box = (x + x0 * SIDE, y + y0 * SIDE, x + x1 * SIDE - 1, y + y1 * SIDE - 1)
            pen.rectangle(box, outline=KEPT if kept else SCORED, width=2 if kept else 1)
            left, top, far = step * (1 + v) + GAP, row * step, SIDE + 2 * FRAME - 1
            pen.rectangle((left, top, left + far, top + far), fill=KEPT if kept else "white")
            sheet.paste(picture(candidates[v][row] * std + mean), (left + FRAME, top + FRAME))
    sheet.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
