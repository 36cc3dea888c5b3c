"""Small multi-crop plans and networks for the tests of DINO, iBOT and DINOv2."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hardviews.methods.dino import DINO
from hardviews.methods.dinov2 import DINOv2
from hardviews.methods.ibot import IBOT
from hardviews.views.plan import ViewPlan
from tests.methods.tiny import TinyBackbone

PROTOTYPES = 24


def small(plan: ViewPlan, local: int = 2) -> ViewPlan:
    """Of few local views; sizes of whole patches of four pixels."""
    slots = [slot if slot.target else replace(slot, draw=2 * local, keep=local) for slot in plan.slots]
    return replace(plan, slots=tuple(slots), multiple=4)


def tiny_vit(size: int = 16, **keywords: Any) -> nn.Module:
    vit: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=4, dynamic_img_size=True, embed_dim=12, depth=2, num_heads=2,
        num_classes=0, **keywords,
    )  # fmt: skip
    return vit


def dino(backbone: Callable[[], nn.Module] = TinyBackbone, plan: ViewPlan | None = None, **settings: float) -> DINO:
    """With the same weights at every call: the backbone is made here, once the generator is seeded."""
    torch.manual_seed(0)
    keywords = {"prototypes": PROTOTYPES, "hidden_dim": 16, "bottleneck_dim": 8} | settings
    return DINO(backbone(), plan or small(DINO.default_plan(16)), **keywords)  # type: ignore[arg-type]


def ibot(plan: ViewPlan | None = None, **settings: float) -> IBOT:
    torch.manual_seed(0)
    keywords = {"prototypes": PROTOTYPES, "hidden_dim": 16, "bottleneck_dim": 8} | settings
    method = IBOT(tiny_vit(), plan or small(IBOT.default_plan(16, locals=2)), **keywords)  # type: ignore[arg-type]
    with torch.no_grad():
        method.mask_token.normal_()  # it starts at zero, where hiding a patch might pass unnoticed
    return method


def dinov2(plan: ViewPlan | None = None, vit: nn.Module | None = None, **settings: float) -> DINOv2:
    torch.manual_seed(0)
    keywords = {"prototypes": PROTOTYPES, "hidden_dim": 16, "bottleneck_dim": 8} | settings
    plan = plan or small(DINOv2.default_plan(16))
    method = DINOv2(vit or tiny_vit(), plan, **keywords)  # type: ignore[arg-type]
    with torch.no_grad():
        method.mask_token.normal_()  # as of ``ibot``
    return method


def pictures(plan: ViewPlan, *, kept: bool = False, batch: int = 5, seed: int = 0) -> list[Tensor]:
    """Candidates, or as many views as are kept, float64, local ones smaller."""
    generator = torch.Generator().manual_seed(seed)
    slots = [plan.slots[slot] for slot in (plan.slot_of_kept() if kept else plan.slot_of())]
    return [
        torch.rand(batch, 3, *[16 if slot.target else 8] * 2, generator=generator, dtype=torch.float64)
        for slot in slots
    ]


def teach(method: DINO | IBOT | DINOv2) -> None:
    """Moves teacher and centres away from where they start, as after some steps."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        centres = [] if isinstance(method, DINOv2) else method.assignment.buffers()
        for tensor in [*method.teacher.parameters(), *centres]:
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if isinstance(method, IBOT):
            centre = method.patch_assignment.centre
            centre += 0.1 * torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
