"""``--batch-size auto``: a number for it, on which all processes agree."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from lightning_fabric import Fabric

from hardviews.commands.saying import say
from hardviews.errors import InputError
from hardviews.training.options import PretrainOptions
from hardviews.training.run_folder import RunFolder


def settle_batch_size(options: PretrainOptions) -> PretrainOptions:
    """The options with a number: of a run that goes on its own, else the largest that fits here.

    It is looked for by a process of its own, which gives its memory back.

    Args:
        options: settled, all but this.

    Raises:
        InputError: nothing fits, or there is no telling.
    """
    if options.batch_size != "auto":
        return options
    run = RunFolder(Path(options.out)) if options.out else None
    recorded = run.config().get("batch_size") if run and run.config_file.exists() else None
    if isinstance(recorded, int):
        return replace(options, batch_size=recorded)
    # Only here: it makes steps, for which it needs what needs this.
    from hardviews.commands.fitting import largest_that_fits

    say("batch-size: looking for the largest that fits")
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found, why = pool.submit(largest_that_fits, options).result()
    except BrokenProcessPool as error:
        raise InputError("batch-size: the process that looked for it was killed; give a number") from error
    say(f"batch-size: {found}: {why}")
    return replace(options, batch_size=found)


def agreed(fabric: Fabric, options: PretrainOptions) -> PretrainOptions:
    """The smallest of what the processes of a run found, each on its own device."""
    own = torch.tensor(options.images_per_step, device=fabric.device)
    smallest: torch.Tensor = fabric.all_reduce(own, reduce_op="min")  # type: ignore[assignment]
    return replace(options, batch_size=int(smallest))
