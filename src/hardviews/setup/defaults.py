"""Resolves what the user left open: every default of the options, and the method on its backbone."""

import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardviews import methods
from hardviews.console import say
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.errors import InputError, unknown
from hardviews.methods.base import Method
from hardviews.networks.backbone_sources import library_of
from hardviews.networks.backbones import check_features, create_backbone, patch_size, strided_over_one_pixel
from hardviews.networks.weights import Match, load_weights
from hardviews.options.pretraining import PretrainOptions
from hardviews.selection import policies
from hardviews.selection.scoring import EXACT, Scoring
from hardviews.setup.initial_weights import start_of
from hardviews.setup.pixels import normalisation, pixels_of, resolve_pixels
from hardviews.setup.tones import left_out, of_the_method, with_tones
from hardviews.setup.transforms import names_of_transforms, with_transforms
from hardviews.telemetry.shown import shown_channels
from hardviews.training.distributed.sharding import check_blocks
from hardviews.training.optimizers import OPTIMIZERS
from hardviews.training.precision import device_type, fast_precision
from hardviews.views.crops import check_crops
from hardviews.views.plan import ViewPlan, size_at, whole_patches
from hardviews.views.streams import stream
from hardviews.views.transforms import check_transforms
from hardviews.wording import several

# The resolution of fast scoring, chosen to keep most of the hardness: ViTs depend less on the size of objects than
# convolutions do, and small images can't be reduced further (docs/cost.md has the measurements).
FAST_WITH_PATCHES, FAST_WITH_CONVOLUTIONS = 0.5, 0.75
FAST_FROM = 64  # pixels


def resolve_defaults(
    options: PretrainOptions, source: ImageSource | Stream, on_init: Callable[[Match], None] | None = None
) -> tuple[PretrainOptions, Method[Any]]:
    """Builds the method on its backbone, and resolves every option that is None or auto.

    Args:
        options: as parsed.
        source: of the images, whose size is the default size of views.
        on_init: called with the match of the weights that ``--init`` names.
    """
    check(options)
    options = resolve_pixels(options, source)
    form = pixels_of(options)
    shown_channels(form, options.show_channels)
    method_class = methods.find(options.method["name"])
    defaults = method_class.training_defaults
    image_size = options.image_size or source.native_size or 224
    torch.manual_seed(stream(options.seed, "weights").initial_seed())
    start = start_of(options, image_size)
    network = options.backbone if start is None else replace(options.backbone, stem=start.stem)
    backbone = create_backbone(
        network.name if network.module is None else network.module, image_size,
        stem=network.stem, pretrained=network.pretrained, image_channels=form.channels, **network.keywords,
    )  # fmt: skip
    own = library_of(network.name) in ("function", "object")  # which may bring weights with them
    wanted: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", {}) if network.pretrained or own else {}
    if start is not None:
        wanted = start.known
        if start.weights is not None:
            match = load_weights(backbone, start.weights, f"init: {options.init}")
            say(f"init: {options.init}: {match}")
            if on_init:
                on_init(match)
    mean, std = normalisation(options, wanted, source)
    asked, image_size = image_size, whole_patches(image_size, patch_size(backbone))
    drawn = of_the_method(options.plan, method_class.default_plan)
    plan = _call("plan", method_class.default_plan, image_size, **drawn)
    plan = with_transforms(with_tones(plan, options.plan, drawn), options)
    if lost := left_out(plan, form.rgb, options.recipe):
        say(lost)
    plan = plan.for_channels(mean, std, form.rgb)
    plan = replace(plan, colour=options.colour, multiple=patch_size(backbone), crops=options.crops)
    check_sizes(network.name, backbone, plan)
    say_rounded({asked: image_size} | {slot.size: size_at(plan, slot) for slot in plan.slots}, plan.multiple)
    small = options.train_resolution
    if small == 1 and options.full_resolution_from != PretrainOptions.full_resolution_from:
        say("full-resolution-from: without --train-resolution, all views have their full size anyway")
    if small < 1:
        check_sizes(network.name, backbone, plan, small, "train-resolution")
        say_rounded({whole_patches(s.size * small, 1): size_at(plan, s, small) for s in plan.slots}, plan.multiple)
    if options.views is not None:
        plan = plan.with_draws(options.views if isinstance(options.views, int) else tuple(options.views))
    check_transforms(plan)
    settings = {key: value for key, value in options.method.items() if key != "name"}
    method: Method[Any] = _call("method", method_class, backbone, plan, **settings)
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    if accelerator == "cpu" and precision == "16-mixed":
        raise InputError("precision: 16-mixed is for GPUs; give bf16-mixed or 32-true")
    if options.strategy == "fsdp":
        check_blocks(method)
        if precision == "16-mixed":  # whose scaler fabric has not for it
            precision = "32-true"
    if accelerator == "cpu" and precision == "bf16-mixed":
        check_gradients(backbone, plan, small)
    channels_last = options.channels_last != "off"
    if channels_last:
        method = method.to(memory_format=torch.channels_last)
    resolved = {
        name: getattr(defaults, name) if getattr(options, name) is None else getattr(options, name)
        for name in (
            "optimizer",
            "lr",
            "min_lr",
            "momentum",
            "warmup_epochs",
            "decay_bias_and_norm",
            "clip",
            "clip_mode",
        )
    }
    # A weight decay of the user's own does not change unless they say so.
    changes = options.weight_decay is None and options.weight_decay_end is None
    resolved["weight_decay"] = defaults.weight_decay if options.weight_decay is None else options.weight_decay
    resolved["weight_decay_end"] = defaults.weight_decay_end if changes else options.weight_decay_end
    if options.warmup_epochs is None:
        resolved["warmup_epochs"] = min(defaults.warmup_epochs, options.epochs / 10)
    resolved |= resolve_scoring(options, backbone, plan, image_size)
    if resolved["optimizer"] not in OPTIMIZERS:
        raise unknown("optimizer", resolved["optimizer"], OPTIMIZERS)
    return replace(
        options, **resolved, backbone=network, image_size=image_size, mean=plan.mean, std=plan.std,
        accelerator=accelerator, precision=precision, channels_last="on" if channels_last else "off",
        crop=options.crop or (1.0 if source.native_size else 0.875),
        views=[slot.draw for slot in plan.slots], decode_size=options.decode_size or 2 * image_size,
    ), method  # fmt: skip


