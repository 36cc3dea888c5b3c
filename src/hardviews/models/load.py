"""Backbones that are measured, embedded with and exported: of a run, of timm, or of a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from hardviews.console import say
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.evaluation.features import Preprocessing
from hardviews.launch.global_state import global_state_restored
from hardviews.models.transform import transform_of
from hardviews.models.vectors import on_device, vectors_of
from hardviews.networks.backbone_sources import library_of, trained_size
from hardviews.networks.backbones import Built, Stem, build_backbone, check_features
from hardviews.networks.timm_folders import is_local, read_config, whole_config
from hardviews.networks.transformers_backbone import channels_of, read_configuration
from hardviews.networks.weights import load_weights, read_weights
from hardviews.training.distributed.sharded_state import misfit
from hardviews.training.output.run_weights import run_weights
from hardviews.views.centre import CROP_MODES, CropMode
from hardviews.views.pixels import RGB, Pixels
from hardviews.views.plan import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class LoadedModel:
    """A backbone, and how its images are made ready unless the user says otherwise.

    Args:
        name: a run's folder or a model's name.
        built: the backbone and what makes it again.
        preprocessing: of its images.
        config: of a run.
        step: that the run has come to.
    """

    name: str
    built: Built
    preprocessing: Preprocessing
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0

    @property
    def backbone(self) -> nn.Module:
        """The network: images ``[B, C, S, S]``, as ``transform`` gives them, to features ``[B, D]``."""
        return self.built.backbone

    @property
    def transform(self) -> v2.Compose:
        """From an image to the network's input, float32 ``[C, S, S]``: the numbers that evaluation gives the network.

        It takes a PIL image, an array ``[h, w, C]``, a tensor ``[C, h, w]`` or the path of an image file. Arrays and
        tensors of RGB are uint8, or float from 0 to 1; others have the channels and the type of ``form``, as stored.
        """
        return transform_of(self.preprocessing)

    @property
    def form(self) -> Pixels:
        """Channels, type and range of values of its images."""
        return self.preprocessing.form

    @global_state_restored()
    def embed(
        self, images: Any, *, batch_size: int = 256, workers: int = 0, device: str | torch.device | None = None
    ) -> Tensor:
        """Features of images, float32 ``[N, D]`` on the CPU, in the order of the images.

        Args:
            images: a list of N images in any mixture, each as ``transform`` takes it.
            batch_size: images encoded at once.
            workers: processes that decode images; 0 decodes in this one.
            device: where to encode, such as cuda; by default where the backbone is. It goes back there afterwards.

        Raises:
            InputError: there is no image, one can't be read, or there is no such device.

        Example:
            >>> import hardviews, numpy as np
            >>> model = hardviews.load("resnet18", pretrained=False, image_size=32)
            >>> model.embed([np.zeros((40, 50, 3), np.uint8), np.ones((32, 32, 3))]).shape
            torch.Size([2, 512])
        """
        with on_device(self.backbone, device):
            return vectors_of(self.backbone, self.preprocessing, images, batch_size, workers)

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))


@global_state_restored()
def load_model(
    target: str,
    checkpoint: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    module: nn.Module | None = None,
) -> LoadedModel:
    """The backbone of a run, or one by its name; an existing folder wins.

    Args:
        target: a run folder or a backbone's name, as ``build_backbone`` takes it.
        checkpoint: for a named backbone: its weights from this file instead of the hub.
        pretrained: for a named backbone: false leaves its weights random.
        image_size: for a named backbone: the size it is made for; by default that it was trained for.
        module: for a run that was given its backbone as an object: a module of the same architecture; a copy receives
            the weights.

    Raises:
        InputError: there is no such backbone, or its weights do not fit.
    """
    if not Path(target).is_dir():
        return named_subject(target, checkpoint, pretrained, image_size)
    if checkpoint is not None:
        raise InputError(f"checkpoint: {target} is a run, which has its own; leave the option out")
    return run_subject(Path(target), module)


def run_subject(folder: Path, module: nn.Module | None = None) -> LoadedModel:
    """The backbone of a run, from its last checkpoint."""
    config, weights, step = run_weights(folder)
    network = {"stem": "auto", "pretrained": False, "keywords": {}} | config["backbone"]
    form = Pixels.from_config(config)
    # Its weights are in the checkpoint: nothing is asked of timm's hub.
    stem: Stem = "imagenet" if network["pretrained"] and network["stem"] == "auto" else network["stem"]
    built = build_backbone(
        network["name"] if module is None else module, config["image_size"], stem=stem,
        image_channels=form.channels, **network["keywords"],
    )  # fmt: skip
    if wrong := misfit(weights, built.backbone):
        given = "config.yaml" if module is None else "the module"
        raise InputError(f"{folder}: the checkpoint does not fit {given}: {wrong}")
    built.backbone.load_state_dict(weights)
    ready = Preprocessing(
        config["image_size"], tuple(config["mean"]), tuple(config["std"]), config.get("crop") or 0.875, form=form
    )
    return LoadedModel(str(folder), built, ready, config, step)


def named_subject(name: str, checkpoint: str | None, pretrained: bool, image_size: int | None) -> LoadedModel:
    """A named backbone, with its pretrained weights, those of a file, or random ones."""
    weights = None if checkpoint is None else read_weights(Path(checkpoint), "checkpoint")
    library = library_of(name)
    if library != "timm":
        side = trained_size(name)
        trained = side and (3, side, side)
    elif is_local(name):
        trained = read_config(name)[0].get("input_size")
    else:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
        trained = config.input_size if config else None
        if config is None and ("/" in name or "." in name):
            raise InputError(
                f"{name} is neither a run folder nor a timm model; a function of your own is MODULE:NAME, a model of "
                "transformers hf:NAME"
            )
    size = image_size or (trained[-1] if trained else 224)
    loads = pretrained and weights is None and library != "function"  # a function brings its own
    form = form_of(name)
    built = build_backbone(name, size, stem="imagenet", pretrained=loads, image_channels=form.channels)
    if weights is not None:
        name = f"checkpoint: {checkpoint}"
        match = load_weights(built.backbone, weights, name)
        if match.missing:  # half a network would give a figure that means nothing
            raise InputError(f"{name} does not fit: {match}")
    ready = timm_preprocessing(name, size, getattr(built.backbone, "pretrained_cfg", {}), form)
    return LoadedModel(name, built, ready)


def form_of(name: str) -> Pixels:
    """What the images of a named backbone are: as an exported folder says, else RGB. Of a folder that says only how
    many channels there are, they are taken for 8-bit ones."""
    said: Mapping[str, Any] = {}
    if library_of(name) == "transformers":
        found = read_configuration(name.partition(":")[2], {})
        said, channels = {"pixels": getattr(found, "pixels", None)}, channels_of(found)
    elif is_local(name):
        said, channels = whole_config(name), int(read_config(name)[2].get("in_chans", 3))
    else:
        return RGB
    form = Pixels.from_config(said)
    if form.channels == channels:
        return form
    say(f"{name}: takes {channels} channels, and does not say of which type: 8-bit ones are taken")
    return Pixels(channels, rgb=False)


def timm_preprocessing(name: str, size: int, found: Mapping[str, Any], form: Pixels = RGB) -> Preprocessing:
    """What timm's own transform does for a model, at ``size`` pixels.

    Args:
        name: of the model, for messages.
        size: in pixels.
        found: the model's ``pretrained_cfg``.
        form: what its images are.
    """
    mode = found.get("crop_mode") or "center"
    if mode not in CROP_MODES:
        say(f"{name}: timm's crop mode {mode!r} is not supported; the central square is cut out instead")
        mode = "center"
    return Preprocessing(
        size,
        tuple(found.get("mean", IMAGENET_MEAN)),
        tuple(found.get("std", IMAGENET_STD)),
        float(found.get("crop_pct") or 0.875),
        found.get("interpolation") or "bicubic",
        cast(CropMode, mode),
        form,
    )


class EncodeOptions(Protocol):
    """What verbs have that encode images by a backbone."""

    @property
    def image_size(self) -> int | None: ...
    @property
    def mean(self) -> tuple[float, ...] | None: ...
    @property
    def std(self) -> tuple[float, ...] | None: ...
    @property
    def crop(self) -> float | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def workers(self) -> int: ...


def check(options: EncodeOptions) -> None:
    """Raises InputError where no backbone could encode with such options."""
    if options.batch_size < 1 or options.workers < 0:
        raise InputError(f"--batch-size {options.batch_size} and --workers {options.workers} must be at least 1 and 0")
    if options.crop is not None and not 0 < options.crop <= 1:
        raise InputError(f"crop: {options.crop} must be above 0 and at most 1")
    if options.image_size is not None and options.image_size < 1:
        raise InputError(f"image-size: {options.image_size} must be at least 1")
    if options.std is not None and min(options.std) <= 0:
        raise InputError(f"std: {list(options.std)} must be above 0")


def preprocessing(subject: LoadedModel, options: EncodeOptions, source: ImageSource | None = None) -> Preprocessing:
    """The subject's, but for what the user says; images of a source of small ones are not cropped.

    Raises:
        InputError: the backbone does not take images of the size that the user asked for, or mean and std are not one
            number for each channel.
    """
    ready = subject.preprocessing
    if options.image_size is not None:
        check_features(subject.name, subject.backbone, options.image_size, ready.form.channels)
    return replace(
        ready,
        image_size=options.image_size or ready.image_size,
        mean=options.mean or ready.mean,
        std=options.std or ready.std,
        crop=options.crop or (1.0 if source and source.native_size else ready.crop),
    )
