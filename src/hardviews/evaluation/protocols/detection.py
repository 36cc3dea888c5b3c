"""Object detection: average precision of a Faster or Mask R-CNN trained briefly on the backbone.

Follows He et al., "Momentum Contrast" (CVPR 2020, arXiv 1911.05722, section 4.2) and ViTDet (arXiv 2203.16527). The
published 1x schedule is 12 epochs of COCO in batches of 16; the rate is divided by ten after two thirds and after eight
ninths of it.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hardviews.data.labelled.coco import coco_tools, quiet
from hardviews.data.labelled.scenes import SIZE, Scenes, open_scenes
from hardviews.data.loading.read_ahead import batches
from hardviews.errors import InputError, RunError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.detector import detector, target
from hardviews.evaluation.features import evaluating
from hardviews.evaluation.pyramid import Pyramid
from hardviews.evaluation.rng import seeded
from hardviews.evaluation.short_training import decay_rate, shuffled

MIN_SIZE = 800  # default shorter side of photographs in pixels
BATCH = 16  # batch size of the default rates
RATES = {"sgd": 0.02, "adamw": 1e-4}  # for a batch of 16
DECAYS = {"sgd": 1e-4, "adamw": 0.1}


@dataclass(frozen=True)
class DetectorTraining:
    """The settings of ``detection`` with all defaults filled in."""

    steps: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    masks: bool


def detection(
    bench: Bench,
    epochs: int = 12,
    steps: int | None = None,
    batch_size: int = BATCH,
    optimizer: Literal["auto", "sgd", "adamw"] = "auto",
    lr: float | None = None,
    weight_decay: float | None = None,
    min_size: int | None = None,
    max_size: int = 1333,
    width: int = 256,
    frozen: bool = False,
    masks: bool | None = None,
) -> Iterator[tuple[str, float]]:
    """Trains a detector on the backbone briefly and measures COCO's average precision.

    --data is a folder in COCO's layout (annotations/instances_train2017.json with train2017, and val2017 likewise), or
    shapes. On a CPU the same seed gives identical figures; on a GPU nearly so.

    Args:
        epochs: of training; 12 is the published 1x schedule on COCO.
        steps: of training, instead of epochs; 0 measures the untrained detector.
        batch_size: pictures per step.
        optimizer: auto is sgd for networks with several stages and adamw for plain Vision Transformers, as published.
        lr: peak rate; by default 0.02 (sgd) or 1e-4 (adamw) for 16 pictures, in proportion for other batch sizes.
        weight_decay: of all parameters except norms and biases; by default 1e-4 (sgd) or 0.1 (adamw).
        min_size: shorter side of pictures after resizing; by default 800, or 128 for shapes. Anchors are 8 strides
            wide: 32 to 512 pixels, or 8 to 128 with a ResNet's CIFAR stem, which suits smaller pictures.
        max_size: maximum longer side after resizing.
        width: channels of the feature pyramid; the heads' width is in proportion.
        frozen: train only the detector, not the backbone. The backbone's batch norms are never trained.
        masks: also train and measure masks, by Mask R-CNN; by default if the data has them.

    Yields:
        ``("box_ap", value)``, ``box_ap50``, ``box_ap75``, and with masks ``mask_ap``, ``mask_ap50``, ``mask_ap75``.

    Raises:
        InputError: a setting or the data is invalid.
        RunError: training diverged.
    """
    at_least = {"epochs": 1, "steps": 0, "batch_size": 1, "min_size": 32, "max_size": 32, "width": 8}
    for (name, least), value in zip(
        at_least.items(), (epochs, steps, batch_size, min_size, max_size, width), strict=True
    ):
        if value is not None and value < least:
            raise InputError(f"detection: {name} {value} must be at least {least}")
    if (lr is not None and lr <= 0) or (weight_decay is not None and weight_decay < 0):
        raise InputError("detection: lr must be above 0 and weight_decay not below")
    bench.check_rgb("detection", "its pictures are RGB")
    coco_tools()
    train, test = (open_scenes(bench.data, split, min_size or SIZE) for split in ("train", "test"))
    check(train, test, masks)
    bench.scenes["detection"] = (test.name, len(train), len(test))
    with seeded(bench.seed, bench.device):
        pyramid = Pyramid(deepcopy(bench.backbone), width, frozen)
        kind = optimizer if optimizer != "auto" else "adamw" if pyramid.stages.plain else "sgd"
        training = DetectorTraining(
            steps=math.ceil(epochs * len(train) / batch_size) if steps is None else steps,
            batch_size=batch_size,
            optimizer=kind,
            lr=lr or RATES[kind] * batch_size / BATCH,
            weight_decay=DECAYS[kind] if weight_decay is None else weight_decay,
            masks=train.has_masks if masks is None else masks,
        )
        shorter = min_size or train.native_size or MIN_SIZE
        network = detector(
            pyramid, len(train.categories), training.masks, bench.preprocessing, shorter, max(shorter, max_size)
        )
        network.to(bench.device)
        fit(network, train, training, bench)
        found = detections(network, test, train.category_ids, training, bench)
    truth = test.truth()
    for name, part in (("box", "bbox"), ("mask", "segmentation"))[: 2 if training.masks else 1]:
        for suffix, precision in zip(("", "50", "75"), average_precision(truth, found, part), strict=True):
            yield f"{name}_ap{suffix}", precision


def check(train: Scenes, test: Scenes, masks: bool | None) -> None:
    """Raises InputError if training and test scenes don't match, or if masks are requested but missing."""
    known = dict(zip(train.category_ids, train.categories, strict=True))
    for number, name in zip(test.category_ids, test.categories, strict=True):
        if known.get(number) != name:
            raise InputError(f"{test.name}: category {number}, {name!r}, is not one of {train.name}")
    for scenes in (train, test):
        wanted = masks if masks is not None else train.has_masks
        if wanted and not scenes.has_masks:
            raise InputError(f"{scenes.name}: some objects have no mask; give --detection.masks false")


