"""The largest batch that fits in memory, by trial steps."""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from math import inf
from typing import Any

import torch

from hardviews.commands.processes import started
from hardviews.commands.sampling import Sample, sampled
from hardviews.commands.saying import several
from hardviews.commands.settling import settle
from hardviews.commands.sources import open_training
from hardviews.commands.timing import AHEAD
from hardviews.commands.training_run import in_memory, uses_batch_statistics
from hardviews.commands.trials import Trials, grow, lone_fabric, trial_step
from hardviews.data.loading.in_memory import RESIDENT_BYTES, is_held
from hardviews.data.loading.loader import bounds_for
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError
from hardviews.methods.base import Method
from hardviews.training.memory import available, in_words
from hardviews.training.options import PretrainOptions

LARGEST = 4096  # images of a step; learning rates in proportion to more are not tried
# Of the memory that is to be had, what steps may take: measurements on the way, checkpoints and fragments need some.
PART = 0.8
SECONDS = 10.0  # of steps on a CPU; those of larger batches are judged by them
SAMPLE = 32  # pictures


def largest_that_fits(options: PretrainOptions) -> tuple[int, str]:
    """Images of a step, and why not more.

    Raises:
        InputError: not even the smallest batch fits.
    """
    devices, nodes = started(options.devices, options.nodes)
    with redirect_stderr(StringIO()):  # what it would say is said where the run is built
        source, _ = open_training(options)
        settled, method = settle(options, source)
    bounds = bounds_for(SAMPLE, settled.decode_size or 0, settled.max_batch_bytes)
    sample = sampled(source, bounds, SAMPLE, options.seed, SECONDS)
    fabric = lone_fabric(settled)
    on_cpu = fabric.device.type == "cpu"
    if not sample.pictures:
        raise InputError(f"batch-size: auto needs pictures, and none of {len(sample)} could be read; see --doctor")
    least = 2 if uses_batch_statistics(method) else 1
    shares = shares_of(min(LARGEST, len(source)), devices * nodes, options.accumulate, least)
    there = available(fabric.device, devices)
    most = round(PART * there) - kept_besides(settled, source, method, sample, fabric.device, devices * nodes)
    step = trial_step(replace(settled, batch_size=shares[-1]), method, fabric, steps_per_epoch=1000)
    trials = grow(step, sample, shares, SECONDS if on_cpu else inf, most)
    share = largest(shares, trials, most, AHEAD * options.workers * sample.mean_bytes() if on_cpu else 0)
    why = f"a process's step then holds about {in_words(trials.memory(share))} of the {in_words(there)} that are free"
    return share * devices * nodes, why


def shares_of(images: int, processes: int, parts: int, least: int) -> list[int]:
    """What may be a process's share of a batch of at most so many images: doubling, no part of it below ``least``."""
    shares = [least * parts]
    while 2 * shares[-1] * processes <= images:
        shares.append(2 * shares[-1])
    return shares


def kept_besides(
    options: PretrainOptions,
    source: ImageSource | Stream,
    method: Method[Any],
    sample: Sample,
    device: torch.device,
    processes: int,
) -> int:
    """Bytes that a run holds whatever its batch, and trial steps don't."""
    kept = 0
    if processes > 1:  # the buckets in which gradients are exchanged
        kept += 4 * sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    if not isinstance(source, Stream) and is_held(source, in_memory(options)):
        whole = len(source) * sample.mean_bytes()
        kept += whole if device.type == "cpu" or whole <= RESIDENT_BYTES else 0
    return kept


def largest(shares: list[int], trials: Trials, most: int, waiting: int = 0) -> int:
    """The largest share whose step is known, or predicted, to take at most so many bytes.

    Args:
        shares: ascending.
        trials: of some of them.
        most: bytes.
        waiting: bytes of every image of a batch besides, in the batches that workers hold ready.

    Raises:
        InputError: none is.
    """
    end = trials.too_large or inf
    fitting = [s for s in shares if s < end and trials.taken and trials.memory(s) + waiting * s <= most]
    if not fitting:
        raise InputError(
            f"batch-size: there is no room for {several(shares[0], 'image')} in {in_words(most)}; give a smaller "
            "image-size or backbone, fewer views or a smaller score-resolution"
        )
    return fitting[-1]
