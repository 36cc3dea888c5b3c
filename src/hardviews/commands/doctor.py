"""``hardviews pretrain ... --doctor``: whether a run would go well, by a few steps, before days are spent on it.

Nothing is trained into the run's folder, and several devices are stood for by one, with its share of the batch.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.text import Text

from hardviews.commands import checks
from hardviews.commands.batch_size import settle_batch_size
from hardviews.commands.checks import Check
from hardviews.commands.contents import check_contents, contents_of
from hardviews.commands.fixed_batch import STEPS, learn
from hardviews.commands.planning import duration
from hardviews.commands.processes import shared_by
from hardviews.commands.rehearsing import Rehearsal, rehearse
from hardviews.commands.sampling import Sample, sampled
from hardviews.commands.saying import several
from hardviews.commands.settling import settle
from hardviews.commands.sources import open_training
from hardviews.commands.timing import seconds_to_make
from hardviews.commands.training_run import (
    CHECKPOINT_COPIES,
    check_norms,
    config_of,
    in_memory,
    run_folder_name,
    uses_batch_statistics,
)
from hardviews.commands.trials import grow, lone_fabric, sizes_up_to, trial_step
from hardviews.commands.view_sheet import Onlooker, view_sheet
from hardviews.data.loading.in_memory import is_held
from hardviews.data.loading.loader import Loader, bounds_for, moved, steps_per_epoch
from hardviews.data.sources import ImageSource, why_unlabelled
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError, RunError
from hardviews.methods.base import Method
from hardviews.training.memory import available, is_out_of_memory
from hardviews.training.options import PretrainOptions
from hardviews.training.run_folder import RunFolder
from hardviews.views.plan import ViewPlan

PICTURES = 256  # that are decoded, if there is time
FEW, MANY = 4, 32  # images of the batch that is learned
SECONDS = 10.0  # for each of decoding, trial steps, loading and learning; a step that takes longer takes longer
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def diagnose(options: PretrainOptions, as_json: bool = False) -> None:
    """Checks a set-up and prints what was found, line by line.

    Args:
        options: as parsed, of the run to come.
        as_json: print it as JSON on standard output, and everything else on standard error.

    Raises:
        InputError: such a run could not be started.
        RunError: a check failed.
    """
    console = Console(stderr=as_json)
    found: list[Check] = []
    for check in examine(options):
        found.append(check)
        line = Text.assemble(f"{check.name:10}", (f"{check.verdict:8}", STYLES[check.verdict]), check.says)
        if check.remedy:
            line.append(f"\n{'':18}try: {check.remedy}")
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in found]}, indent=2))
    failed = [check.name for check in found if check.verdict == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}")


def examine(options: PretrainOptions) -> Iterator[Check]:
    """Every check, as it is done; those that make no sense after one that failed are left out."""
    source, test = open_training(options)
    if isinstance(source, Stream):
        options = replace(options, epoch_images=len(source), telemetry=0)
    options, method = settle(options, source)
    if options.batch_size == "auto":
        options = settle_batch_size(options)
        yield Check("batch-size", "ok", f"auto is {options.batch_size}", figures={"batch_size": options.batch_size})
    devices, nodes = shared_by(options)
    check_norms(method, options, devices * nodes)
    per_epoch = steps_per_epoch(source, options.images_per_step)
    share = options.images_per_step // (devices * nodes)
    if uses_batch_statistics(method):  # GPUs share the statistics of single images, and one alone has no more
        share = max(share, 2 * options.accumulate)
    name = options.out or str(run_folder_name(options, "doctor"))
    yield from check_folder(options, RunFolder(Path(name)), sum(p.numel() for p in method.parameters()))
    yield checks.check_epoch(len(source), options, devices * nodes * options.accumulate)

    bounds = bounds_for(share, options.decode_size or 0, options.max_batch_bytes)
    sample = sampled(source, bounds, PICTURES, options.seed, SECONDS)
    check = checks.check_data(sample, options.image_size or 0, options.max_unreadable)
    yield checks.with_files(
        check, source, test, options.test_data, sample, options.seed if options.knn_epochs else None
    )
    if not sample.pictures:
        return
    content = check_contents(contents_of(sample))
    yield content

    fabric, seen, own = lone_fabric(options), Onlooker(), deepcopy(method)
    there = available(fabric.device, devices)
    step = trial_step(options, method, fabric, per_epoch, seen)
    trials = grow(step, sample, sizes_up_to(share, options.accumulate), SECONDS, round(checks.TIGHT * there))
    if seen.chosen is not None:
        yield check_views(seen, method.plan, Path(f"{name}-views.png"))
    if trials.taken:
        yield checks.check_finite(trials)
    yield checks.check_memory(trials, share, there, fabric.device.type == "cuda")
    if not trials.taken:
        return
    del step, method

    measuring, rehearsal = check_measuring(options, source, test, own, fabric)
    yield measuring
    images = int(SECONDS / STEPS * trials.taken[-1].images / trials.taken[-1].whole)
    images = min(max(images, FEW), MANY, share)
    learned = learn(replace(options, compile=False), own, fabric, sample, images, SECONDS)
    yield checks.check_learning(learned, content.verdict != "ok")
    yield checks.check_gradients(learned, content.verdict != "ok")

    try:
        data = seconds_of_data(options, source, share, fabric.device, sample)
    except RunError as error:
        yield Check("speed", "failed", str(error), "mend the data")
        return
    seconds = trials.seconds(share)
    yield checks.check_speed(seconds, data, share, devices * nodes, options)
    yield checks.check_time(seconds, data, per_epoch, options, rehearsal)


def check_folder(options: PretrainOptions, folder: RunFolder, parameters: int) -> Iterator[Check]:
    """Whether the run can live in its folder, and its checkpoints on its disk."""
    try:
        folder.check(config_of(options), 0)
    except InputError as error:
        yield Check("folder", "failed", str(error), "another --out")
    else:
        goes_on = folder.checkpoints.last.exists()
        yield Check("folder", "ok", f"{folder.path} {'holds this run, which goes on' if goes_on else 'is free'}")
    copies = CHECKPOINT_COPIES
    if options.keep_epochs:
        copies += CHECKPOINT_COPIES // 3 * (options.epochs // options.keep_epochs)
    yield checks.check_disk(4 * parameters * copies, folder.free(), str(folder.existing()))


def check_views(seen: Onlooker, plan: ViewPlan, file: Path) -> Check:
    """Saves a picture of what a step drew and chose, for people to look at."""
    assert seen.chosen is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        view_sheet(seen.chosen, plan).save(file)
    except OSError as error:
        return Check("views", "warning", f"{file} can't be written: {error.strerror}", "another --out")
    says = f"{file} shows {several(len(seen.chosen.images), 'picture')} and the views drawn of them: look at it"
    return Check("views", "ok", says, figures={"file": str(file)})


def check_measuring(
    options: PretrainOptions, source: ImageSource | Stream, test: ImageSource | None, own: Method[Any], fabric: Fabric
) -> tuple[Check, Rehearsal | None]:
    """Whether the backbone can be measured on the way, by measuring a batch of images as training will."""
    reason = "--knn-epochs is 0"
    if options.knn_epochs:
        reason = "streams have no labels"
        if not isinstance(source, Stream):
            reason = f"{source.name} has no labels; {why_unlabelled(source)}"
    if not options.knn_epochs or isinstance(source, Stream) or source.labels is None:
        return Check("measuring", "ok", f"nothing is measured on the way: {reason}"), None
    backbone = own.get_submodule(own.evaluated).to(fabric.device)
    try:
        found = rehearse(options, source, test, backbone, own.plan, fabric)
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
    options: PretrainOptions, source: ImageSource | Stream, share: int, device: torch.device, sample: Sample
) -> float:
    """Seconds in which a process's loader makes a batch of its share, by smaller ones; 0 where all images are held,
    which those of several sizes are not.

    Raises:
        RunError: it can't.
    """
    alike = len({tuple(picture.shape) for picture in sample.pictures}) == 1
    if not isinstance(source, Stream) and alike and is_held(source, in_memory(options)):
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
    )
    with closing(moved(loader.batches(0), device)) as batches:
        return seconds_to_make(batches, options.workers, 8, SECONDS / 2) * share / images
