"""A CUDA device that is not there: what runs on it, what waits for it, and how many kernels it would launch.

Tensors on the CPU are real. Whatever touches ``cuda`` is fake: it has a shape, a dtype and a device, and no content.
So code for a GPU runs on any machine, as far as nothing depends on values.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
FAKE = FakeTensorMode(allow_non_fake_inputs=False)  # one for all: hardviews keeps small constants on the device
FakeTensorMode.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]  # copied networks stay of it
PAGEABLE = 1 << 16  # bytes up to which CUDA copies from ordinary memory without waiting

COPIES = (aten._to_copy.default, aten.copy_.default, aten.copy.default)
READS = {
    aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default,
    aten.nonzero.default, aten.masked_select.default, aten.unique_consecutive.default, aten._unique2.default,
    aten.unique_dim.default, aten.bincount.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
# Operations that have no deterministic kernel on CUDA (documentation of torch.use_deterministic_algorithms), of those
# that networks here could meet.
UNREPEATABLE = {
    "_upsample_bicubic2d_aa_backward", "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward", "upsample_nearest2d_backward", "_adaptive_avg_pool2d_backward",
    "reflection_pad2d_backward", "grid_sampler_2d_backward", "nll_loss2d_forward", "histc", "kthvalue", "median",
}  # fmt: skip
# What launches no kernel: memory is taken, or a tensor is looked at otherwise.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view", "set_"}


@dataclass
class Findings:
    """What was seen since the last ``clear``.

    Args:
        waits: reads of the device and copies that wait for it, with the lines that led there, and how often.
        unrepeatable: operations without a deterministic kernel.
        launches: kernels, by operation and the innermost lines that led there.
    """

    waits: Counter[str] = field(default_factory=Counter)
    unrepeatable: Counter[str] = field(default_factory=Counter)
    launches: Counter[tuple[str, str]] = field(default_factory=Counter)

    def clear(self) -> None:
        for counter in (self.waits, self.unrepeatable, self.launches):
            counter.clear()


class FakeCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, and within ``pretending``, ``cuda`` is a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Findings()
        self._pinned: list[Tensor] = []  # kept, so that no other tensor takes an identity

    def __enter__(self) -> Any:
        # Or constants that are made within an operation on the device would be fake, on the CPU.
        self._lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lift)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        fakes = [x for x in leaves if isinstance(x, FakeTensor)]
        if not fakes and not any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves):
            return func(*args, **kwargs)  # real, on the CPU
        self._judge(func, args, kwargs, [x for x in fakes if x.is_cuda])
        if func is aten._local_scalar_dense.default:  # nobody knows; checks for finite numbers are content
            return True if fakes[0].dtype == torch.bool else 1.0 if fakes[0].is_floating_point() else 1
        if "_fused_" in str(func) and str(func).endswith("_.default"):  # in place; SGD's has no fake kernel
            devices = {x.device.type for x in leaves if isinstance(x, Tensor) and x.dim()}
            if devices != {"cuda"}:
                raise RuntimeError(f"{func}: tensors on {devices}")
            return None
        fake = tree_map_only(Tensor, lambda x: x if isinstance(x, FakeTensor) else FAKE.from_tensor(x), (args, kwargs))
        with FAKE:
            return func(*fake[0], **fake[1])

    def _judge(self, func: Any, args: Any, kwargs: Any, there: list[Tensor]) -> None:
        name = str(func).removeprefix("aten.")
        if not is_free(func):
            self.found.launches[name.partition(".")[0], where(1)] += 1
        if name.partition(".")[0] in UNREPEATABLE and there:
            self.found.unrepeatable[name.partition(".")[0]] += 1
        if func in READS and there:
            self._waits(f"reads {name}")
        if name in ("index.Tensor", "index_put_.default", "index_put.default") and any(
            i is not None and i.is_cuda and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            self._waits("reads a boolean index")
        if name.startswith("index_put") and not args[2].dim() and args[0].is_cuda:
            self._waits("copies to the device the number that is set by index")  # in C++, where it can't be seen
        if func in COPIES:
            self._judge_copy(func, args, kwargs)

    def _judge_copy(self, func: Any, args: Any, kwargs: Any) -> None:
        if func is aten._to_copy.default:
            given, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            waits = not kwargs.get("non_blocking", False)
        else:
            given, target, waits = args[1], args[0].device, not (len(args) > 2 and args[2])
        if given.device.type == target.type:
            return
        if target.type == "cpu":
            if waits:
                self._waits("copies to the host")
            elif func is aten._to_copy.default:
                self._waits("copies to the host without waiting, so that what is read may not be there yet")
        elif waits and (given.dim() or func is aten._to_copy.default):  # fills from a number do not
            self._waits("copies to the device")
        elif given.nbytes > PAGEABLE and not any(given is x for x in self._pinned):
            self._waits(f"copies more than {PAGEABLE >> 10} KiB of pageable memory")

    def _waits(self, what: str) -> None:
        self.found.waits[f"{what}: {where(8)}"] += 1

    def pin_memory(self, given: Tensor, device: Any = None) -> Tensor:
        """As CUDA does: a copy of the same strides, which overlapping memory has no room for."""
        elements = (
            1 + sum((n - 1) * s for n, s in zip(given.shape, given.stride(), strict=True)) if given.numel() else 0
        )
        storage = torch.UntypedStorage(elements * given.element_size())  # type: ignore[no-untyped-call]
        pinned = torch.empty(0, dtype=given.dtype).set_(storage, 0, given.shape, given.stride())
        self._pinned.append(pinned.copy_(given))
        return pinned


def is_free(func: Any) -> bool:
    """Whether an operation launches no kernel."""
    name = func.__name__.partition(".")[0]
    views = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
    return name in FREE or (views and not name.endswith("_"))


def where(lines: int) -> str:
    """The innermost lines of hardviews (or timm) that led here, the innermost first."""
    places: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(places) < lines:
        file = frame.f_code.co_filename
        if "/hardviews/" in file or "/timm/" in file:
            places.append(f"{file.rpartition('/site-packages/')[2].rpartition('/src/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(places)


@contextlib.contextmanager
def pretending() -> Iterator[FakeCuda]:
    """CUDA's autocast and scaler are on offer, memory can be pinned, and backward needs no context of the driver. Enter
    the mode that this yields around what is to be judged, not around what is built on the CPU."""
    mode = FakeCuda()
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing
    with contextlib.ExitStack() as patches:
        for target, name, new in (
            (Tensor, "pin_memory", lambda given, device=None: mode.pin_memory(given, device)),
            (Tensor, "backward", lambda loss, *_, **__: backward(loss)),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "device_count", lambda: 0),  # each fake tensor asks, and the answer takes long
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8)),
            (torch.cuda, "set_rng_state", lambda *_: None),
            (torch.cuda, "manual_seed", lambda *_: None),
        ):
            patches.enter_context(patch.object(target, name, new))
        yield mode


def onto_cuda(module: nn.Module) -> Any:
    """The module with its parameters and buffers fake, on ``cuda``; what is shared stays shared."""
    memo: dict[int, Tensor] = {}

    def moved(x: Tensor) -> Tensor:
        if id(x) not in memo:
            here: Tensor = FAKE.from_tensor(x.detach())
            with FAKE:
                there = here.to(CUDA)
            memo[id(x)] = nn.Parameter(there, x.requires_grad) if isinstance(x, nn.Parameter) else there
        return memo[id(x)]

    for part in module.modules():
        kinds: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in kinds:
            tensors.update({name: moved(x) for name, x in tensors.items() if x is not None})
    return module


def backward(loss: Tensor) -> None:
    """As ``loss.backward()``, node by node: torch's engine asks the driver for contexts, which are not there."""
    waiting: Counter[Any] = Counter()
    stack, seen = [loss.grad_fn], {loss.grad_fn}
    while stack:
        for following, _ in stack.pop().next_functions:  # type: ignore[union-attr]
            if following is not None:
                waiting[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    given: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready: list[Any] = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            grads = given.pop(node, {})
            if is_leaf(node):
                if 0 in grads:
                    accumulate(node.variable, grads[0])
                continue
            made = node(*(grads.get(k) for k in range(len(node._input_metadata)))) if grads else None
            made = made if isinstance(made, tuple) else (made,) * len(node.next_functions)
            for (following, place), grad in zip(node.next_functions, made, strict=False):
                if following is None:
                    continue
                if grad is not None:
                    like = following.variable if is_leaf(following) else following._input_metadata[place]
                    grad = grad.sum_to_size(tuple(like.shape)) if grad.shape != tuple(like.shape) else grad
                    before = given.setdefault(following, {}).get(place)
                    given[following][place] = grad.to(like.dtype) if before is None else before + grad.to(like.dtype)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def is_leaf(node: Any) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def accumulate(variable: Tensor, grad: Tensor) -> None:
    if grad.device != variable.device:
        raise RuntimeError(f"a gradient on {grad.device} of a parameter on {variable.device}")
    variable.grad = grad if variable.grad is None else variable.grad + grad


class Fabric:
    """What ``Step`` and ``Scorer`` need of lightning's, for one process on ``cuda``.

    Args:
        precision: ``bf16-mixed``, ``16-mixed`` (with a scaler) or ``32-true``.
    """

    device, global_rank, world_size = CUDA, 0, 1

    def __init__(self, precision: str) -> None:
        self.dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        self.scaler = torch.amp.GradScaler("cuda") if precision == "16-mixed" else None
        self.strategy = SimpleNamespace(precision=SimpleNamespace(scaler=self.scaler))

    def autocast(self) -> Any:
        return torch.autocast("cuda", dtype=self.dtype) if self.dtype else contextlib.nullcontext()

    def setup(self, method: nn.Module, optimizer: Any) -> tuple[Callable[..., Any], Any]:
        def network(*args: Any, **kwargs: Any) -> Any:
            with self.autocast():
                encoding = method(*args, **kwargs)
            return type(encoding)(*(x.float() if x.is_floating_point() else x for x in encoding))

        return network, SimpleNamespace(
            optimizer=optimizer, zero_grad=optimizer.zero_grad, param_groups=optimizer.param_groups
        )

    def no_backward_sync(self, network: Any, enabled: bool) -> Any:
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        backward(loss if self.scaler is None else self.scaler.scale(loss))

    def all_reduce(self, x: Tensor, reduce_op: str) -> Tensor:
        return x
