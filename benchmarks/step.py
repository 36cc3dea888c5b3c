"""What a training step with hard views takes, against the same step without, and that against a bare PyTorch loop.

    python benchmarks/step.py [--device cuda] [--methods dino,ibot,simsiam,simclr] [--batch 8] [--json FILE]

DINO (2+2 global candidates of 224 px, 16 local ones of 96 px; 65,536 prototypes) and iBOT (2+2; 8,192) with ViT-S/16,
SimSiam and SimCLR (4 candidates of 128 px) with ResNet-18, in bf16, from random pictures of 256 x 256 px in memory.

1. The step with hard views, in several ways of scoring, divided by the step without; rendering and optimizer included.
   What each way keeps of the hardness is measured by ``scoring.py``, on trained networks.
2. The step without hard views divided by a loop of SimSiam or DINO written here with torch and timm alone. Both are
   given the same rendered views and start from the same weights, and their losses are first shown to be the same.
"""

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from side_by_side import arguments, ratios, side_by_side, table, write
from torch import Tensor, nn
from ways import WAYS

from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.methods.base import Method
from hardviews.methods.dino import DINO
from hardviews.methods.simsiam import SimSiam
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream

BATCH = {"dino": 8, "ibot": 8, "simsiam": 64, "simclr": 64}
SPEED = 1e-4  # learning rate, so small that repeats do not diverge


def created(
    name: str, device: torch.device, batch: int, plain: bool, patches: bool = False
) -> tuple[Step, Method[Any]]:
    """A step of a method as a run creates it, with ViT-S/16 or, unless ``patches``, its own network."""
    vit = patches or name in ("dino", "ibot")
    options = PretrainOptions(
        data="shapes", method={"name": name}, image_size=224 if vit else 128, batch_size=batch, optimizer="adamw",
        lr=SPEED * 256 / batch, min_lr=SPEED, weight_decay=0.04, weight_decay_end=0.04, warmup_epochs=0, epochs=1,
        backbone=BackboneOptions("vit_small_patch16_224" if vit else "resnet18", stem="imagenet"),
        accelerator=device.type, scoring="exact",
    )  # fmt: skip
    options, method = resolve_defaults(options, Shapes(count=10))
    if plain:
        method.plan = method.plan.without_selection()
    return create_step(options, method, create_fabric(options), steps_per_epoch=1000), method


