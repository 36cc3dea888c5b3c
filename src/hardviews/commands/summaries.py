"""What a run says of itself where it begins and where it has ended."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console

from hardviews.analysis.measured import SIZES, images_in_words
from hardviews.commands.saying import several
from hardviews.commands.sources import tested_on
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.training.options import PretrainOptions
from hardviews.training.run_folder import RunFolder, provenance
from hardviews.training.step import Step


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
    return (
        f"{options.method['name']} on {source.name}: {images}, {chosen}, {options.backbone.name} "
        f"at {options.image_size} px, batch {options.batch_size}, {epochs}, "
        f"{options.precision} on {where}; run folder {folder.path}"
    )


def finish(options: PretrainOptions, folder: RunFolder, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes ``summary.json``, of all parts of a run that was interrupted, with further facts of its data."""
    summary: dict[str, Any] = dict(folder.summary())
    for name in SIZES:  # which are the same before and after training, unless the run went on with others
        before = f"{name}_untrained"
        summary |= {key: int(summary[key]) for key in (name, before) if key in summary}
        if summary.get(before) == summary.get(name):
            summary.pop(before, None)
    if "knn_top1" in summary:
        summary["knn_test_data"] = tested_on(options.data, options.test_data)
    summary |= {
        "unreadable": folder.listed("unreadable"),
        "cut_short": folder.listed("cut_short"),
        "images_per_second": summary["steps"] * options.images_per_step / summary["seconds"],
        "epochs": options.epochs,
        "seed": options.seed,
        "method": options.method["name"],
        "backbone": options.backbone.name,
        "data": options.data,
        **facts,
        **provenance(),
    }
    with suppress(OSError):  # of a full disk, which ends no run
        folder.write_summary(summary)
    return summary


def show(summary: Mapping[str, Any], folder: RunFolder, console: Console, as_json: bool) -> None:
    """What a run ends with in the terminal."""
    if as_json:
        print(json.dumps({**summary, "run": str(folder.path)}, indent=2))
        return
    if "knn_top1" in summary:
        labels = {"raw pixels": "knn_top1_pixels", "untrained backbone": "knn_top1_untrained"}
        others = any(f"{name}_untrained" in summary for name in SIZES)
        labels = {"trained backbone": "knn_top1"} if others else labels | {"trained backbone": "knn_top1"}
        figures = [f"{label} {summary[key]:.1%}" for label, key in labels.items() if key in summary]
        of = images_in_words(summary, summary["knn_test_data"])
        of += "; before training, other images were measured (evaluation.csv)" if others else ""
        console.print(f"kNN accuracy: {', '.join(figures)}; on {of}", highlight=False, markup=False, soft_wrap=True)
    if summary["unreadable"]:
        console.print(f"{summary['unreadable']:,} images could not be read; {folder.path}/unreadable*.csv lists them")
    if summary["cut_short"]:
        console.print(f"{summary['cut_short']:,} images lack their end; {folder.path}/cut_short*.csv lists them")
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    console.print(
        f"trained for {minutes}:{seconds:02d} min; the run lies in {folder.path}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
