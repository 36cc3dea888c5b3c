"""What cheaper scoring keeps of the hardness, and what a step with it takes, of trained runs.

    python benchmarks/scoring.py RUN [RUN ...] [--images 2048] [--skip 2048] [--only WAY;WAY] [--device cuda]
        [--json FILE]

Hardness kept: (cost of the cheap choice - mean cost of all choices) / (cost of the exact choice - mean cost of all
choices), every cost at full resolution by the student, means over images, in batches as in training; with its standard
error over batches. The images are those of the run's data after the first SKIP in a fixed random order: with --skip 0
those that the defaults were picked on.

What an early exit predicts with is learned before that from 60 batches of the SKIP images, from the kept views of the
exact choice, as in training, but with the weights as they are.

Step: its time with this scoring divided by that of the same step without hard views, on the run's batches; median,
lowest and highest of the repeats. Choosing at every k-th step only keeps 1/k of the hardness at 1/k of the extra time.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from side_by_side import arguments, ratios, side_by_side, table, write
from torch import Tensor
from ways import WAYS

from hardviews.data.reading.decode import Bounds
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.methods.base import Method, Progress
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.selection.costs import Costs
from hardviews.selection.guard import untouched
from hardviews.selection.scoring import Scoring
from hardviews.selection.search import hardest_ids, mean_total
from hardviews.setup.data import open_sources
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.scoring.early_exit import STEPS
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream

LEARNED = 60  # batches that early exits learn from


def restored(folder: Path, device: torch.device) -> tuple[PretrainOptions, ImageSource, Method[Any]]:
    """A run's settled options, data, and method with the weights of its last checkpoint."""
    run = RunFolder(folder)
    config, (state, _) = run.config(), run.checkpoints.newest()
    if state is None:
        raise SystemExit(f"{folder}: no checkpoint yet")
    options = PretrainOptions(**{**config, "backbone": BackboneOptions(**config["backbone"])})
    source, _ = open_sources(options)
    options, method = resolve_defaults(replace(options, accelerator=device.type, precision="auto"), source)
    method.load_state_dict(state["method"])
    steps_per_epoch = len(source) // options.images_per_step
    method.progress = Progress(int(state["step"]), options.epochs * steps_per_epoch, steps_per_epoch)
    return options, source, method


def batches(
    source: ImageSource, options: PretrainOptions, skip: int, device: torch.device, stop: int | None = None
) -> Iterator[ImageBatch]:
    order = torch.randperm(len(source), generator=stream(0, "benchmark")).tolist()[skip:stop]
    bounds = Bounds(options.decode_size or 512)
    for start in range(0, len(order) - options.images_per_step + 1, options.images_per_step):
        rows = order[start : start + options.images_per_step]
        yield ImageBatch.pack([source.read(row, bounds) for row in rows], rows).to(device)


def teach(method: Method[Any], scorers: dict[str, Scorer], data: Iterator[ImageBatch]) -> None:
    """Lets early exits learn from a training forward of the kept views of each batch; nothing else learns."""
    early = [scorer for scorer in scorers.values() if scorer.exit]
    for number, batch in enumerate(data):
        views = draw(method.plan, batch.size, stream(2, "views", number)).to(batch.device)
        with untouched(method):
            exact = scorers["exact"]
            found = exact(exact.candidates(batch, views), views.mask, seed=number)
            costs = (found[0] if isinstance(found, tuple) else found).upcast()
            kept = views.take(hardest_ids(costs, method.plan), method.plan.slot_of_kept())
            with ExitStack() as stack, exact.fabric.autocast():
                for scorer in early:
                    stack.enter_context(scorer.learning())
                method(render(batch, kept, method.plan), masks=kept.mask)
        for scorer in early:
            scorer.learn()


