"""Images per second from files on disk to updated weights, against lightly's transforms and modules.

    python benchmarks/pipeline.py TABLE [--device cuda] [--batch 64] [--size 128] [--workers 2] [--json FILE]

SimSiam with ResNet-18 in bf16, on the pictures of a Parquet table, which are first written out as a folder of JPEGs.
Ours without hard views and with them (4 views drawn, 2 kept; scored exactly, and at half resolution), and lightly's
``SimSiamTransform``, heads and loss with a ``DataLoader``, as its documentation writes them, without hard views: the
same batch, precision, widths and number of workers; ours with what it does by default, channels-last convolutions and
a fused optimizer, which lightly's documentation does not have. Each turn starts its loader anew, and is timed from its
third to its last batch; some of the first were loaded beforehand, which favours whoever loads more slowly. First ours
and lightly's loss are shown to be the same on the same outputs.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from lightly.transforms.simsiam_transform import SimSiamTransform
from side_by_side import arguments, ratios, table, write
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hardviews.data.loading.loader import moved
from hardviews.methods.simsiam import SimSiam, SimSiamEncoding
from hardviews.networks.backbones import create_backbone
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.setup.data import create_loader, open_sources
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step

WARM, DIM, PREDICTOR = 2, 512, 128


def written(file: Path, folder: Path, count: int) -> Path:
    """The first pictures of a table as files."""
    for number, row in enumerate(pq.read_table(file, columns=["image"])["image"].slice(0, count)):
        (folder / f"{number:06d}.jpg").write_bytes(row.as_py())
    return folder


class LightlySimSiam(nn.Module):
    """https://docs.lightly.ai/self-supervised-learning/examples/simsiam.html, with other widths."""

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimSiamProjectionHead(512, DIM, DIM)
        self.prediction_head = SimSiamPredictionHead(DIM, PREDICTOR, DIM)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.backbone(x).flatten(start_dim=1)
        z = self.projection_head(f)
        p = self.prediction_head(z)
        return z.detach(), p


def timed(batches: Iterator[Any], step: Callable[[Any], object], count: int, device: torch.device) -> float:
    start = 0.0
    for number in range(WARM + count):
        if number == WARM:
            start = time.perf_counter()
        step(next(batches))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def lightlys(folder: Path, args: Any) -> Callable[[], float]:
    dataset = LightlyDataset(input_dir=str(folder), transform=SimSiamTransform(input_size=args.size))
    model, criterion = LightlySimSiam().to(args.device), NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step(batch: Any) -> None:
        x0, x1 = (view.to(args.device, non_blocking=True) for view in batch[0])
        with torch.autocast(args.device.type, torch.bfloat16):
            (z0, p0), (z1, p1) = model(x0), model(x1)
            loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def run() -> float:
        loader = DataLoader(
            dataset, batch_size=args.batch, shuffle=True, drop_last=True, num_workers=args.workers,
            pin_memory=args.device.type == "cuda",
        )  # fmt: skip
        return timed(iter(loader), step, args.batches, args.device)

    return run


def ours(folder: Path, args: Any, views: int, scoring: str) -> Callable[[], float]:
    options = PretrainOptions(
        data=str(folder), method={"name": "simsiam", "dim": DIM, "predictor_dim": PREDICTOR}, views=views,
        scoring="exact" if scoring == "exact" else "fast", score_resolution=0.5 if scoring == "half" else None,
        backbone=BackboneOptions("resnet18", stem="imagenet"), image_size=args.size, batch_size=args.batch, lr=1e-4,
        epochs=1000, workers=args.workers, accelerator=args.device.type, precision="bf16-mixed",
    )  # fmt: skip
    source, _ = open_sources(options)
    options, method = resolve_defaults(options, source)
    fabric = create_fabric(options)
    loader = create_loader(options, source, fabric)
    step = create_step(options, method, fabric, loader.steps_per_epoch)
    done = 0

    def take(images: Any) -> None:
        nonlocal done
        step.watch.start()
        step(images, done)
        done += 1

    return lambda: timed(moved(loader.batches(done), args.device), take, args.batches, args.device)


def check_losses() -> None:
    """Ours and lightly's loss of the same outputs."""
    z, p = torch.randn(2, 2, 16, DIM)
    criterion = NegativeCosineSimilarity()
    theirs = 0.5 * (criterion(z[0], p[1]) + criterion(z[1], p[0]))
    backbone = create_backbone("resnet18", 32, channels=[8, 8, 8, 8])
    costs = SimSiam(backbone, SimSiam.default_plan(32), dim=8, predictor_dim=4).costs(SimSiamEncoding(p, z))
    torch.testing.assert_close(costs.total(costs.all_ids()).mean(), theirs)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("table", type=Path, help="a Parquet table of encoded pictures")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=10, help="timed in each turn")
    args = parser.parse_args()
    check_losses()
    with tempfile.TemporaryDirectory() as name:
        folder = written(args.table, Path(name), 4096)
        runs = {
            "lightly": lightlys(folder, args),
            "hardviews without hard views": ours(folder, args, 2, "exact"),
            "hardviews, scored at half resolution": ours(folder, args, 4, "half"),
            "hardviews, scored exactly": ours(folder, args, 4, "exact"),
        }
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(args.repeats):
            for key, run in runs.items():
                times[key].append(run())
    found = ratios(times, "lightly")
    images = args.batches * args.batch
    figures = {
        key: {
            "images_per_second": images / v["seconds"],
            "speedup": 1 / v["ratio"], "lowest": 1 / v["highest"], "highest": 1 / v["lowest"],
        }
        for key, v in found.items()
    }  # fmt: skip
    table(
        f"SimSiam, ResNet-18, {args.size} px, batch {args.batch}, {args.workers} workers, {args.device}, "
        f"{torch.get_num_threads()} threads, {args.repeats} repeats",
        ["", "images/s", "x lightly", "lowest", "highest"],
        [
            [key, f"{v['images_per_second']:.1f}"] + [f"{v[part]:.2f}" for part in ("speedup", "lowest", "highest")]
            for key, v in figures.items()
        ],
    )
    write(args.json, {"device": str(args.device), "threads": torch.get_num_threads(), **figures})


if __name__ == "__main__":
    main()
