"""What a view changes in its channels one by one: gain, offset, gamma, and channels that are dropped. For any channels,
such as those of X-ray, CT and satellites, and the contrast and brightness of channels that are not RGB."""

from functools import lru_cache

import torch
from torch import Tensor

from hardviews.views.plan import ViewPlan

NEAR_FLOATS = 2**18  # on a CPU, numbers that are finished at a time: 1 MB, which stays in the cache


def draw_tone(plan: ViewPlan, generator: torch.Generator, start: int, batch: int, total: int) -> Tensor | None:
    """Draws for the global batch and takes a part of it, as ``draw`` does.

    Returns:
        float32 ``[V, B, C, 4]``: gain, offset, gamma, and 1 for channels that are dropped; None if no slot has any.
    """
    if not plan.tones:
        return None
    count = plan.channels
    uniform = torch.rand(plan.draw, 2 + 3 * count, total, generator=generator)[..., start : start + batch]
    applied, power, gain, offset, dropped = uniform.split_with_sizes((1, 1, count, count, count), 1)
    looks = [plan.slots[slot].photometric for slot in plan.slot_of()]

    def of_views(*numbers: float) -> Tensor:
        return torch.tensor(numbers).view(-1, 1, 1)

    low, high = of_views(*(max(0.0, 1 - x.gain) for x in looks)), of_views(*(1 + x.gain for x in looks))
    widest = of_views(*(1 + x.gamma for x in looks)).log()
    changed = applied < of_views(*(x.tone_p for x in looks))
    gain = torch.where(changed, low + (high - low) * gain, 1.0)
    offset = torch.where(changed, of_views(*(x.offset for x in looks)) * (2 * offset - 1), 0.0)
    gamma = torch.where(changed, (widest * (2 * power - 1)).exp(), 1.0).expand_as(gain)
    stays = dropped == dropped.amax(1, keepdim=True)
    gone = (dropped < of_views(*(x.drop_p for x in looks))) & ~stays
    return torch.stack([gain, offset, gamma, gone.float()], -1).transpose(1, 2).contiguous()


def channel_maps(jitter: Tensor, order: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness and contrast of channels that are not RGB, composed in the order drawn, without any clamp.

    Args:
        jitter: ``[N, 4]``: factors of brightness and contrast; the other two are for RGB.
        order: int64 ``[N, 4]``, the order in which the four are applied.
        mean: ``[N, C]``, of every channel of the view, which contrast blends it with, 0..1.

    Returns:
        Factors ``[N, C]`` and shifts ``[N, C]`` of values in 0..1.
    """
    scale, shift = torch.ones_like(mean), torch.zeros_like(mean)
    for step in torch.split(order, 1, 1):
        given = jitter.gather(1, step)
        factor = torch.where(step < 2, given, 1.0)
        blended = torch.where(step == 1, 1 - given, 0.0) * torch.addcmul(shift, scale, mean)
        scale, shift = scale * factor, torch.addcmul(blended, shift, factor)
    return scale, shift


def finish_channels(
    scale: Tensor, shift: Tensor, tone: Tensor | None, mean: tuple[float, ...], std: tuple[float, ...], pixels: Tensor
) -> None:
    """Applies factors and shifts, a clamp to 0..1, the tone and the normalisation, in place.

    Args:
        scale, shift: ``[V, B, C]``, of values in 0..1.
        tone: ``[V, B, C, 4]``, from ``draw_tone``; after a clamp of what comes before it.
        mean, std: of the normalisation, C numbers.
        pixels: ``[V, B, C, side, side]``, 0..255.
    """
    m, s, black, white = _columns(mean, std, pixels.device)
    flat = pixels.view(-1, len(mean), pixels.shape[-1] ** 2)
    step = max(NEAR_FLOATS // flat[0].numel(), 1) if pixels.device.type == "cpu" else len(flat)
    factor, added = (x.flatten(0, 1)[..., None] for x in (scale / 255, shift))
    if tone is None:  # the clamp is to the normalised 0 and 1
        factor, added = factor / s, (added - m) / s
    for start in range(0, len(flat), step):
        some = slice(start, start + step)
        part = flat[some]
        torch.addcmul(added[some], factor[some], part, out=part)
        if tone is None:
            torch.minimum(torch.maximum(part, black, out=part), white, out=part)
        else:
            part.copy_(toned(part.clamp_(0, 1), tone.flatten(0, 1)[some, :, None], m)).sub_(m).div_(s)


@lru_cache(maxsize=8)
def _columns(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, std, and the normalised 0 and 1, ``[C, 1]`` each. Cached: copying them would make a GPU wait."""
    with torch.inference_mode(False):
        m, s = torch.tensor(mean, device=device)[:, None], torch.tensor(std, device=device)[:, None]
        return m, s, -m / s, (1 - m) / s


def toned(values: Tensor, tone: Tensor, mean: Tensor) -> Tensor:
    """Values in 0..1 after gain, offset, a clamp, gamma and dropped channels.

    Args:
        values: ``[..., C, P]``.
        tone: ``[..., C, 1, 4]``.
        mean: ``[C, 1]``, in the place of channels that are dropped.
    """
    gain, offset, gamma, dropped = tone.unbind(-1)
    return torch.where(dropped > 0, mean, torch.addcmul(offset, values, gain).clamp_(0, 1).pow_(gamma))
