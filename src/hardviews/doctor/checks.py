"""Turns what a few steps measured into verdicts, each with what to try where it is not ok."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hardviews.console import duration
from hardviews.data.reading.cut_short import said_of
from hardviews.data.reading.decode import printable
from hardviews.data.sources import ImageSource, passed_over
from hardviews.data.sources.streams import Stream
from hardviews.doctor.overfit import OverfitResult
from hardviews.options.pretraining import PretrainOptions
from hardviews.probing.evaluation_time import TrialMeasurement, measurements
from hardviews.probing.sample import DecodedSample
from hardviews.probing.step_time import Timing
from hardviews.probing.steps import ProbeSteps
from hardviews.setup.data_notices import Tenth, shared_figures, shared_line
from hardviews.training.memory import format_bytes
from hardviews.views.pixels import RGB, Pixels
from hardviews.wording import several

DATA_FIRST = "other pictures (see content), before anything else is changed"
NAMED = 3  # of many, how many are named
TIGHT = 0.8  # of the memory: measurements on the way and fragments need some
# Of the weights' length, in one step. The loss of networks with BN falls at absurd rates too; but the methods' own
# rates, and ten times these, change the weights by at most 0.15, and a thousand times these by 0.7 and more (small
# networks, all five methods, batch 512).
LARGE_CHANGE, ABSURD_CHANGE = 0.2, 0.5
LEAST_FALL = 0.005  # of the loss's size, or of 1 where that is less; without learning it stays as it is, bit for bit
WAITING = 0.2  # of the time
# With nine steps an epoch, less than a tenth of the images is ever left over. Schedules go by epochs (warm-up, the
# layer that DINO freezes for the first), which are over at once where they have less than a few steps.
LEFT_OUT, FEWEST_STEPS = 0.1, 4


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Args:
        name: of the check.
        verdict: failed means that the run would crash or learn nothing.
        says: what was found.
        remedy: what to try where it is not ok.
        figures: for ``--json``.
    """

    name: str
    verdict: Literal["ok", "warning", "failed"]
    says: str
    remedy: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def check_data(sample: DecodedSample, image_size: int, tolerance: float) -> Check:
    """Whether enough pictures decode, and are at least as large as the views (``image_size`` pixels a side)."""
    sides = sorted(min(picture.shape[:2]) for picture in sample.pictures)
    bad = sample.unreadable
    figures = {"sampled": len(sample), "unreadable": dict(bad), "shorter_sides": [*sides[:1], *sides[-1:]]}
    says = f"{len(sides)} of {several(len(sample), 'picture')} decode"
    if sides:
        longest = max(max(picture.shape[:2]) for picture in sample.pictures)
        says += f"; as decoded their sides are {f'{sides[0]} to ' if sides[0] < longest else ''}{longest} px"
    if sample.empty:
        are = several(sample.empty, "further tile is", "further tiles are")
        says += f"; {are} empty, and others are taken in their place"
    if bad:
        some = [f"{printable(path)} ({reason})" for path, reason in list(bad.items())[:NAMED]]
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        says += f"; not {', '.join(some)}{more}"
        if len(bad) > tolerance * len(sample):
            remedy = f"repair or remove them, or allow more than {tolerance:.2g} of the data: --max-unreadable"
            return Check("data", "failed", says, remedy, figures)
        return Check("data", "warning", says, "others are taken in their place; the run lists them", figures)
    small = sum(side < image_size for side in sides)
    if small > len(sides) / 2:
        says += f"; {several(small, 'is', 'are')} smaller than a view of {image_size} px, and would be enlarged"
        return Check("data", "warning", says, "a smaller --image-size", figures)
    return Check("data", "ok", says, figures=figures)


def check_epoch(images: int, options: PretrainOptions, shares: int) -> Check:
    """Whether there are enough images for the batch.

    Args:
        images: of the data.
        options: of the run.
        shares: equal parts that a batch is made of, by processes and micro-batches.
    """
    batch = options.images_per_step
    steps, left = divmod(images, batch)
    says = f"{several(steps, 'step')} of {several(batch, 'image')}"
    if left:
        be = "is" if left == 1 else "are"
        over = f"{left:,} of {several(images, 'image')} ({left / images:.1%})"
        says += f"; {over} {be} left over in every epoch, others each time"
    figures = {"steps": steps, "images": images, "left_over": left}
    if steps >= FEWEST_STEPS and left <= LEFT_OUT * images:
        return Check("epoch", "ok", says, figures=figures)
    smaller = smaller_batch(images, batch, shares)
    remedy = "more pictures"
    if smaller:
        remedy = (
            f"--batch-size {smaller} ({several(images // smaller, 'step')}, {images % smaller:,} left over); {remedy}"
        )
    return Check("epoch", "warning", says, remedy, figures)


