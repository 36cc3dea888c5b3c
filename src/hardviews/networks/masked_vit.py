"""The tokens of a timm ViT, with some patches hidden behind a mask token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.networks.backbones import patch_size


def check_has_patches(backbone: nn.Module) -> None:
    """Raises InputError where a backbone has no patches to hide, or where they can't be told apart later."""
    wanted = ("patch_embed", "num_prefix_tokens", "forward_features")
    missing = [name for name in wanted if not hasattr(backbone, name)]
    if missing or patch_size(backbone) == 1:
        lacks = f": it lacks timm's {', '.join(missing)}" if missing else ""
        raise InputError(f"{type(backbone).__name__} has no patch tokens to mask{lacks}; take a plain ViT of timm's")
    if not isinstance(getattr(backbone, "patch_drop", None), nn.Identity | None):
        raise InputError("backbone.patch_drop_rate: masks need every patch in its place; leave it at 0")


def tokens(vit: nn.Module, images: Tensor, hidden: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
    """All tokens after the last norm, ``[N, prefix + patches, D]``.

    Args:
        vit: a timm model with ``patch_embed`` and ``forward_features``.
        images: ``[N, 3, h, w]``.
        hidden: bool ``[N, rows, columns]``; taken to these images' grid by nearest neighbour where that is another.
        mask_token: ``[D]``, what stands for hidden patches.
    """
    with _masked(vit, hidden, mask_token):
        found: Tensor = vit.forward_features(images)  # type: ignore[operator]
    return found


@contextmanager
def _masked(vit: nn.Module, hidden: Tensor | None, mask_token: Tensor | None) -> Iterator[None]:
    """Hides patches after their embedding and before their positions are added, as iBOT does; by a hook, so that every
    timm model of this kind will do."""
    if hidden is None or mask_token is None:
        yield
        return

    def hide(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
        flat = embedded.ndim == 3  # [N, patches, D], or [N, rows, columns, D] where sizes may vary
        grid = (int(embedded.shape[1] ** 0.5),) * 2 if flat else embedded.shape[1:3]
        mask = on_grid(hidden, grid)
        return torch.where((mask.flatten(1) if flat else mask)[..., None], mask_token.to(embedded.dtype), embedded)

    handle = vit.patch_embed.register_forward_hook(hide)  # type: ignore[union-attr]
    try:
        yield
    finally:
        handle.remove()


def on_grid(mask: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """A mask ``[N, rows, columns]`` on another grid, by nearest neighbour, which keeps its ratio."""
    if mask.shape[1:] == torch.Size(grid):
        return mask
    return F.interpolate(mask[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0].bool()