def resolve_scoring(options: PretrainOptions, backbone: nn.Module, plan: ViewPlan, image_size: int) -> dict[str, Any]:
    """The ``score_...`` options that may be left open.

    Raises:
        InputError: the backbone takes no views as small as was asked for.
    """
    fast = FAST_WITH_PATCHES if patch_size(backbone) > 1 else FAST_WITH_CONVOLUTIONS
    small = options.train_resolution
    fits = image_size * small >= FAST_FROM and not options.score_once
    usual = Scoring(fast) if options.scoring == "fast" and fits else EXACT
    given = {name: getattr(options, f"score_{name}") for name in ("resolution", "network", "token_keep")}
    resolved = {name: getattr(usual, name) if value is None else value for name, value in given.items()}
    if 0 < resolved["resolution"] < 1:  # what is out of range is refused where Scoring is made
        try:
            scored = resolved["resolution"]
            for size in {size_at(plan, slot, part * scored) for slot in plan.slots for part in (1.0, small)}:
                check_features(type(backbone).__name__, backbone, size, plan.channels)
        except InputError as error:
            if given["resolution"] is not None:
                raise InputError(f"score-resolution: {error}") from error
            say(f"candidates are scored at full size: {error}")
            resolved["resolution"] = 1.0
    return {f"score_{name}": value for name, value in resolved.items()}


def check_sizes(name: str, backbone: nn.Module, plan: ViewPlan, resolution: float = 1.0, option: str = "plan") -> None:
    """Raises InputError, which names the option, where the backbone can't take views of a size in the plan."""
    for slot in plan.slots:
        try:
            check_features(name, backbone, size_at(plan, slot, resolution), plan.channels)
        except InputError as error:
            raise InputError(f"{option}: of the views of kind {slot.name!r}: {error}") from error


def check_gradients(backbone: nn.Module, plan: ViewPlan, resolution: float) -> None:
    """torch's bfloat16 convolutions for CPUs give what happens to be in memory as the gradient of a strided convolution
    that sees one pixel (found in torch 2.15; full precision and GPUs are sound)."""
    for side in {size_at(plan, slot, part) for slot in plan.slots for part in (1.0, resolution)}:
        name = strided_over_one_pixel(backbone, side, plan.channels)
        if name:
            raise InputError(
                f"views of {side} px shrink to one pixel before the backbone's {name}, whose gradient torch gets wrong "
                "in bf16 on CPUs; give larger views (also in --train-resolution), --backbone.stem cifar, or "
                "--precision 32-true"
            )