def fit(network: nn.Module, scenes: Scenes, training: DetectorTraining, bench: Bench) -> None:
    """Trains a detector; mirroring is the only random augmentation.

    Raises:
        RunError: the loss is no longer finite.
    """
    scaler = bench.scaler()
    optimizer = optimizer_of(network, training)
    order, flips = shuffled(len(scenes), training.steps * training.batch_size, bench.seed, "detection")
    mirrored = iter(flips)
    advance = bench.progress("detection", training.steps)
    network.train()
    for step, part in enumerate(batches(scenes.read, order, training.batch_size, bench.workers)):
        for group in optimizer.param_groups:
            group["lr"] = training.lr * decay_rate(step, training.steps)
        made = [target(scene, flip, training.masks) for scene, flip in zip(part, mirrored, strict=False)]
        images = [image.to(bench.device) for image, _ in made]
        targets = [{name: value.to(bench.device) for name, value in found.items()} for _, found in made]
        with bench.autocast():
            loss = torch.stack(list(network(images, targets).values())).sum()
        if not loss.isfinite():
            raise RunError(f"detection: the loss is not finite at step {step}; a smaller --detection.lr may help")
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        advance(1)


def optimizer_of(network: nn.Module, training: DetectorTraining) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; parameters with one axis (scales and biases) get no weight decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in trained if one.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=training.lr)


def detections(
    network: nn.Module, scenes: Scenes, category_ids: Sequence[int], training: DetectorTraining, bench: Bench
) -> list[dict[str, Any]]:
    """A detector's detections on every scene, in COCO's result format."""
    found: list[dict[str, Any]] = []
    advance = bench.progress("detection test", len(scenes))
    with evaluating(network), torch.no_grad():
        for part in batches(scenes.read, range(len(scenes)), training.batch_size, bench.workers):
            with bench.autocast():
                outputs = network([target(scene, False, False)[0].to(bench.device) for scene in part])
            for scene, output in zip(part, outputs, strict=True):
                found += results(scene.id, output, category_ids)
            advance(len(part))
    return found


def results(image: int, output: dict[str, Tensor], category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The detections on one picture, in COCO's result format.

    Args:
        image: the picture's id.
        output: ``boxes [n, 4]``, ``labels [n]`` from 1, ``scores [n]`` and optionally ``masks [n, 1, h, w]`` in 0..1.
        category_ids: of labels 1..C.
    """
    from pycocotools import mask

    boxes, labels, scores = (output[name].float().tolist() for name in ("boxes", "labels", "scores"))
    masks: Iterable[Tensor | None] = output["masks"][:, 0] > 0.5 if "masks" in output else itertools.repeat(None)
    for (x0, y0, x1, y1), label, score, part in zip(boxes, labels, scores, masks, strict=False):
        result = {"image_id": image, "category_id": category_ids[int(label) - 1], "score": score}
        result["bbox"] = [x0, y0, x1 - x0, y1 - y0]
        if part is not None:
            result["segmentation"] = mask.encode(np.asfortranarray(part.cpu().numpy().astype(np.uint8)))
        yield result


def average_precision(truth: Any, found: Sequence[dict[str, Any]], part: str) -> tuple[float, float, float]:
    """COCO's AP averaged over IoUs of 0.5 to 0.95, at 0.5 and at 0.75, each 0..1.

    Args:
        truth: a ``pycocotools.coco.COCO``.
        found: from ``results``.
        part: what to compare: ``bbox`` or ``segmentation``.

    Raises:
        InputError: the test data has no objects.
    """
    from pycocotools.cocoeval import COCOeval

    if not any(not annotation.get("iscrowd") for annotation in truth.anns.values()):
        raise InputError("detection: the test data has no objects")
    if not found:  # pycocotools can't load an empty list
        return 0.0, 0.0, 0.0
    names = ("image_id", "category_id", "score", part)  # with a box, it would give the mask's area
    with quiet():
        loaded = truth.loadRes([{name: result[name] for name in names} for result in found])
        evaluation = COCOeval(truth, loaded, "bbox" if part == "bbox" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    average, half, three_quarters = map(float, evaluation.stats[:3])
    return average, half, three_quarters
