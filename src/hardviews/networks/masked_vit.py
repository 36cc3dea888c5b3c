"""Tokens of a timm ViT with some patches replaced by a mask token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.networks.backbones import patch_size


def check_has_patches(backbone: nn.Module) -> None:
    """Raises InputError if a backbone has no patches to hide, or drops some of them."""
    wanted = ("patch_embed", "num_prefix_tokens", "forward_features")
    missing = [name for name in wanted if not hasattr(backbone, name)]
    if missing or patch_size(backbone) == 1:
        lacks = f": it lacks timm's {', '.join(missing)}" if missing else ""
        raise InputError(f"{type(backbone).__name__} has no patch tokens to mask{lacks}; use a plain timm ViT")
    if not isinstance(getattr(backbone, "patch_drop", None), nn.Identity | None):
        raise InputError("backbone.patch_drop_rate: masks need all patches in place; leave it at 0")


def tokens(vit: nn.Module, images: Tensor, hidden: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
    """All tokens after the last norm, ``[N, prefix + patches, D]``.

    Args:
        vit: a timm model with ``patch_embed`` and ``forward_features``.
        images: ``[N, C, h, w]``.
        hidden: bool ``[N, rows, columns]``; resampled to these images' grid by nearest neighbour if necessary.
        mask_token: ``[D]``, replaces hidden patches.
    """
    with _masked(vit, hidden, mask_token):
        found: Tensor = vit.forward_features(images)  # type: ignore[operator]
    return found


@contextmanager
def _masked(vit: nn.Module, hidden: Tensor | None, mask_token: Tensor | None) -> Iterator[None]:
    """Hides patches after their embedding, before position embeddings are added, as iBOT does. Uses a hook, so that it
    works for every timm model of this kind."""
    if hidden is None or mask_token is None:
        yield
        return

    def hide(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        flat = embedded.ndim == 3  # [N, patches, D], or [N, rows, columns, D] for models with variable sizes
        grid = (int(embedded.shape[1] ** 0.5),) * 2 if flat else embedded.shape[1:3]
        mask = resample_mask(hidden, grid)
        return torch.where((mask.flatten(1) if flat else mask)[..., None], mask_token.to(embedded.dtype), embedded)

    handle = vit.patch_embed.register_forward_hook(hide)  # type: ignore[union-attr]
    try:
        yield
    finally:
        handle.remove()


def resample_mask(mask: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Resamples a mask ``[N, rows, columns]`` to another grid by nearest neighbour, which preserves its ratio."""
    if mask.shape[1:] == torch.Size(grid):
        return mask
    return F.interpolate(mask[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0].bool()