def say_rounded(sizes: Mapping[int, int], patch: int) -> None:
    """Prints which view sizes are rounded to whole patches."""
    rounded = {size: rendered for size, rendered in sizes.items() if size != rendered}
    if rounded:
        before, after = (" and ".join(map(str, numbers)) for numbers in (rounded.keys(), rounded.values()))
        say(f"views of {before} px are rendered at {after} px: whole patches of {patch}")


def check(options: PretrainOptions) -> None:
    """Raises InputError for values that no run can work with."""
    policies.named(options.policy)
    check_crops(options.crops)
    if not 0 <= options.min_contrast <= 1:
        raise InputError(f"min-contrast: {options.min_contrast:g} must be 0 to 1")
    if not 0 <= options.select_from < options.select_until <= 1:
        raise InputError(
            f"--select-from {options.select_from:g} and --select-until {options.select_until:g} must be an increasing "
            "range within 0 to 1, parts of the run"
        )
    if not 0 < options.train_resolution <= 1:
        raise InputError(f"train-resolution: {options.train_resolution:g} must be above 0 and at most 1")
    if not 0 < options.full_resolution_from <= 1:
        raise InputError(
            f"full-resolution-from: {options.full_resolution_from:g} must be above 0 and at most 1, a part of the run"
        )
    at_least = {
        1: "batch_size grad_accumulation epochs devices nodes log_steps knn_k image_size decode_size max_batch_bytes "
        "max_nonfinite_steps epoch_images",
        0: "workers checkpoint_steps keep_epochs knn_epochs knn_bank lr min_lr weight_decay weight_decay_end clip "
        "momentum warmup_epochs max_unreadable telemetry gallery shuffle_bytes",
    }
    for least, names in at_least.items():
        for name in names.split():
            value = getattr(options, name)
            if value is not None and value != "auto" and value < least:
                raise InputError(f"{name.replace('_', '-')}: {value} must be at least {least}")
    if not 0 < options.layer_decay <= 1:
        raise InputError(f"layer-decay: {options.layer_decay:g} must be above 0 and at most 1")
    if options.strategy == "fsdp" and options.compile:
        raise InputError("compile: not with strategy fsdp; leave one of them out")
    if options.strategy == "fsdp" and options.precision == "16-mixed":
        raise InputError("precision: 16-mixed is not to be had with strategy fsdp; give bf16-mixed or 32-true")
    if options.knn_temperature <= 0:
        raise InputError(f"knn-temperature: {options.knn_temperature} must be above 0")
    if options.warmup_epochs is not None and options.warmup_epochs > options.epochs:
        raise InputError(
            f"warmup-epochs: {options.warmup_epochs:g} is more than the run's {several(options.epochs, 'epoch')}"
        )
    if options.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise InputError("wandb: not installed; pip install 'hardviews[wandb]'")


def _call(prefix: str, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Calls a function with the user's settings; a wrong name or value raises InputError of one line."""
    try:
        return function(*arguments, **settings)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if wrong and wrong[1] in settings:
            line = f"unknown setting {prefix}.{wrong[1]}"
        elif settings:
            usual = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
            given = [f"{prefix}.{name} {value}" for name, value in settings.items() if value != usual.get(name)]
            line = f"{', '.join(given) or prefix}: {' '.join(str(error).split())[:160]}"
        else:
            raise
        raise InputError(f"{line}; see hardviews pretrain --method NAME --help") from error


def config_of(options: PretrainOptions) -> dict[str, Any]:
    """What ``config.yaml`` holds of resolved options."""
    # Objects are stored by name.
    options = replace(options, backbone=replace(options.backbone, module=None), plan=names_of_transforms(options.plan))
    config = {key: value for key, value in asdict(options).items() if key not in ("out", "allow_pipe")}
    del config["backbone"]["module"]
    if options.extend is None:
        del config["extend"], config["extend_schedule"]
    return config


def run_folder_name(options: PretrainOptions, now: str) -> Path:
    """The default run folder: ``runs/TIME-METHOD-DATA``."""
    data = re.sub(r"[^\w.-]+", "-", Path(str(options.data)).name) or "data"
    return Path("runs") / f"{now}-{options.method['name'].rpartition('.')[2]}-{data}"
