"""Early exit: candidates pass a part of the backbone, and a ridge regression predicts what the rest would yield.

Legend: N images, C channels after that part, D features of the whole backbone.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from hardviews.errors import InputError

# What is left of the moments after a step: they are about those of the last 20.
FORGETTING = 0.95
RIDGE = 1e-2  # penalty on standardised features, as a part of the moments' weight
STEPS = 20  # learned from before the first exit; until then candidates pass the whole backbone


class EarlyExit(nn.Module):
    """Lets candidates leave every backbone of a method after a part of its stages or blocks.

    The pooled output of that part, ``[N, C]``, is mapped linearly to the backbone's features ``[N, D]``; the method's
    heads and costs do the rest. The map is a ridge regression on line. It learns from the views that training sends
    through the whole backbone anyway, of all processes by one all-reduce per step. Nothing waits for the device.

    Its buffers and the number of steps it has learned from are all that it knows.

    Args:
        method: every submodule called ``backbone`` is one, the student's and the teacher's.
        depth: part of the stages or blocks, rounded up to whole ones.

    Raises:
        InputError: timm can't stop within this backbone, or has to pass it whole at this depth.
    """

    def __init__(self, method: nn.Module, depth: float) -> None:
        super().__init__()
        self.steps = 0
        self.ridges = nn.ModuleDict()
        self._parts: dict[str, Part] = {}
        for path, parent, backbone in backbones_of(method):
            name = path.replace(".", "_")
            self.ridges[name] = Ridge()
            self._parts[name] = Part(parent, backbone, depth)

    @property
    def ready(self) -> bool:
        """Whether enough was learned; known without asking the device."""
        return self.steps >= STEPS

    def exit_soon(self) -> None:
        """Exits after one step of learning: for those who time steps, and do not train."""
        self.steps = STEPS - 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context of a training forward, from which ``learn`` learns."""
        for part in self._parts.values():
            part.listens = True
        try:
            yield
        finally:
            for part in self._parts.values():
                part.listens = False

    @torch.no_grad()
    def learn(self, fabric: Fabric) -> None:
        """Adds what was heard to the moments."""
        heard = {name: part.heard() for name, part in self._parts.items()}
        found = {name: moments_of(*pair) for name, pair in heard.items() if pair is not None}
        packed = torch.cat([matrix.flatten() for matrix in found.values()])
        packed = fabric.all_reduce(packed, reduce_op="mean")  # type: ignore[assignment]
        parts = torch.split(packed, [matrix.numel() for matrix in found.values()])
        for (name, matrix), part in zip(found.items(), parts, strict=True):
            self.ridges[name].add(part.view_as(matrix))  # type: ignore[operator]
        self.steps += 1

    @contextmanager
    def exiting(self) -> Iterator[None]:
        """Context in which every backbone of the method stops early and predicts its features."""
        parts = self._parts if self.ready else {}
        for name, part in parts.items():
            part.parent.backbone = Shallow(part, *self.ridges[name].solved())  # type: ignore[operator]
        try:
            yield
        finally:
            for part in parts.values():
                part.parent.backbone = part.backbone

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state


