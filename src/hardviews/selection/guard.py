"""Runs a model and restores its state afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase  # pyright: ignore[reportPrivateUsage]


@contextmanager
def untouched(*roots: nn.Module) -> Iterator[None]:
    """Context in which modules may be called; on exit it restores them and all global random generators, bit for bit.

    Records no gradient. Every module is in eval mode, which turns off dropout, drop-path and anything else that reads
    the ``training`` flag. Norm layers that use batch statistics (in training mode) still do, without updating running
    statistics, so that views are scored as training will see them. The exit also restores after an exception: training
    flags of every module, buffers, and the CPU, CUDA, Python and numpy generators.

    The exit also clears autocast's cache. Some versions of torch reuse weights that were cast without gradient in the
    training forward within the same ``torch.autocast``, which then gets no gradient for them; 2.15 doesn't.

    Args:
        roots: the modules that are called inside, including their submodules.
    """
    modules = list({id(module): module for root in roots for module in root.modules()}.values())
    training = [module.training for module in modules]
    norms = [module for module in modules if isinstance(module, _NormBase) and module.training]
    tracking = [norm.track_running_stats for norm in norms]
    # A batch norm's forward obeys its flag; other modules' forwards might write any buffer (a queue, an instance
    # norm's).
    buffers = [
        (module, name, buffer, buffer.detach().clone(), write_count(buffer))
        for module in modules
        if not isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (others may use it)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            for module in modules:
                module.training = False  # not .eval(), because a module may override it to do more
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            yield
        finally:
            for module, was in zip(modules, training, strict=True):
                module.training = was
            for norm, was in zip(norms, tracking, strict=True):
                norm.track_running_stats = was
            for module, name, buffer, before, version in buffers:
                if write_count(buffer) != version:  # a needless write would invalidate graphs that saved the buffer
                    buffer.copy_(before)
                setattr(module, name, buffer)
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.clear_autocast_cache()


def write_count(buffer: Tensor) -> int:
    """How often a tensor was written to; 0 for inference tensors, which don't count writes and can't be written to
    here."""
    return 0 if buffer.is_inference() else buffer._version
