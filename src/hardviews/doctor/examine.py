"""``hardviews pretrain ... --doctor``: whether a run would go well, by a few steps, before days are spent on it.

Nothing is trained into the run's folder, and several devices are stood for by one, with its share of the batch.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from hardviews.console import duration
from hardviews.data.loading.in_memory import is_held
from hardviews.data.loading.loader import Loader, moved, steps_per_epoch
from hardviews.data.reading.decode import bounds_for
from hardviews.data.sources import ImageSource, why_unlabelled
from hardviews.data.sources.streams import Stream
from hardviews.doctor import checks
from hardviews.doctor.checks import Check
from hardviews.doctor.contents import check_contents, contents_of
from hardviews.doctor.overfit import STEPS, learn
from hardviews.doctor.values import check_values
from hardviews.doctor.view_sheet import FirstViews, view_sheet
from hardviews.errors import InputError, RunError
from hardviews.methods.base import Method
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.batch_size import resolve_batch_size
from hardviews.probing.evaluation_time import TrialMeasurement, time_measurement
from hardviews.probing.sample import DecodedSample, sampled
from hardviews.probing.step_time import seconds_to_make
from hardviews.probing.steps import grow, lone_fabric, probe_step, sizes_up_to
from hardviews.setup.data import in_memory, open_training
from hardviews.setup.defaults import config_of, resolve_defaults, run_folder_name
from hardviews.setup.fabric import shared_by
from hardviews.setup.look import look
from hardviews.setup.monitoring import resolve_knn, tenth_of
from hardviews.setup.pixels import pixels_of
from hardviews.setup.step import check_norms, uses_batch_statistics
from hardviews.telemetry.shown import Channels, shown_channels
from hardviews.training.memory import available, is_out_of_memory
from hardviews.training.output.checkpoint import COPIES
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.schedules import ResolutionSchedule
from hardviews.views.plan import ViewPlan
from hardviews.wording import several

PICTURES = 256  # decoded, if time allows
FEW, MANY = 4, 32  # images of the batch that the copy is trained on
SECONDS = 10.0  # for each of decoding, probe steps, loading and overfitting; a step that has begun is finished


def examine(options: PretrainOptions) -> Iterator[Check]:
    """Yields every check when it is done. After a failed check, those that depend on it are left out.

    Args:
        options: as parsed, of the planned run.

    Raises:
        InputError: such a run could not be started.
    """
    source, test = open_training(options)
    if isinstance(source, Stream):
        options = replace(options, epoch_images=len(source), telemetry=0)
    options, method = resolve_defaults(options, source)
    options = resolve_knn(options, source)
    if options.batch_size == "auto":
        options = resolve_batch_size(options)
        yield Check("batch-size", "ok", f"auto is {options.batch_size}", figures={"batch_size": options.batch_size})
    devices, nodes = shared_by(options)
    check_norms(method, options, devices * nodes)
    per_epoch = steps_per_epoch(source, options.images_per_step)
    share = options.images_per_step // (devices * nodes)
    if uses_batch_statistics(method):  # one GPU alone can't compute them from a single image, as several together can
        share = max(share, 2 * options.grad_accumulation)
    name = options.out or str(run_folder_name(options, "doctor"))
    yield from check_folder(options, RunFolder(Path(name)), sum(p.numel() for p in method.parameters()))
    yield checks.check_epoch(len(source), options, devices * nodes * options.grad_accumulation)

    form = pixels_of(options)
    bounds = bounds_for(share, options.decode_size or 0, options.max_batch_bytes, form)
    sample = sampled(source, bounds, PICTURES, options.seed, SECONDS)
    check = checks.check_data(sample, options.image_size or 0, options.max_unreadable)
    yield checks.with_files(check, source, test, options.test_data, sample, tenth_of(options), form)
    if not sample.pictures:
        return
    content = check_contents(contents_of(sample))
    yield content
    yield from check_values(look(source, channels=0 if form.converts else form.channels), form)

    fabric, seen, own = lone_fabric(options), FirstViews(), deepcopy(method)
    there = available(fabric.device, devices)
    step = probe_step(options, method, fabric, per_epoch, seen)
    probes = grow(step, sample, sizes_up_to(share, options.grad_accumulation), SECONDS, round(checks.TIGHT * there))
    if seen.chosen is not None:
        channels = shown_channels(form, options.show_channels)
        yield check_views(seen, method.plan, Path(f"{name}-views.png"), channels)
    if probes.taken:
        yield checks.check_finite(probes)
    yield checks.check_memory(probes, share, there, fabric.device.type == "cuda")
    if not probes.taken:
        return
    small = None
    if options.train_resolution < 1:
        step.resolution = ResolutionSchedule(options.train_resolution, sys.maxsize)
        small = grow(step, sample, [probes.taken[-1].images], SECONDS, round(checks.TIGHT * there)).seconds(share)
    del step, method

    measuring, trial = check_measuring(options, source, test, own, fabric)
    yield measuring
    images = int(SECONDS / STEPS * probes.taken[-1].images / probes.taken[-1].total)
    images = min(max(images, FEW), MANY, share)
    learned = learn(replace(options, compile=False), own, fabric, sample, images, SECONDS)
    yield checks.check_learning(learned, content.verdict != "ok")
    yield checks.check_gradients(learned, content.verdict != "ok")

    try:
        data = seconds_of_data(options, source, share, fabric.device, sample)
    except RunError as error:
        yield Check("speed", "failed", str(error), "fix the data")
        return
    seconds = probes.seconds(share)
    yield checks.check_speed(seconds, data, share, devices * nodes, options)
    if small:  # such steps are faster, and wait for images first
        check = checks.check_speed(small, data, share, devices * nodes, options)
        yield replace(
            check, name="smaller", says=f"views at {options.train_resolution:.0%} of their size: {check.says}"
        )
    yield checks.check_time(seconds, data, per_epoch, options, trial, small)


def check_folder(options: PretrainOptions, folder: RunFolder, parameters: int) -> Iterator[Check]:
    """Whether the folder can be used for this run, and its disk has room for the checkpoints."""
    try:
        folder.check(config_of(options), 0)
    except InputError as error:
        yield Check("folder", "failed", str(error), "another --out")
    else:
        goes_on = folder.checkpoints.last.exists()
        yield Check("folder", "ok", f"{folder.path} {'holds this run, which resumes' if goes_on else 'is free'}")
    copies = COPIES
    if options.keep_epochs:
        copies += COPIES // 3 * (options.epochs // options.keep_epochs)
    yield checks.check_disk(4 * parameters * copies, folder.free(), str(folder.existing()))


def check_views(seen: FirstViews, plan: ViewPlan, file: Path, channels: Channels) -> Check:
    """Saves a picture of the views that a step drew and chose."""
    assert seen.chosen is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        view_sheet(seen.chosen, plan, channels).save(file)
    except OSError as error:
        return Check("views", "warning", f"{file} can't be written: {error.strerror}", "another --out")
    says = f"{file} shows {several(len(seen.chosen.images), 'picture')} and the views drawn of them: look at it"
    return Check("views", "ok", says, figures={"file": str(file)})


def check_measuring(
    options: PretrainOptions, source: ImageSource | Stream, test: ImageSource | None, own: Method[Any], fabric: Fabric
) -> tuple[Check, TrialMeasurement | None]:
    """Whether evaluation during training will work: evaluates one batch of images the same way."""
    reason = "--knn-epochs is 0"
    if options.knn_epochs:
        reason = "streams have no labels"
        if not isinstance(source, Stream):
            reason = f"{source.name} has no labels; {why_unlabelled(source)}"
    if not options.knn_epochs or isinstance(source, Stream) or source.labels is None:
        return Check("measuring", "ok", f"nothing is measured on the way: {reason}"), None
    backbone = own.get_submodule(own.evaluated).to(fabric.device)
    try:
        found = time_measurement(options, source, test, backbone, own.plan, fabric)
    except (InputError, RunError, RuntimeError, MemoryError, TypeError, ValueError) as error:
        where = f"out of memory on {fabric.device}" if is_out_of_memory(error) else " ".join(str(error).split())[:300]
        says = f"the kNN accuracy of a batch of images can't be measured: {where or type(error).__name__}"
        return Check("measuring", "failed", says, "--knn-epochs 0, which measures nothing on the way"), None
    says = (
        f"the kNN accuracy of {several(found.images, 'image')} can be measured; all take about {duration(found.each)}"
    )
    figures = {"images": found.images, "seconds": found.each, "seconds_pixels": found.pixels}
    return Check("measuring", "ok", says, figures=figures), found


def seconds_of_data(
    options: PretrainOptions, source: ImageSource | Stream, share: int, device: torch.device, sample: DecodedSample
) -> float:
    """Seconds that a process's loader takes for its share of a batch, estimated from smaller batches.

    It is 0 where all images are held in memory; those of several sizes only are with ``in_memory`` on.

    Raises:
        RunError: it can't.
    """
    fits = options.in_memory == "on" or len({tuple(picture.shape) for picture in sample.pictures}) == 1
    if not isinstance(source, Stream) and fits and is_held(source, in_memory(options), pixels_of(options)):
        return 0.0
    images = min(share, MANY)
    loader = Loader(
        source,
        batch_size=images,
        seed=options.seed,
        workers=options.workers,
        decode_size=options.decode_size or 0,
        max_batch_bytes=options.max_batch_bytes * images // share,
        tolerance=1.0,  # judged elsewhere
        in_memory=False,
        pin_memory=device.type == "cuda",
        shuffle_bytes=0,
        form=pixels_of(options),
    )
    with closing(moved(loader.batches(0), device)) as batches:
        return seconds_to_make(batches, options.workers, 8, SECONDS / 2) * share / images
