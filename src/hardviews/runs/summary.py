"""The line that a run starts with, and the summary that it ends with."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_fabric import Fabric

from hardviews.analysis.measured import SIZES
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.options.pretraining import PretrainOptions
from hardviews.runs.verdict import lines, verdict_of
from hardviews.setup.data import tested_on
from hardviews.setup.defaults import config_of
from hardviews.training.output.provenance import provenance
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.step import Step
from hardviews.wording import several


def headline(
    options: PretrainOptions, source: ImageSource | Stream, step: Step, fabric: Fabric, folder: RunFolder
) -> str:
    plan = step.plan
    drawn, kept = "+".join(str(s.draw) for s in plan.slots), "+".join(str(s.keep) for s in plan.slots)
    chosen = f"{drawn} views drawn, {kept} kept ({options.policy})" if plan.selects else f"{kept} views, none chosen"
    where = fabric.device.type
    if fabric.world_size > 1:
        where = f"{fabric.world_size} x {where} ({options.strategy})"
    images, epochs = several(len(source), "image"), several(options.epochs, "epoch")
    size = f"{options.image_size} px"
    if options.train_resolution < 1:
        until = options.full_resolution_from * options.epochs
        size += f" ({options.train_resolution:.0%} of that until epoch {until:g})"
    return (
        f"{options.method['name']} on {source.name}: {images}, {chosen}, {options.backbone.name} "
        f"at {size}, batch {options.batch_size}, {epochs}, "
        f"{options.precision} on {where}; run folder {folder.path}"
    )


def glossary(options: PretrainOptions, source: ImageSource | Stream, step: Step) -> str:
    """What the figures on the way mean, in a line; empty where no such figure is shown."""
    words = []
    if options.knn_epochs and not isinstance(source, Stream) and source.labels is not None:
        words += [
            "kNN accuracy: images whose label the most similar training images vote for",
            "rank: how many directions the features use",
        ]
    if step.plan.selects:
        words.append("IoU: how much the kept views of an image overlap, 0 to 1, and random ones")
    return "; ".join(words)


def _extended(folder: RunFolder) -> dict[str, Any]:
    """The run that this one extends, and how many epochs that had; empty where it extends none."""
    record = folder.extension()
    return {"extends": record["run"], "extends_epochs": record["run_epochs"]} if record else {}


def summarise(options: PretrainOptions, folder: RunFolder, of_data: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``summary.json``: the whole run, also if it was interrupted, with further figures of its data."""
    summary: dict[str, Any] = dict(folder.summary())
    for name in SIZES:  # which are the same before and after training, unless the run went on with others
        before = f"{name}_untrained"
        summary |= {key: int(summary[key]) for key in (name, before) if key in summary}
        if summary.get(before) == summary.get(name):
            summary.pop(before, None)
    if "knn_top1" in summary:
        summary["knn_test_data"] = tested_on(options.data, options.test_data, options.knn_test)
        config = config_of(options)
        found = verdict_of(config, summary)
        if found:
            summary["knn_top1_error"] = found.error
            summary |= {"verdict": found.kind, "verdict_says": lines(config, summary, found)}
    summary |= {
        "unreadable": folder.listed("unreadable"),
        "cut_short": folder.listed("cut_short"),
        "images_per_second": summary["steps"] * options.images_per_step / summary["seconds"],
        "epochs": options.epochs,
        **_extended(folder),
        "seed": options.seed,
        "method": options.method["name"],
        "backbone": options.backbone.name,
        "data": options.data,
        **of_data,
        **provenance(),
    }
    with suppress(OSError):  # of a full disk, which ends no run
        folder.write_summary(summary)
    return summary