def pictures(batch: int, device: torch.device) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (batch, 3, 32, 32), generator=generator).float()
    large = F.interpolate(small, (256, 256), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return ImageBatch.pack(list(large.permute(0, 2, 3, 1))).to(device)


def bare_simsiam(method: SimSiam, autocast: Any, device: torch.device) -> Callable[[list[Tensor]], Tensor]:
    """SimSiam as one would write it in a notebook."""
    backbone = copy.deepcopy(method.backbone).to(memory_format=torch.channels_last).to(device)
    projector, predictor = (copy.deepcopy(head).to(device) for head in (method.projector, method.predictor))
    parameters = [*backbone.parameters(), *projector.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=SPEED, weight_decay=0.04, fused=True)

    def step(views: list[Tensor]) -> Tensor:
        with autocast():
            z = [projector(backbone(view)) for view in views]
            p = [predictor(x) for x in z]
        (p0, p1), (z0, z1) = [x.float() for x in p], [x.detach().float() for x in z]
        loss = -(F.cosine_similarity(p0, z1).mean() + F.cosine_similarity(p1, z0).mean()) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


class BareHead(nn.Module):
    def __init__(self, head: Any) -> None:
        super().__init__()
        self.mlp = copy.deepcopy(head.mlp)
        self.prototypes = nn.Parameter(head.prototypes.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.mlp(x).float(), dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            return x @ F.normalize(self.prototypes, dim=-1).T


def bare_dino(method: DINO, autocast: Any, device: torch.device) -> Callable[[list[Tensor]], Tensor]:
    """DINO as one would write it in a notebook, with its multi-crop forward and its loss of all pairs of views."""

    def network() -> nn.ModuleDict:
        return nn.ModuleDict({"backbone": copy.deepcopy(method.backbone), "head": BareHead(method.head)}).to(device)

    student, teacher = network(), network().requires_grad_(False).eval()
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=SPEED, weight_decay=0.04, fused=True)
    centre = torch.zeros(len(method.head.prototypes), device=device)

    def encode(net: nn.ModuleDict, views: list[Tensor]) -> Tensor:
        groups = [torch.cat(list(group)) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = torch.cat([net["backbone"](group) for group in groups])
        return net["head"](features).view(len(views), len(views[0]), -1)  # type: ignore[no-any-return]

    def step(views: list[Tensor]) -> Tensor:
        with autocast():
            out = encode(student, views)
            with torch.no_grad():
                target = encode(teacher, views[:2])
        log_p = [F.log_softmax(view / 0.1, dim=-1) for view in out]
        q = [F.softmax((view - centre) / 0.04, dim=-1) for view in target]
        terms = [-(q[t] * log_p[v]).sum(-1).mean() for t in range(2) for v in range(len(views)) if v != t]
        loss = torch.stack(terms).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        student["head"].prototypes.grad = None  # the last layer is frozen in the first epoch
        for parameter in parameters:
            if parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            centre.lerp_(target.mean((0, 1)), 0.1)
            torch._foreach_lerp_(list(teacher.parameters()), tuple(parameters), 0.004)
        return loss.detach()

    return step


def against_bare(name: str, device: torch.device, batch: int, repeats: int) -> tuple[dict[str, Any], list[float]]:
    """The step without hard views, and the bare loop, on the same views; and the losses of both."""
    step, method = created(name, device, batch, plain=True)
    images = pictures(batch, device)
    views = render(images, draw(method.plan, images.size, stream(0, "views", 0)).to(device), method.plan)
    autocast = step.fabric.autocast
    bare = (bare_dino if isinstance(method, DINO) else bare_simsiam)(method, autocast, device)  # type: ignore[arg-type]
    losses: dict[str, list[Tensor]] = {"bare": [], "ours": []}

    def ours() -> None:
        step.watch.start()
        losses["ours"].append(step(images, 0).loss)

    with patch("hardviews.training.step.render", lambda *_: views):
        times = side_by_side({"bare": lambda: losses["bare"].append(bare(views)), "ours": ours}, repeats, device)
    ours_, bare_ = (torch.stack(losses[key]).cpu() for key in ("ours", "bare"))
    # The same at first; bf16 drives them apart, slowly.
    torch.testing.assert_close(ours_[:3], bare_[:3], rtol=0, atol=5e-3)
    return ratios(times, "bare"), (ours_ - bare_).abs().tolist()


def with_hard_views(name: str, device: torch.device, batch: int, repeats: int) -> dict[str, Any]:
    plain, hard = (created(name, device, batch, plain=p)[0] for p in (True, False))
    images = pictures(batch, device)

    def take(step: Step, scoring: Scoring) -> None:
        step.scorer = Scorer(step.fabric, step.method, scoring)
        step.watch.start()
        step(images, 0)

    runs: dict[str, Callable[[], None]] = {"without": partial(take, plain, EXACT)}
    for way, scoring in WAYS.items():
        if scoring.depth < 1:  # takes the whole backbone until it has learned; scoring.py measures it
            continue
        with contextlib.suppress(InputError):  # nothing of the kind in this method
            Scorer(hard.fabric, hard.method, scoring)
            if hard.method.evaluated != "backbone" or scoring.reuse:  # without a teacher there is nothing to use again
                runs[way] = partial(take, hard, scoring)
    return ratios(side_by_side(runs, repeats, device), "without")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--methods", default="dino,ibot,simsiam,simclr")
    parser.add_argument("--batch", type=int, help="images a step; by default 8 for ViTs and 64 for ResNets")
    args = parser.parse_args()
    everything: dict[str, Any] = {"device": str(args.device), "threads": torch.get_num_threads()}
    for name in args.methods.split(","):
        batch = args.batch or BATCH[name]
        found = with_hard_views(name, args.device, batch, args.repeats)
        everything[name] = {"batch": batch, "with_hard_views": found}
        rows = [
            [way, f"{v['seconds']:.3f}", f"{v['ratio']:.3f}", f"{v['lowest']:.3f}", f"{v['highest']:.3f}"]
            for way, v in found.items()
        ]
        if name in ("dino", "simsiam"):
            bare, apart = against_bare(name, args.device, batch, args.repeats)
            everything[name] |= {"without_hard_views_vs_bare_loop": bare, "losses_apart": apart}
            v = bare["ours"]
            rows += [
                ["bare loop, views given", f"{bare['bare']['seconds']:.3f}", "", "", ""],
                ["without, views given, / bare loop", f"{v['seconds']:.3f}"]
                + [f"{v[key]:.3f}" for key in ("ratio", "lowest", "highest")],
            ]
        table(
            f"{name}, batch {batch}, {args.device}, {torch.get_num_threads()} threads, {args.repeats} repeats",
            ["step", "seconds", "ratio", "lowest", "highest"],
            rows,
        )
    write(args.json, everything)


if __name__ == "__main__":
    main()
