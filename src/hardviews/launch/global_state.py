"""What a call of the library sets in its process, and puts back."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def global_state_restored() -> Iterator[None]:
    """Puts back on leaving: the generators of Python, numpy and torch, torch's threads and choice of kernels, levels of
    loggers, and environment variables.

    Signal handlers are put back by those that set them.
    """
    # Only here, since help needs neither.
    import logging
    import os
    import random

    import numpy as np
    import torch

    generators = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed, torch_state = torch.initial_seed(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.benchmark, cudnn.deterministic
    environment = dict(os.environ)
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    levels = {logger: logger.level for logger in (logging.root, *loggers)}
    try:
        yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # since then: as its first use would seed it
            torch.cuda.manual_seed_all(seed)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        cudnn.benchmark, cudnn.deterministic = kernels
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for logger, level in levels.items():
            if logger.level != level:
                logger.setLevel(level)
