"""Running a model without leaving a trace in it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase  # pyright: ignore[reportPrivateUsage]


@contextmanager
def untouched(*roots: nn.Module) -> Iterator[None]:
    """Within it, modules may be called; after it, they and every global random generator are as they were, bit for bit.

    No gradient is recorded. Every module is in eval mode, so that dropout, drop-path and whatever else reads its
    ``training`` flag is off; but a norm layer on batch statistics (in training mode) stays on batch statistics, without
    tracking them, so that views are judged as training will see them. Restored also when the body raises: training
    flags of every module, buffers, the CPU and CUDA generators, Python's and numpy's.

    Autocast caches the weights it casts. Cast without gradient, they would serve the training forward within the same
    ``torch.autocast`` and silently leave the weights without gradients, in versions of torch whose cache does not heed
    the difference (2.15 does); so the cache is emptied.

    Args:
        roots: the modules that are called inside, with all they contain.
    """
    modules = list({id(module): module for root in roots for module in root.modules()}.values())
    training = [module.training for module in modules]
    norms = [module for module in modules if isinstance(module, _NormBase) and module.training]
    tracking = [norm.track_running_stats for norm in norms]
    # Batch norms heed their flag; any other buffer (a queue, an instance norm's) might be written by its forward.
    buffers = [
        (module, name, buffer, buffer.detach().clone(), version_of(buffer))
        for module in modules
        if not isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (others may use it)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            for module in modules:
                module.training = False  # not .eval(), which a module may override to do more than that
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            yield
        finally:
            for module, was in zip(modules, training, strict=True):
                module.training = was
            for norm, was in zip(norms, tracking, strict=True):
                norm.track_running_stats = was
            for module, name, buffer, before, version in buffers:
                if version_of(buffer) != version:  # only then: a write would spoil graphs that have saved the buffer
                    buffer.copy_(before)
                setattr(module, name, buffer)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.clear_autocast_cache()


def version_of(buffer: Tensor) -> int:
    """How often a tensor was written to; inference tensors don't count, nor can they be written to here."""
    return 0 if buffer.is_inference() else buffer._version
