"""One pretraining run: from options to a run folder."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console

from hardviews.console import Say, printer
from hardviews.data.loading.loader import Loader
from hardviews.data.sources.streams import Stream
from hardviews.errors import StoppedError
from hardviews.launch.processes import destroy_process_group, peer_errors
from hardviews.networks.weights import Match
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.batch_size import agree_on_batch_size, resolve_batch_size
from hardviews.runs.summary import headline, summarise
from hardviews.setup.data import create_loader, open_training
from hardviews.setup.data_notices import shared_figures, warn_of_data, warn_unlabelled
from hardviews.setup.defaults import config_of, resolve_defaults, run_folder_name
from hardviews.setup.fabric import create_fabric
from hardviews.setup.monitoring import create_describe, create_evaluate, create_evaluated, resolve_knn_bank
from hardviews.setup.step import create_step, selecting
from hardviews.telemetry.recording import Followed, Recorder
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.loop import Loop
from hardviews.training.monitor import Monitor
from hardviews.training.output.checkpoint import COPIES
from hardviews.training.output.loggers import create_loggers
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.plan import ViewPlan


@peer_errors()
def pretrain(options: PretrainOptions, console: Console | None = None) -> dict[str, Any]:
    """Trains to the end, or goes on from the run folder's last checkpoint.

    Args:
        options: as parsed.
        console: shows the progress; by default that of standard output.

    Returns:
        What ``summary.json`` holds, and ``run``, the run folder; of several processes, only rank 0 gets it.

    Raises:
        InputError: before anything is written.
        RunError: the run could not go on.
        StoppedError: a signal asked it to stop; it has saved.
    """
    console = console or Console()
    say = printer(console)
    source, test = open_training(options)
    if isinstance(source, Stream):  # its images are known now, and are not followed
        options = replace(options, epoch_images=len(source), telemetry=0)
    matches: list[Match] = []
    options, method = resolve_defaults(options, source, matches.append)
    options = resolve_knn_bank(resolve_batch_size(options))
    config = config_of(options)
    seed = options.seed if options.knn_epochs else None  # of the tenth that kNN holds out
    name = options.out or str(run_folder_name(options, time.strftime("%Y%m%d-%H%M%S")))
    parameters = sum(parameter.numel() for parameter in method.parameters())
    RunFolder(Path(name)).check(config, COPIES * 4 * parameters)
    fabric = create_fabric(options)
    options = agree_on_batch_size(fabric, options)
    config["batch_size"] = options.batch_size
    with Meeting(fabric).slowly():  # it may decode all images
        loader = create_loader(options, source, fabric)
    folder = RunFolder(Path(fabric.broadcast(name)))  # the clocks of processes differ
    telemetry = create_telemetry(options, method.plan, fabric, loader, folder, say)
    evaluated = create_evaluated(method, fabric)
    step = create_step(options, method, fabric, loader.steps_per_epoch, telemetry.note)
    with Meeting(fabric).slowly():  # test images are compared with training images
        if fabric.is_global_zero:
            folder.open(config)
            for match in matches:
                folder.write_init(match._asdict())
            warn_of_data(source, test, options.test_data, seed)
            if options.knn_epochs:
                warn_unlabelled(source, "no kNN accuracy is measured on the way")
            say(headline(options, source, step, fabric, folder))
    evaluate = None
    if options.knn_epochs and not isinstance(source, Stream):
        evaluate = create_evaluate(options, source, test, method.plan, fabric)
    epochs, every = options.epochs, options.knn_epochs
    describe = create_describe(options)
    monitor = Monitor(fabric, folder, evaluated, evaluate, describe, say, every, epochs, loader.steps_per_epoch)
    loop = Loop(
        fabric, step, loader, folder, epochs, monitor, options.checkpoint_steps, options.keep_epochs,
        options.max_nonfinite_steps, options.log_steps,
        partial(create_loggers, options, folder.path, config), telemetry, console,
    )  # fmt: skip
    try:
        with peer_errors(folder.checkpoints.going_on):
            loop.run()
    except StoppedError:
        with Meeting(fabric).slowly():  # once one has left, the others are soon ended
            loop.logbook.close()
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(folder.checkpoints.going_on()) from None
    finally:
        loop.logbook.close()
    destroy_process_group()
    if not fabric.is_global_zero:
        return {}
    summary = summarise(options, folder, shared_figures(source, test, options.test_data, seed))
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
    return Recorder(folder.telemetry, plan, followed, fabric.global_rank, fabric.world_size, say)
