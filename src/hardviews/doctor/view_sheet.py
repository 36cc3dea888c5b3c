"""A picture of what training sees: images with the crops of their candidates, and the rendered candidates."""

from dataclasses import replace
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hardviews.networks.masked_vit import resample_mask
from hardviews.selection.hard_views import Choice
from hardviews.telemetry.gallery import KEPT, OTHER, SHOWN_SIDE, with_boxes
from hardviews.telemetry.shown import Channels, as_values, caption, picture
from hardviews.views.draw import Views
from hardviews.views.images import ImageBatch
from hardviews.views.plan import ViewPlan
from hardviews.views.render import render

PICTURES = 6
CELL, FRAME, GAP, LINE = 112, 4, 12, 14  # pixels: a candidate's side, its frame, between two, a line of text
ACROSS = 8  # candidates in a row
GROUND, INK, HIDDEN = (255, 255, 255), (60, 60, 60), (127, 127, 127)
LEGEND = "left: a picture and its candidates' crops; right: the candidates as rendered; red: kept"
MASKED = "; grey: hidden from the student"


class DrawnViews(NamedTuple):
    """The candidates and the choice of the first pictures of a step, on the CPU."""

    images: ImageBatch
    candidates: Views
    ids: Tensor  # [K, B]


class FirstViews:
    """An ``Observe`` that keeps a few images and their views of the first step with enough images."""

    def __init__(self) -> None:
        self.chosen: DrawnViews | None = None

    def __call__(self, step: int, images: ImageBatch, candidates: Views, choice: Choice) -> None:
        if self.chosen is None or len(self.chosen.images) < min(PICTURES, len(images)):
            few, some = images[:PICTURES], slice(PICTURES)
            own = replace(few, pixels=few.pixels.cpu().clone())  # not a part of the batch, which would be kept with it
            self.chosen = DrawnViews(own, candidates[some], choice.ids[:, some].cpu())


def view_sheet(chosen: DrawnViews, plan: ViewPlan, channels: Channels = (0, 1, 2)) -> Image.Image:
    """Draws one row per picture, of these channels; patches masked from the student are grey."""
    images, views, ids = chosen
    count = len(images)
    rendered = [as_values(view, plan)[:, list(channels)] for view in render(images, views, plan)]
    across = min(plan.draw, ACROSS)
    cell = CELL + 2 * FRAME + GAP
    row = max(-(-plan.draw // across) * (cell + LINE), SHOWN_SIDE + GAP)
    sheet = Image.new("RGB", (SHOWN_SIDE + 2 * GAP + across * cell, 2 * GAP + LINE + count * row), GROUND)
    pen = ImageDraw.Draw(sheet)
    shown = caption(images.form, channels)
    legend = LEGEND + (MASKED if views.mask is not None else "") + (f"; {shown}" if shown else "")
    pen.text((GAP, GAP // 2), legend, fill=INK)
    slots = plan.slot_of()
    for b in range(count):
        top, kept = GAP + LINE + b * row, set(ids[:, b].tolist())
        stored = picture(images.image(b), images.form, channels)
        original = Image.fromarray(stored.permute(1, 2, 0).contiguous().numpy())
        sheet.paste(with_boxes(original, views.box[:, b].tolist(), kept), (GAP, top))
        for v in range(plan.draw):
            line, column = divmod(v, across)
            x, y = SHOWN_SIDE + 2 * GAP + column * cell, top + line * (cell + LINE)
            side = CELL + 2 * FRAME - 1
            pen.rectangle((x, y, x + side, y + side), fill=KEPT if v in kept else OTHER)
            pixels = rendered[v][b]
            if views.mask is not None:
                hidden = resample_mask(views.mask[v, b][None], pixels.shape[-2:])[0]
                pixels = torch.where(hidden, torch.tensor(HIDDEN)[:, None, None] / 255, pixels)
            view = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
            way = Image.Resampling.NEAREST if view.width < CELL else Image.Resampling.LANCZOS
            sheet.paste(view.resize((CELL, CELL), way), (x + FRAME, y + FRAME))
            name = f"{v + 1} {plan.slots[slots[v]].name if len(plan.slots) > 1 else ''}"
            pen.text((x, y + side + 1), name.strip(), fill=KEPT if v in kept else INK)
    return sheet
