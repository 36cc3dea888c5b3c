"""SimSiam on CIFAR-10 with hard views, timed to the end, beside lightly's modules and loss on the same resident data.

    python benchmarks/cifar.py TRAIN TEST [--device cuda] [--epochs 200] [--batch 512] [--json FILE]

TRAIN and TEST are Parquet tables of the pack, whose pictures are JPEGs: compare only runs on them. Two arms, one after
the other, each with the recipe ``simsiam_cifar10`` (ResNet-18, batch 512, SGD at 0.03 per 256 with a cosine):

- ``hardviews pretrain`` with hard views, as a user would run it, its checks of kNN included;
- lightly's SimSiam heads and loss on the same backbone, batches, plain views and rates, written out here as its
  documentation writes them. (The speed of lightly's own transforms and loader is what ``pipeline.py`` compares.)
"""

import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
from side_by_side import arguments, table, write
from torch import nn

from hardviews.networks.backbones import feature_dim
from hardviews.options.pretraining import PretrainOptions
from hardviews.recipes import find
from hardviews.runs.pretrain import pretrain
from hardviews.setup.data import create_loader, open_sources
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.monitoring import create_evaluate
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.optimizers import create_rates
from hardviews.views.draw import draw
from hardviews.views.render import render
from hardviews.views.streams import stream


def lightlys(options: PretrainOptions) -> dict[str, float]:
    """kNN accuracy and seconds of lightly's SimSiam, trained without hard views."""
    source, test = open_sources(options)
    options, method = resolve_defaults(options, source)
    fabric = create_fabric(options)
    loader = create_loader(options, source, fabric)
    plan = method.plan.without_selection()
    dim, hidden = options.method.get("dim", 2048), options.method.get("predictor_dim", 512)
    backbone = method.backbone
    projector = SimSiamProjectionHead(feature_dim(backbone), dim, dim)
    predictor = SimSiamPredictionHead(dim, hidden, dim)
    model = nn.ModuleList([backbone, projector, predictor]).to(fabric.device).to(memory_format=torch.channels_last)
    groups: list[dict[str, Any]] = [
        {"params": [*backbone.parameters(), *projector.parameters()]},
        {"params": list(predictor.parameters()), "constant": True},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=0.0, momentum=options.momentum or 0.0, weight_decay=options.weight_decay or 0
    )
    rates, criterion = create_rates(options, loader.steps_per_epoch), NegativeCosineSimilarity()
    start = time.perf_counter()
    batches = loader.batches(0)
    for step in range(options.epochs * loader.steps_per_epoch):
        images = next(batches).to(fabric.device)
        views = draw(plan, images.size, stream(options.seed, "views", step)).to(fabric.device)
        for group in optimizer.param_groups:
            group["lr"] = rates.at(step, group.get("constant", False))
        with fabric.autocast():
            z = [projector(backbone(view).flatten(1)) for view in render(images, views, plan)]
            p = [predictor(x) for x in z]
            loss = 0.5 * (criterion(z[0].detach(), p[1]) + criterion(z[1].detach(), p[0]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    evaluate = create_evaluate(options, source, test, plan, fabric)
    model.eval()
    knn = evaluate(backbone, False, Meeting(fabric))["knn_top1"] if evaluate else float("nan")
    return {"knn_top1": knn, "seconds": seconds}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    options = replace(
        find("simsiam_cifar10")(), data=args.train, test_data=args.test, epochs=args.epochs, batch_size=args.batch,
        accelerator=args.device.type, knn_epochs=max(1, args.epochs // 4), workers=2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary: dict[str, Any] = pretrain(replace(options, out=folder + "/run"))
        ours = {"knn_top1": summary["knn_top1"], "seconds": time.perf_counter() - start}
    found = {"hardviews, hard views": ours, "lightly's modules and loss, without": lightlys(options)}
    rows = [[name, f"{v['knn_top1']:.4f}", f"{v['seconds']:,.0f}"] for name, v in found.items()]
    title = f"SimSiam, ResNet-18, {args.epochs} epochs, {args.device}"
    table(title, ["", "kNN top-1", "seconds"], rows)
    write(args.json, {"device": str(args.device), "epochs": args.epochs, "arms": found})


if __name__ == "__main__":
    main()
