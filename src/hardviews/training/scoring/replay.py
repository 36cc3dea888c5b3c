"""Training without a second forward of the backbone: takes what scoring has computed for the kept views.

While scoring encodes all candidates, ``Replay`` keeps the results of the operations in ``ROWS``. When training encodes
the kept views, torch builds its usual graph, but these operations copy the kept rows of their earlier results instead
of computing them. So their derivatives are torch's own. Extends torch as its notes describe
(https://docs.pytorch.org/docs/stable/notes/extending.html, "Extending torch native API").
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.utils._python_dispatch import TorchDispatchMode

from hardviews.errors import InputError
from hardviews.selection.guard import untouched
from hardviews.views.plan import Slot, ViewPlan, size_at

aten = torch.ops.aten
# Operations whose results are kept: which argument has rows of every image, and how many of the results have. All
# others are cheaper, and run again for the kept views.
ROWS: dict[Any, tuple[int, int]] = {
    aten.mm.default: (0, 1),
    aten.addmm.default: (1, 1),
    aten.bmm.default: (0, 1),
    aten.convolution.default: (0, 1),
    aten._scaled_dot_product_flash_attention_for_cpu.default: (0, 2),
    aten._scaled_dot_product_flash_attention.default: (0, 2),
    aten._scaled_dot_product_efficient_attention.default: (0, 2),
    aten._scaled_dot_product_cudnn_attention.default: (0, 2),
}


Forward = Callable[[Tensor], Tensor]


class Result(NamedTuple):
    operation: Any
    rows: int  # of the argument
    values: tuple[Any, ...]


class Call(NamedTuple):
    images: int
    results: deque[Result]


class Replay:
    """Keeps a backbone's activations of the candidates for training on some of them.

    Args:
        backbone: has no layer that mixes images or draws random numbers; ``check_replay`` refuses others.
        plan: of the views.
    """

    def __init__(self, backbone: nn.Module, plan: ViewPlan) -> None:
        self.backbone, self.plan = backbone, plan
        self.calls: deque[Call] = deque()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Context in which the backbone encodes all candidates, slot by slot, whole slots at a time."""
        self.calls.clear()

        def record(forward: Forward, images: Tensor) -> Tensor:
            self.calls.append(Call(len(images), deque()))
            # With gradient, so that torch takes the operations that it will take in training; what their backward would
            # need is replaced by nothing.
            nothing = images.new_empty(0)
            with torch.enable_grad(), saved_tensors_hooks(lambda _: nothing, lambda x: x), _Record(self.calls[-1]):
                return forward(images).detach()

        with _replaced(self.backbone, record):
            yield

    @contextmanager
    def replayed(self, ids: Tensor) -> Iterator[None]:
        """Context in which the backbone encodes the kept views; if nothing was recorded, as usual.

        Args:
            ids: int64 ``[K, B]``, the kept candidates.

        Raises:
            InputError: the backbone is called in another way than for the candidates.
        """
        if not self.calls:
            yield
            return
        slots = iter(self.plan.slots)
        drawn = kept = 0

        def replay(forward: Forward, images: Tensor) -> Tensor:
            nonlocal drawn, kept
            call = self.calls.popleft()
            first, row = drawn, kept
            while (drawn - first) * ids.shape[1] < call.images:
                slot = next(slots)
                drawn, kept = drawn + slot.draw, kept + slot.keep
            if ((drawn - first) * ids.shape[1], (kept - row) * ids.shape[1]) != (call.images, len(images)):
                raise InputError("score-once: this method encodes views one by one; give --score-once false")
            image = torch.arange(ids.shape[1], device=ids.device)
            index = ((ids[row:kept] - first) * ids.shape[1] + image).flatten()
            with _Replay(call, index):
                return forward(images)

        try:
            with _replaced(self.backbone, replay):
                yield
        finally:
            self.calls.clear()