class Part:
    """The first part of a backbone, up to one of the modules after which timm takes intermediate features."""

    def __init__(self, parent: nn.Module, backbone: nn.Module, depth: float) -> None:
        self.parent, self.backbone, self.listens = parent, backbone, False
        kind, stages = type(backbone).__name__, getattr(backbone, "feature_info", None)
        if not stages or not hasattr(backbone, "forward_intermediates"):
            raise InputError(f"score-depth: timm can't stop within {kind}; give 1, or a smaller --score-resolution")
        self.index = math.ceil(round(depth * len(stages), 6)) - 1  # 0.55 of 20 is 11
        if self.index == len(stages) - 1:
            most = 1 - 1 / len(stages)
            raise InputError(f"score-depth: {depth:g} leaves out none of the parts of {kind}; give at most {most:.3g}")
        self._caught: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        # They stay, since compiled modules may not notice hooks that come and go; compilers leave them as they are.
        last = backbone.get_submodule(stages[self.index]["module"])
        for module, hook in ((last, self._catch), (backbone, self._pair)):
            module.register_forward_hook(torch.compiler.disable(hook))  # type: ignore[no-untyped-call]

    def _catch(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.listens:
            self._caught = pooled(output.detach(), self.backbone)

    def _pair(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.listens and self._caught is not None:
            self._pairs.append((self._caught, output.detach()))
            self._caught = None

    def heard(self) -> tuple[Tensor, Tensor] | None:
        """Pooled outputs of the part and of the whole, ``[N, C]`` and ``[N, D]``, since this was last asked."""
        pairs, self._pairs = self._pairs, []
        if not pairs:
            return None
        inner, outer = zip(*pairs, strict=True)
        return torch.cat(inner), torch.cat(outer)

    def __call__(self, images: Tensor) -> Tensor:
        """The pooled output of the part, ``[N, C]``."""
        self.listens = True
        try:
            self.backbone.forward_intermediates(  # type: ignore[operator]
                images, indices=[self.index], stop_early=True, intermediates_only=True
            )
        finally:
            self.listens = False
        caught, self._caught = self._caught, None
        assert caught is not None
        return caught


class Shallow(nn.Module):
    """Takes the place of a backbone: its first part, and a linear map.

    Args:
        part: of the backbone.
        weight: ``[C, D]``.
        bias: ``[D]``.
    """

    def __init__(self, part: Part, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.part, self.weight, self.bias = part, weight, bias

    def forward(self, images: Tensor) -> Tensor:
        inner = self.part(images)
        with torch.autocast(inner.device.type, enabled=False):
            return inner @ self.weight + self.bias


class Ridge(nn.Module):
    """A ridge regression on line, of moments that forget.

    ``moments`` is the mean of (1, x) times (1, x, y), ``[1 + C, 1 + C + D]``, times the weight of what was seen.
    """

    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("moments", torch.zeros(0, 0))

    def add(self, found: Tensor) -> None:
        """Takes the moments of a step; not those that are not finite, which would spoil all that follow."""
        if not self.moments.numel():
            self.moments = torch.zeros_like(found)
        if self.moments.device != found.device:  # as loaded
            self.to(found.device)
        self.moments.lerp_(torch.where(found.isfinite().all(), found, self.moments), 1 - FORGETTING)

    def solved(self) -> tuple[Tensor, Tensor]:
        """Weight ``[C, D]`` and bias ``[D]``; a weight of 0 if nothing could be learned."""
        mean = self.moments / self.moments[0, 0].clamp_min(1e-12)
        count = len(mean)
        x, y = mean[0, 1:count], mean[0, count:]
        inner, outer = mean[1:, 1:count] - x[:, None] * x, mean[1:, count:] - x[:, None] * y
        # Standardised, so that the penalty is the same for all; channels that never vary get weight 0.
        scale = inner.diagonal().clamp_min(1e-12).sqrt()
        correlation = inner / (scale[:, None] * scale) + RIDGE * torch.eye(len(x), device=x.device)
        factor, failed = torch.linalg.cholesky_ex(correlation)  # which reads no error from the device
        solved = torch.cholesky_solve(outer / scale[:, None], factor) / scale[:, None]
        weight = torch.where(failed == 0, solved, 0.0)
        return weight, y - x @ weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes moments of any shape: those of a run that has not stepped yet are empty."""
        given = state_dict.get(prefix + "moments")
        if given is not None:
            self.moments = torch.zeros_like(given, device=self.moments.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def moments_of(x: Tensor, y: Tensor) -> Tensor:
    """The mean over N of (1, x) times (1, x, y), for x ``[N, C]`` and y ``[N, D]``."""
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        one = torch.cat([torch.ones_like(x[:, :1]), x], 1)
        return one.T @ torch.cat([one, y], 1) / len(x)


def pooled(output: Tensor, backbone: nn.Module) -> Tensor:
    """One vector per image, in float32: of a stage's feature map the means of its quarters and the deviation of every
    channel, of a block's tokens the first and the mean of the patches."""
    output = output.float()
    if output.ndim == 4:
        output = output.permute(0, 3, 1, 2) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output
        quarters = F.adaptive_avg_pool2d(output, 2).flatten(1)
        return torch.cat([quarters, output.var((2, 3), correction=0).sqrt()], 1)
    # Blocks add to what they get; the network's own last layer norms it.
    tokens, prefix = F.layer_norm(output, output.shape[-1:]), int(getattr(backbone, "num_prefix_tokens", 0))
    mean = tokens[:, prefix:].mean(1)
    return torch.cat([tokens[:, 0], mean], 1) if prefix else mean


def backbones_of(method: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """Path, parent and module of every backbone of a method."""
    found = [path for path, _ in method.named_modules() if path.rpartition(".")[2] == "backbone"]
    return [(p, method.get_submodule(p.rpartition(".")[0]), method.get_submodule(p)) for p in found]
