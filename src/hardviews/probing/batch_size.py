"""``--batch-size auto``: the largest batch that fits in memory, found by probe steps."""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from hardviews.console import say
from hardviews.data.loading.in_memory import RESIDENT_BYTES, is_held
from hardviews.data.reading.decode import bounds_for
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError
from hardviews.launch.environment import started
from hardviews.launch.own_process import ProcessKilledError, in_own_process
from hardviews.methods.base import Method
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.sample import DecodedSample, sampled
from hardviews.probing.step_time import AHEAD
from hardviews.probing.steps import ProbeSteps, grow, lone_fabric, probe_step
from hardviews.setup.data import in_memory, open_training
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.pixels import pixels_of
from hardviews.setup.step import uses_batch_statistics
from hardviews.training.memory import available, format_bytes
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import Pixels
from hardviews.wording import several

LARGEST = 4096  # images of a step; learning rates in proportion to more are not tried
# Part of the available memory that steps may take; evaluation, checkpoints and fragmentation need the rest.
PART = 0.8
SECONDS = 10.0  # of probe steps on a CPU; larger batches are extrapolated
SAMPLE = 32  # pictures


def resolve_batch_size(options: PretrainOptions) -> PretrainOptions:
    """The options with a number for ``batch_size``: that of the run if it resumes, else the largest that fits.

    A child process looks for it, so that its memory is freed.

    Args:
        options: resolved, except ``batch_size``.

    Raises:
        InputError: nothing fits, or there is no telling.
    """
    if options.batch_size != "auto":
        return options
    run = RunFolder(Path(options.out)) if options.out else None
    recorded = run.config().get("batch_size") if run and run.config_file.exists() else None
    if isinstance(recorded, int):
        return replace(options, batch_size=recorded)
    say("batch-size: looking for the largest that fits")
    try:
        found, why = in_own_process(largest_that_fits, options)
    except ProcessKilledError as error:
        raise InputError("batch-size: the process that looked for it was killed; give a number") from error
    say(f"batch-size: {found}: {why}")
    return replace(options, batch_size=found)


def agree_on_batch_size(fabric: Fabric, options: PretrainOptions) -> PretrainOptions:
    """The smallest batch size that any process found on its device."""
    own = torch.tensor(options.images_per_step, device=fabric.device)
    smallest: torch.Tensor = fabric.all_reduce(own, reduce_op="min")  # type: ignore[assignment]
    return replace(options, batch_size=int(smallest))


def largest_that_fits(options: PretrainOptions) -> tuple[int, str]:
    """Images of a step, and why not more.

    Raises:
        InputError: not even the smallest batch fits.
    """
    devices, nodes = started(options.devices, options.nodes)
    with redirect_stderr(StringIO()):  # its messages are printed when the run is built
        source, _ = open_training(options)
        resolved, method = resolve_defaults(options, source)
    form = Pixels.from_config(vars(resolved))
    bounds = bounds_for(SAMPLE, resolved.decode_size or 0, resolved.max_batch_bytes, form)
    sample = sampled(source, bounds, SAMPLE, options.seed, SECONDS)
    fabric = lone_fabric(resolved)
    on_cpu = fabric.device.type == "cpu"
    if not sample.pictures:
        raise InputError(f"batch-size: auto needs pictures, and none of {len(sample)} could be read; see --doctor")
    least = 2 if uses_batch_statistics(method) else 1
    shares = shares_of(min(LARGEST, len(source)), devices * nodes, options.grad_accumulation, least)
    there = available(fabric.device, devices)
    most = round(PART * there) - kept_besides(resolved, source, method, sample, fabric.device, devices * nodes)
    step = probe_step(replace(resolved, batch_size=shares[-1]), method, fabric, steps_per_epoch=1000)
    probes = grow(step, sample, shares, SECONDS if on_cpu else inf, most)
    share = largest(shares, probes, most, AHEAD * options.workers * sample.mean_bytes() if on_cpu else 0)
    need = probes.memory(share)
    why = f"a process's step then holds about {format_bytes(need)} of the {format_bytes(there)} that are free"
    return share * devices * nodes, why


def shares_of(images: int, processes: int, parts: int, least: int) -> list[int]:
    """Candidate images per process: doubling, at least ``least`` per micro-batch."""
    shares = [least * parts]
    while 2 * shares[-1] * processes <= images:
        shares.append(2 * shares[-1])
    return shares


def kept_besides(
    options: PretrainOptions,
    source: ImageSource | Stream,
    method: Method[Any],
    sample: DecodedSample,
    device: torch.device,
    processes: int,
) -> int:
    """Bytes that a run needs for any batch size and that probe steps don't."""
    kept = 0
    if processes > 1:  # the buckets in which gradients are exchanged
        kept += 4 * sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    if not isinstance(source, Stream) and is_held(source, in_memory(options), pixels_of(options)):
        whole = len(source) * sample.mean_bytes()
        kept += whole if device.type == "cpu" or whole <= RESIDENT_BYTES else 0
    return kept


def largest(shares: list[int], probes: ProbeSteps, most: int, waiting: int = 0) -> int:
    """The largest share whose step is known, or predicted, to take at most so many bytes.

    Args:
        shares: ascending.
        probes: of some of them.
        most: bytes.
        waiting: bytes of every image of a batch besides, in the batches that workers hold ready.

    Raises:
        InputError: none is.
    """
    end = probes.too_large or inf
    fitting = [s for s in shares if s < end and probes.taken and probes.memory(s) + waiting * s <= most]
    if not fitting:
        raise InputError(
            f"batch-size: there is no room for {several(shares[0], 'image')} in {format_bytes(most)}; give a smaller "
            "--image-size or --backbone, fewer --views or a smaller --score-resolution"
        )
    return fitting[-1]