def hardness_kept(
    method: Method[Any], scorers: dict[str, Scorer], data: Iterator[ImageBatch], images: int
) -> dict[str, dict[str, float]]:
    """Of every way of scoring: hardness kept, its standard error, and the part of images with the exact choice."""
    plan = method.plan
    gained: dict[str, list[Tensor]] = {name: [] for name in scorers}
    same: dict[str, list[Tensor]] = {name: [] for name in scorers}
    seen = 0
    for number, batch in enumerate(data):
        if seen >= images:
            break
        seen += len(batch)
        views = draw(plan, batch.size, stream(1, "views", number)).to(batch.device)

        def costs_of(scorer: Scorer, batch: ImageBatch = batch, views: Any = views, number: int = number) -> Costs:
            found = scorer(scorer.candidates(batch, views), views.mask, seed=number)
            return (found[0] if isinstance(found, tuple) else found).upcast()

        with untouched(method):
            exact = costs_of(scorers["exact"])
            best, mean = hardest_ids(exact, plan), mean_total(exact, plan)
            for name, scorer in scorers.items():
                ids = hardest_ids(costs_of(scorer), plan)
                gained[name].append((exact.total(ids) - mean).mean())
                same[name].append((ids == best).all(0).float().mean())
    most = torch.stack(gained["exact"])
    found = {}
    for name in scorers:
        gain = torch.stack(gained[name])
        kept = gain.mean() / most.mean()
        # Of a ratio of means, by its linearisation.
        error = (gain - kept * most).std() / len(gain) ** 0.5 / most.mean()
        found[name] = {
            "kept": kept.item(), "error": error.item(), "same_choice": torch.stack(same[name]).mean().item()
        }  # fmt: skip
    return found


def step_times(
    options: PretrainOptions, method: Method[Any], ways: dict[str, Scoring], batch: ImageBatch, repeats: int
) -> dict[str, dict[str, float]]:
    """Seconds of a step without hard views and with every way of scoring, and their ratios."""
    options = replace(options, lr=1e-6, min_lr=0.0, clip=0.0)
    fabric = create_fabric(options)
    plain = copy.deepcopy(method)
    plain.plan = plain.plan.without_selection()
    without, step = (create_step(options, m, fabric, steps_per_epoch=10) for m in (plain, copy.deepcopy(method)))

    def take(step: Step, scorer: Scorer) -> None:
        step.scorer = scorer
        step.watch.start()
        step(batch, 0)

    runs = {"without": lambda: take(without, without.scorer)}
    for name, scoring in ways.items():
        scorer = Scorer(fabric, step.method, scoring)
        if scorer.exit:
            take(step, scorer)  # learns
            scorer.exit.steps += STEPS
        runs[name] = lambda scorer=scorer: take(step, scorer)  # type: ignore[misc]
    return ratios(side_by_side(runs, repeats, batch.device), "without")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--skip", type=int, default=2048)
    parser.add_argument("--only", help="ways of scoring, separated by semicolons; exact is always among them")
    args = parser.parse_args()
    everything: dict[str, Any] = {"device": str(args.device), "images": args.images, "skip": args.skip}
    for folder in args.runs:
        options, source, method = restored(folder, args.device)
        method = method.to(args.device).train()
        fabric = create_fabric(options)
        scorers, ways = {}, {}
        for name, scoring in WAYS.items():
            if args.only and name not in ("exact", *args.only.split(";")):
                continue
            try:
                scorers[name], ways[name] = Scorer(fabric, method, scoring), scoring
            except InputError:  # nothing of the kind in this method
                continue
        others = chain.from_iterable(batches(source, options, 0, args.device, args.skip) for _ in repeat(None))
        if any(scorer.exit for scorer in scorers.values()):
            teach(method, scorers, islice(others, LEARNED))
        kept = hardness_kept(method, scorers, batches(source, options, args.skip, args.device), args.images)
        batch = next(batches(source, options, 0, args.device))
        times = step_times(options, method, ways, batch, args.repeats)
        everything[str(folder)] = {"method": options.method["name"], "hardness": kept, "times": times}
        table(
            f"{options.method['name']}, {options.backbone.name} at {options.image_size} px, batch "
            f"{options.images_per_step}, {args.device}, {torch.get_num_threads()} threads; {args.images} images",
            ["scoring", "hardness kept", "exact choice", "step", "lowest", "highest"],
            [
                [
                    name,
                    f"{v['kept']:.1%} ± {v['error']:.1%}",
                    f"{v['same_choice']:.0%}",
                    *(f"{times[name][key]:.2f}" for key in ("ratio", "lowest", "highest")),
                ]
                for name, v in kept.items()
            ],
        )
    write(args.json, everything)


if __name__ == "__main__":
    main()
