"""How far the colours of the fast path are from torchvision's steps.

    python benchmarks/colour.py DATA [--json FILE]

DATA is a folder of pictures or a Parquet table. Of three samples of 100 pictures, four views each: the mean absolute
distance of a view (0..1) from the one that the exact colour mode makes of the same numbers; with the correction, which
is what ``render`` does, and with the composed matrix alone.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hardviews.data.reading.decode import Bounds
from hardviews.data.sources import open_source
from hardviews.views import render as rendering
from hardviews.views.colour import Steps, colour_matrix, fitted
from hardviews.views.draw import Views, draw
from hardviews.views.images import ImageBatch
from hardviews.views.plan import Photometric, Slot, ViewPlan
from hardviews.views.render import render
from hardviews.views.streams import stream

IMAGES, VIEWS, SAMPLES, SIDE = 100, 4, 3, 112
JITTERS = ((0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2))


def distances(images: ImageBatch, views: Views, plan: ViewPlan) -> Tensor:
    """Of every view, ``[V * B]``."""
    ours, exact = render(images, views, plan), render(images, views, replace(plan, colour="exact"))
    return (torch.stack(ours) - torch.stack(exact)).abs().mean((2, 3, 4)).flatten()


def not_fitted(colours: Tensor, steps: Steps, grey: Tensor, mean: Tensor) -> Tensor:
    return colour_matrix(steps, grey, mean)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of pictures or a Parquet table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()

    source = open_source(args.data)
    table = Table(title=f"distance from torchvision, {SAMPLES} samples of {IMAGES} pictures of {source.name}")
    for column in ("jitter", "sample", "", "mean", "99th percentile", "largest"):
        table.add_column(column)
    figures = []
    for jitter in JITTERS:
        look = Photometric(*jitter, jitter_p=0.8, grey_p=0.2)
        slot = Slot(size=SIDE, draw=VIEWS, keep=VIEWS, photometric=look)
        plan = ViewPlan((slot,), mean=(0, 0, 0), std=(1, 1, 1))
        for sample in range(SAMPLES):
            rows = torch.randperm(len(source), generator=stream(sample, "pictures"))[:IMAGES].tolist()
            images = ImageBatch.pack([source.read(row, Bounds(512)) for row in rows])
            views = draw(plan, images.size, stream(sample, "views"))
            for name, function in (("render", fitted), ("matrix alone", not_fitted)):
                with patch.object(rendering, "fitted", function):
                    found = distances(images, views, plan)
                values = [found.mean().item(), found.quantile(0.99).item(), found.max().item()]
                table.add_row(str(jitter), str(sample), name, *(f"{value:.4f}" for value in values))
                figures.append({"jitter": jitter, "sample": sample, "colours": name, "mean_p99_largest": values})
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
