"""What a call of the library sets in its process, and puts back."""

from collections.abc import Iterator
from contextlib import contextmanager

LIMITS = (
    "recompile_limit",
    "cache_size_limit",
)  # of torch.compile, which timm raises on import; one setting, two names


@contextmanager
def global_state_restored() -> Iterator[None]:
    """Puts back on leaving: the generators of Python, numpy and torch, torch's threads, default type, choice of kernels
    and limits of torch.compile, levels of loggers, and environment variables.

    Inside, new tensors are float32 and gradients are computed, whatever the caller has set. Signal handlers are put
    back by those that set them.
    """
    import os
    import random

    # First, since the imports below change them too.
    environment, python = dict(os.environ), random.getstate()

    # Only here, since help needs none.
    import logging

    import numpy as np
    import torch
    import torch._dynamo.config as compiling

    limits = {name: getattr(compiling, name) for name in LIMITS if hasattr(compiling, name)}
    numpy = np.random.get_state()  # noqa: NPY002
    seed, torch_state, kind = torch.initial_seed(), torch.get_rng_state(), torch.get_default_dtype()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.benchmark, cudnn.deterministic
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    levels = {logger: logger.level for logger in (logging.root, *loggers)}
    try:
        torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # since then: as its first use would seed it
            torch.cuda.manual_seed_all(seed)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(kind)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        cudnn.benchmark, cudnn.deterministic = kernels
        for name, limit in limits.items():
            setattr(compiling, name, limit)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for logger, level in levels.items():
            if logger.level != level:
                logger.setLevel(level)
