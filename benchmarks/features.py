"""Images per second of feature extraction, from encoded pictures to features, against a bare loop of forwards.

    python benchmarks/features.py TABLE [--device cuda] [--backbones vit_small_patch16_224,resnet50] [--images 512]
        [--batch 64] [--workers 0] [--json FILE]

The bare loop is given the same batches decoded, rendered and normalised beforehand, on the device, in the same
precision and memory format. Both are first shown to yield the same features.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import timm
import torch
from lightning_fabric import Fabric
from side_by_side import arguments, ratios, side_by_side, table, write

from hardviews.data.sources.table import Table
from hardviews.evaluation.features import Preprocessing, encoded, extract
from hardviews.training.precision import fast_precision
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--backbones", default="vit_small_patch16_224,resnet50,resnet18")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    ready = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD)
    fabric = Fabric(accelerator=args.device.type, devices=1, precision=fast_precision(args.device))  # type: ignore[arg-type]
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as folder:
        few = Path(folder) / "few.parquet"
        pq.write_table(pq.read_table(args.table).slice(0, args.images), few)
        source = Table([few], "few")
        for name in args.backbones.split(","):
            backbone: Any = timm.create_model(name, num_classes=0).eval().to(args.device)
            backbone = backbone.to(memory_format=torch.channels_last)
            batches = [part.images for part in encoded(backbone, source, ready, batch_size=args.batch)]

            def bare(backbone: Any = backbone, batches: list[torch.Tensor] = batches) -> torch.Tensor:
                with torch.no_grad(), fabric.autocast():
                    return torch.cat([backbone(batch).float().cpu() for batch in batches])

            def ours(backbone: Any = backbone) -> torch.Tensor:
                with fabric.autocast():
                    return extract(backbone, source, ready, batch_size=args.batch, workers=args.workers).vectors

            torch.testing.assert_close(ours(), bare())
            times = side_by_side({"bare loop": bare, "extraction": ours}, args.repeats, args.device)
            figures = ratios(times, "bare loop")
            found[name] = figures
            for what, v in figures.items():
                speeds = [f"{1 / v[key]:.3f}" for key in ("ratio", "highest", "lowest")]
                rows.append([f"{name}, {what}", f"{len(source) / v['seconds']:,.1f}", *speeds])
    table(
        f"{args.images} pictures, batch {args.batch}, {args.workers} workers, {args.device}, {torch.get_num_threads()} "
        f"threads, {args.repeats} repeats",
        ["", "images/s", "x bare loop", "lowest", "highest"],
        rows,
    )
    write(args.json, {"device": str(args.device), "images": args.images, "backbones": found})


if __name__ == "__main__":
    main()