def check_replay(backbone: nn.Module, plan: ViewPlan) -> None:
    """Compares outputs and gradients with those of a second forward, on three random pictures of every view size.

    Raises:
        InputError: they differ, or the backbone mixes images or draws random numbers in training.
    """
    for name, module in backbone.named_modules():
        if isinstance(module, _NormBase) and module.training:
            raise InputError(f"score-once: the BN of this backbone ({name}) uses statistics of a batch; give false")
        rates = (getattr(module, rate, 0) for rate in ("p", "prob", "drop_prob"))
        if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
            raise InputError(
                f"score-once: {name} of this backbone drops at random in training, but not in scoring; "
                "give its rate (such as backbone.drop_path_rate) as 0, or --score-once false"
            )
    generator = torch.Generator().manual_seed(0)
    device = next(backbone.parameters()).device
    for size in sorted({size_at(plan, slot) for slot in plan.slots}):
        images = torch.rand(3, 3, size, size, generator=generator).to(device)
        ids = torch.tensor([[0], [2]], device=device)
        replay = Replay(backbone, ViewPlan((Slot(draw=3, keep=2),)))
        with untouched(backbone), replay.recorded():
            backbone(images)
        with replay.replayed(ids):
            found = _gradients(backbone, images[ids[:, 0]])
        expected = _gradients(backbone, images[ids[:, 0]])
        most = max(float(x.abs().max()) for x in expected)
        for x, y in zip(found, expected, strict=True):
            if not float((x - y).abs().max()) <= 1e-3 * max(float(y.abs().max()), 1e-3 * most):
                raise InputError(
                    f"score-once: {type(backbone).__name__} mixes images or changes results in place; give false"
                )


def _gradients(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """A backbone's output, and gradients of a sum of it with different weights."""
    with torch.enable_grad():
        found = backbone(images)
        weights = torch.linspace(-1, 1, found.numel(), device=found.device).view_as(found)
        trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad((found * weights).sum(), trained, allow_unused=True)
    return [found.detach(), *(gradient for gradient in gradients if gradient is not None)]


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, call: Call) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.call = call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in ROWS:
            values = found if isinstance(found, tuple) else (found,)
            detached = tuple(value.detach() if isinstance(value, Tensor) else value for value in values)
            self.call.results.append(Result(func, args[ROWS[func][0]].shape[0], detached))
        return found


class _Replay(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, call: Call, index: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.call, self.index = call, index

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in ROWS:
            return func(*args, **(kwargs or {}))
        argument, count = ROWS[func]
        rows, results = args[argument].shape[0], self.call.results
        known = results.popleft() if results else None
        if known is None or known.operation is not func:
            raise InputError("score-once: this backbone computes other things in training; give --score-once false")
        if rows * self.call.images != known.rows * len(self.index):  # nothing of images, such as positions
            return func(*args, **(kwargs or {}))
        values = [*(_take(x, self.call.images, self.index) for x in known.values[:count]), *known.values[count:]]
        return values[0] if len(values) == 1 else tuple(values)


def _take(x: Tensor, images: int, index: Tensor) -> Tensor:
    """Copies the rows of some images, in the same memory order, since the next operation would copy them otherwise."""
    strides = x.stride()
    order = [0, *sorted(range(1, x.dim()), key=lambda dim: -strides[dim])]
    back = sorted(range(x.dim()), key=lambda dim: order[dim])
    parts = x.permute(order)
    parts = parts.view(images, len(x) // images, *parts.shape[1:])
    return parts.index_select(0, index).flatten(0, 1).permute(back)


@contextmanager
def _replaced(backbone: nn.Module, call: Callable[[Forward, Tensor], Tensor]) -> Iterator[None]:
    """Context in which a backbone's ``forward_features``, which iBOT calls itself, or else ``forward``, goes through
    another function."""
    name = "forward_features" if hasattr(backbone, "forward_features") else "forward"
    before, own = getattr(backbone, name), vars(backbone).get(name)
    setattr(backbone, name, lambda images, *rest, **named: call(lambda x: before(x, *rest, **named), images))
    try:
        yield
    finally:
        delattr(backbone, name)
        if own is not None:
            setattr(backbone, name, own)
