"""What a run's backbone makes of some pictures, before and after training: features, and a ViT's attention."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hardviews.data.sources import ImageSource
from hardviews.data.sources.subset import Subset
from hardviews.evaluation.features import Preprocessing, encoded, evaluating
from hardviews.models.load import run_subject
from hardviews.models.untrained import untrained_backbone
from hardviews.runs.pictures import name_of
from hardviews.telemetry.reading import Array
from hardviews.telemetry.shown import Channels, shown_channels
from hardviews.views.streams import stream

if TYPE_CHECKING:  # this needs the extra
    from hardviews.analysis.embedding import Inspection

MOST, LEAST, BATCH = 400, 96, 32  # pictures, and how many at once
SECONDS = 8.0  # that a backbone may take, as far as LEAST pictures allow
ATTENDED = 4  # pictures with attention maps
STORED = 160  # side of a stored picture in pixels


def inspect(folder: Path, config: Mapping[str, Any], source: ImageSource | str) -> "Inspection | str":
    """Encodes some of a run's training pictures by its backbone, trained and as it was before.

    Args:
        folder: of the run.
        config: its ``config.yaml``.
        source: its training pictures; or, as text, why there are none.

    Returns:
        What was found; or, as text, why nothing was: a report is made without it.
    """
    from hardviews.analysis.embedding import Inspection

    if isinstance(source, str):
        return source
    try:
        subject = run_subject(folder)
        ready = subject.preprocessing
        order = torch.randperm(len(source), generator=stream(0, "inspect"))[:MOST]
        channels = shown_channels(ready.form, config.get("show_channels"))
        after = _encode(subject.backbone, Subset(source, order), ready, channels, LEAST)
        if len(after.rows) < 2:
            return "fewer than two pictures can be read"
        order = order[torch.from_numpy(after.rows)]
        before, untrained, notes = None, None, []
        try:
            untrained = untrained_backbone(config)
            before = _encode(untrained, Subset(source, order), ready, channels, len(order)).vectors
        except Exception as error:  # of weights that are gone, or code of the user's own
            notes.append(f"The untrained backbone could not be made again: {_line(error)}.")
        attended_before = None if untrained is None else attention_of(untrained, after.inputs)
        attended = attention_of(subject.backbone, after.inputs)
        if attended is None and hasattr(subject.backbone, "blocks"):
            notes.append("No attention maps: they are drawn for Vision Transformers of timm only.")
        return Inspection(
            names=[name_of(source, index) for index in order.tolist()],
            labels=None if source.labels is None else source.labels[order].numpy(),
            class_names=source.class_names,
            pictures=after.pictures,
            before=before,
            after=after.vectors,
            attention_before=attended_before,
            attention_after=attended,
            of=len(source),
            notes=notes,
        )
    except Exception as error:  # as above: a report without these figures is better than none
        return _line(error)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


class _Encoded(NamedTuple):
    """Rows of the readable pictures ``[n]``, their features ``[n, D]``, the pictures as the network gets them, and the
    first few as it gets them, ``[ATTENDED, C, S, S]``."""

    rows: Array
    vectors: Array
    pictures: list[Image.Image]
    inputs: Tensor


def _encode(backbone: nn.Module, source: Subset, ready: Preprocessing, channels: Channels, least: int) -> _Encoded:
    """Of all pictures, or as many as ``SECONDS`` allow, but at least ``least``."""
    began, rows, vectors = time.monotonic(), [np.zeros(0, np.int64)], []
    pictures: list[Image.Image] = []
    inputs = torch.zeros(0)
    for batch in encoded(backbone, source, ready, batch_size=BATCH):
        if not pictures:
            inputs = batch.images[:ATTENDED]
        rows.append(batch.ids.numpy())
        vectors.append(batch.vectors.numpy())
        pictures += [_picture(one, ready, channels) for one in batch.images.numpy()]
        if time.monotonic() - began > SECONDS and len(pictures) >= least:
            break
    return _Encoded(np.concatenate(rows), np.concatenate(vectors or [np.zeros((0, 1))]), pictures, inputs)


def _picture(given: Array, ready: Preprocessing, channels: Channels) -> Image.Image:
    """The network's input ``[C, S, S]`` as a picture."""
    mean, std = (np.array(numbers)[:, None, None] for numbers in (ready.mean, ready.std))
    values = (given * std + mean)[list(channels)].clip(0, 1)
    small = Image.fromarray((255 * values).round().astype(np.uint8).transpose(1, 2, 0))
    small.thumbnail((STORED, STORED))
    return small


def attention_of(backbone: nn.Module, images: Tensor) -> Array | None:
    """Where a ViT's last block looks: attention of the class token to the patches, mean over heads (without a class
    token: of all patches).

    Args:
        backbone: a network; it is left as it was.
        images: its input, float32 ``[B, C, S, S]``.

    Returns:
        ``[B, rows, columns]``, each map with sum 1; None if the backbone is no Vision Transformer of timm.
    """
    blocks, embed = getattr(backbone, "blocks", None), getattr(backbone, "patch_embed", None)
    attention: Any = getattr(blocks[-1], "attn", None) if isinstance(blocks, nn.Sequential) and len(blocks) else None
    dropout = getattr(attention, "attn_drop", None)
    if embed is None or not isinstance(dropout, nn.Module) or not hasattr(attention, "fused_attn"):
        return None
    seen: list[Tensor] = []
    hook = dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    fused, attention.fused_attn = attention.fused_attn, False  # the fused kernel keeps no weights
    try:
        with evaluating(backbone), torch.no_grad():
            backbone(images)
    finally:
        attention.fused_attn = fused
        hook.remove()
    prefix = int(getattr(backbone, "num_prefix_tokens", 0))
    if len(seen) != 1 or seen[0].ndim != 4:
        return None
    weights = seen[0].float().mean(1)  # [B, tokens, tokens]
    own = weights[:, 0, prefix:] if prefix else weights.mean(1)
    size = images.shape[-1] // int(embed.patch_size[0])
    if own.shape[1] != size * size:  # windows, or another grid
        return None
    maps: Array = (own / own.sum(1, keepdim=True)).reshape(-1, size, size).numpy()
    return maps
