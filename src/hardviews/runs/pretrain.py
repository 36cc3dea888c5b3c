"""One pretraining run: from options to a run folder."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console

from hardviews.console import Say, printer
from hardviews.data.loading.loader import Loader, steps_per_epoch
from hardviews.data.sources import fingerprint
from hardviews.data.sources.streams import Stream
from hardviews.errors import StoppedError
from hardviews.launch.global_state import global_state_restored
from hardviews.launch.processes import destroy_process_group, has_process_group, peer_errors
from hardviews.networks.weights import Match
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.batch_size import agree_on_batch_size, resolve_batch_size
from hardviews.runs.summary import glossary, headline, summarise
from hardviews.setup.data import BY_NAME, Given, create_loader, open_training
from hardviews.setup.data_notices import shared_figures, warn_of_data, warn_unlabelled
from hardviews.setup.defaults import config_of, resolve_defaults, run_folder_name
from hardviews.setup.extension import extended, read_extension
from hardviews.setup.fabric import create_fabric
from hardviews.setup.monitoring import create_describe, create_evaluate, create_evaluated, resolve_knn, tenth_of
from hardviews.setup.pixels import pixels_of
from hardviews.setup.step import create_step, selecting
from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.telemetry.shown import shown_channels
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.loop import Loop
from hardviews.training.monitor import Monitor
from hardviews.training.output.checkpoint import COPIES
from hardviews.training.output.loggers import create_loggers
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.plan import ViewPlan


@global_state_restored()
@peer_errors()
def pretrain(options: PretrainOptions, console: Console | None = None, given: Given = BY_NAME) -> dict[str, Any]:
    """Trains to the end, or resumes from the run folder's last checkpoint.

    Args:
        options: as parsed.
        console: shows the progress; by default that of standard output.
        given: data as objects, which ``options`` names for the run folder.

    Returns:
        What ``summary.json`` holds, and ``run``, the run folder; in processes other than the first, ``run`` alone.

    Raises:
        InputError: before anything is written.
        RunError: the run could not continue.
        StoppedError: a signal asked it to stop; it has saved.
    """
    console = console or Console()
    say = printer(console)
    own_group = not has_process_group()
    source, test = open_training(options, given)
    if isinstance(source, Stream):  # its images are known now, and are not followed
        options = replace(options, epoch_images=len(source), telemetry=0)
    extension = read_extension(options, source)
    if extension:
        options = extension.resolve(options)
    matches: list[Match] = []
    options, method = resolve_defaults(options, source, matches.append)
    options = resolve_knn(resolve_batch_size(options), source)
    config = config_of(options)
    tenth = tenth_of(options)
    form = pixels_of(options)
    name = options.out or str(run_folder_name(options, time.strftime("%Y%m%d-%H%M%S")))
    if extension:
        extension.check(config, method)
        extension.begin(steps_per_epoch(source, options.images_per_step))
    parameters = sum(parameter.numel() for parameter in method.parameters())
    RunFolder(Path(name)).check(config, COPIES * 4 * parameters)
    fabric = create_fabric(options)
    options = agree_on_batch_size(fabric, options)
    config["batch_size"] = options.batch_size
    with Meeting(fabric).slow_work():  # it may decode all images
        loader = create_loader(options, source, fabric)
    folder = RunFolder(Path(fabric.broadcast(name)))  # the clocks of processes differ
    telemetry = create_telemetry(options, method.plan, fabric, loader, folder, say)
    evaluated = create_evaluated(method, fabric)
    per_epoch = loader.steps_per_epoch
    step = create_step(options, method, fabric, per_epoch, telemetry.note)
    record = extension.record(options, config, per_epoch) if extension else folder.extension()
    if record:
        step.rates = extended(step.rates, record)
    with Meeting(fabric).slow_work():  # test images are compared with training images
        if fabric.is_global_zero:
            folder.open(config)
            for match in matches:
                folder.write_init(match._asdict())
            warn_of_data(source, test, options.test_data, tenth, form)
            if options.knn_epochs:
                warn_unlabelled(source, "no kNN accuracy is measured on the way")
            say(headline(options, source, step, fabric, folder))
            explained = glossary(options, source, step)
            if explained and not folder.checkpoints.last.exists():  # the run begins
                say(explained)
            if extension and record:
                folder.write_extension(record)
                for line in extension.describe(record, step.rates, per_epoch, fingerprint(source)):
                    say(line)
    evaluate = None
    if options.knn_epochs and not isinstance(source, Stream):
        evaluate = create_evaluate(options, source, test, method.plan, fabric)
    epochs, every = options.epochs, options.knn_epochs
    describe = create_describe(options)
    monitor = Monitor(fabric, folder, evaluated, evaluate, describe, say, every, epochs, per_epoch)
    loop = Loop(
        fabric, step, loader, folder, epochs, monitor, options.checkpoint_steps, options.keep_epochs,
        options.max_nonfinite_steps, options.log_steps,
        partial(create_loggers, options, folder.path, config), telemetry, console,
        extension.origin(per_epoch) if extension else None,
    )  # fmt: skip
    try:
        with peer_errors(folder.checkpoints.how_to_resume):
            loop.run()
    except StoppedError:
        with Meeting(fabric).slow_work():  # once one has left, the others are soon ended
            loop.logbook.close()
        if own_group:
            destroy_process_group()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder.checkpoints.how_to_resume()) from None
    finally:
        loop.logbook.close()
    summary: dict[str, Any] = {}
    try:
        if fabric.is_global_zero:
            of_data = shared_figures(source, test, options.test_data, tenth, form)
            of_data |= {"empty_tiles": len(loader.empty)} if loader.empty else {}
            summary = summarise(options, folder, of_data)
    finally:
        fabric.barrier()  # all may read it when they return, and none waits for one that failed
        if own_group:
            destroy_process_group()
    return {**summary, "run": str(folder.path)}


def create_telemetry(
    options: PretrainOptions, plan: ViewPlan, fabric: Fabric, loader: Loader, folder: RunFolder, say: Say
) -> Recorder:
    images, steps = len(loader.source), loader.steps_per_epoch
    count = min(options.telemetry, images)
    acts = selecting(options, options.epochs * steps)
    followed = Followed(
        images, count, options.gallery, options.seed, options.policy, options.score_every, steps,
        (acts.start, acts.stop),
    )  # fmt: skip
    shown = shown_channels(pixels_of(options), options.show_channels)
    return Recorder(folder.telemetry, plan, followed, fabric.global_rank, fabric.world_size, say, shown)