def smaller_batch(images: int, batch: int, shares: int) -> int | None:
    """The largest batch that has steps enough and leaves few images over, eights to a share if there is one."""
    for unit in (8 * shares, 2 * shares):
        for size in range(min(batch, images // FEWEST_STEPS) // unit * unit, 0, -unit):
            if images % size <= LEFT_OUT / 2 * images:
                return size
    return None


def with_files(
    check: Check,
    source: ImageSource | Stream,
    test: ImageSource | None,
    test_data: str | None,
    sample: DecodedSample,
    tenth: Tenth = None,
    form: Pixels = RGB,
) -> Check:
    """The check of the data, with what files are passed over or cut short, and which test images are training images;
    arguments as of ``warn_of_data``."""
    passed = "" if isinstance(source, Stream) else passed_over(source)
    cut = [said for said in map(said_of, sample.pictures) if said]
    says = [passed] if passed else []
    if cut:
        says.append(f"{len(cut)} lack their end, and are used ({cut[0]})")
    says += shared_line(source, test, test_data, tenth, form)
    figures = {"passed_over": passed, "cut_short": len(cut), **shared_figures(source, test, test_data, tenth, form)}
    check = replace(check, says="; ".join([check.says, *says]), figures=check.figures | figures)
    if says and check.verdict == "ok":
        remedy = "convert or repair these files; keep test images out of the training data"
        return replace(check, verdict="warning", remedy=remedy)
    return check


def check_learning(learned: OverfitResult, data_at_fault: bool = False) -> Check:
    """Whether the loss on one batch falls at the run's peak rate.

    Args:
        learned: of a few steps.
        data_at_fault: something is wrong with the pictures, which is then the likeliest reason.
    """
    first, end, change = learned.losses[0], learned.end, max(learned.changes)
    steps = f"{several(len(learned.losses), 'step')} at the peak rate"
    says = f"loss on one batch of {learned.images}: {first:.3f} to {end:.3f} in {steps}"
    figures = {"loss_first": first, "loss_end": end, "steps": len(learned.losses), "largest_change": change}
    if not learned.finite:
        says = f"the loss on one batch is not finite after {steps}"
        return Check("learning", "failed", says, DATA_FIRST if data_at_fault else "a lower --lr; --precision 32-true")
    moved = f"a step changes the weights by up to {change:.2g} times their length"
    if change > ABSURD_CHANGE:
        return Check("learning", "failed", f"{says}; {moved}", "a lower --lr", figures)
    if first - end < LEAST_FALL * max(abs(first), 1.0):
        still = "the weights hardly move" if change < 1e-5 else moved
        remedy = "a higher --lr" if change < 1e-4 else "a lower --lr; the method's loss"
        remedy = DATA_FIRST if data_at_fault else remedy
        return Check("learning", "failed", f"{says}: it does not fall; {still}", remedy, figures)
    if change > LARGE_CHANGE:
        return Check("learning", "warning", f"{says}; {moved}", "a lower --lr, more --warmup-epochs", figures)
    return Check("learning", "ok", says, figures=figures)


def check_gradients(learned: OverfitResult, data_at_fault: bool = False) -> Check:
    """Whether gradients reach every part of the method that is to be trained; arguments as of ``check_learning``."""
    trainable, missing = (Counter(name.partition(".")[0] for name in n) for n in (learned.trainable, learned.unreached))
    dead = [part for part in trainable if missing[part] == trainable[part]]
    figures = {"trainable": len(learned.trainable), "unreached": learned.unreached}
    if dead:
        says, remedy = (
            f"reach nothing of {', '.join(dead)}",
            DATA_FIRST if data_at_fault else "the method's forward: detach, no_grad, or a part it leaves out",
        )
        return Check("gradients", "failed", says, remedy, figures)
    if learned.unreached:
        some = ", ".join(learned.unreached[:NAMED]) + (", ..." if len(learned.unreached) > NAMED else "")
        says = f"reach all but {len(learned.unreached)} of {several(len(learned.trainable), 'tensor')}: {some}"
        return Check(
            "gradients", "warning", says, "nothing, if these are not used; several devices want them used", figures
        )
    return Check(
        "gradients",
        "ok",
        f"reach all {several(len(learned.trainable), 'tensor')} of {', '.join(trainable)}",
        figures=figures,
    )


def check_memory(probes: ProbeSteps, images: int, there: int, on_gpu: bool) -> Check:
    """Whether a process's share of a batch fits in the bytes that are there for it."""
    remedy = "a smaller --batch-size (auto finds the largest), --grad-accumulation, a smaller --score-resolution"
    place = "of the GPU's memory" if on_gpu else "of memory"
    if probes.too_large:
        says = f"a step of {several(probes.too_large, 'image')} ran out {place}; {format_bytes(there)} are free"
        return Check("memory", "failed", says, remedy, {"available_bytes": there})
    need, largest = probes.memory(images), probes.taken[-1].images
    how = "" if largest >= images else f", judging by steps of up to {largest}"
    says = f"a step of {several(images, 'image')} takes up to {format_bytes(need)} {place}{how}; "
    says += f"{format_bytes(there)} are free"
    figures = {"peak_bytes": need, "available_bytes": there, "measured_up_to": largest}
    verdict: Literal["ok", "warning", "failed"] = "ok"
    if need > TIGHT * there:
        verdict = "failed" if need > there else "warning"
    return Check("memory", verdict, says, remedy if verdict != "ok" else "", figures)


def check_speed(step: dict[str, float], data: float, images: int, processes: int, options: PretrainOptions) -> Check:
    """Whether the loader keeps up with the device.

    Args:
        step: seconds by part of a process's step.
        data: seconds in which its loader makes a batch; 0: images are held decoded.
        images: of a process's step.
        processes: of the run.
        options: of the run.
    """
    work, beside = sum(step.values()), options.workers > 0
    whole = max(work, data) if beside else work + data
    waits = max(whole - work, 0.0) / whole
    parts = ", ".join(f"{part} {spent:.2g}" for part, spent in {"data": data, **step}.items())
    says = f"{whole:.3g} s a step ({parts}{', data beside the rest' if beside and data else ''})"
    says += f", {processes * images / whole:,.0f} images/s"
    says += " on one process times its number" if processes > 1 else ""
    figures = {"seconds_step": whole, "seconds_data": data, "images_per_second": processes * images / whole}
    figures |= {f"seconds_{part}": spent for part, spent in step.items()}
    if waits > WAITING:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        says += f"; the device waits for images {waits:.0%} of the time"
        remedy = f"more --workers (now {options.workers}; {cores} cores here), --in-memory on, smaller files"
        return Check("speed", "warning", says, remedy, figures)
    return Check("speed", "ok", f"{says}; the device is what takes time", figures=figures)


def check_finite(probes: ProbeSteps) -> Check:
    """Whether steps can be taken at all."""
    first, last = probes.taken[0].images, probes.taken[-1].images
    sizes = several(last, "image") if first == last else f"{first} to {last} images"
    if all(trial.finite for trial in probes.taken):
        return Check("steps", "ok", f"views drawn, scored, chosen and trained on, of {sizes}: all figures finite")
    says = f"of steps of {sizes}, a loss, cost or gradient is not finite before anything is trained"
    return Check("steps", "failed", says, "--precision 32-true; the weights of --init; the method's loss")


def check_time(
    step: dict[str, float],
    data: float,
    steps_per_epoch: int,
    options: PretrainOptions,
    measured: TrialMeasurement | None,
    small: dict[str, float] | None = None,
) -> Check:
    """How long the whole run will take.

    Args:
        step, data: as of ``check_speed``.
        small: the same of a step with smaller views, for runs that begin with such.
        steps_per_epoch: of all processes together.
        options: of the run.
        measured: of the measurements on the way; None: there are none.
    """
    timing = Timing({"run": sum(step.values())}, data, steps_per_epoch, options.workers > 0)
    if small:
        timing = replace(timing, small={"run": (options.full_resolution_from, sum(small.values()))})
    training, count = options.epochs * timing.epoch("run"), measurements(options.epochs, options.knn_epochs)
    measuring = count * measured.each + measured.pixels if measured else 0.0
    says = f"{several(options.epochs, 'epoch')} of {several(steps_per_epoch, 'step')}"
    says += f" and {several(count, 'measurement')}" if measured else ""
    says += f": about {duration(training + measuring)}"
    says += f", {duration(measuring)} of it to measure" if measured else ""
    says += ", besides what processes tell each other" if options.devices * options.nodes > 1 else ""
    says += ", without --compile" if options.compile else ""
    figures = {"seconds": training + measuring, "seconds_measuring": measuring}
    return Check("time", "ok", says, figures=figures)


def check_disk(need: int, free: int, place: str) -> Check:
    """Whether there is room for so many bytes at a place."""
    says = f"checkpoints take up to {format_bytes(need)}; {format_bytes(free)} are free at {place}"
    figures = {"needed_bytes": need, "free_bytes": free}
    if need > free:
        return Check("disk", "failed", says, "free some, another --out, fewer --keep-epochs", figures)
    if 2 * need > free:
        return Check("disk", "warning", says, "free some", figures)
    return Check("disk", "ok", says, figures=figures)
