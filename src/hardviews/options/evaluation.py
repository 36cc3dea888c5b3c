"""The settings of ``hardviews evaluate``."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class EvaluateOptions:
    """Measures what a run's backbone, or any timm model's, is worth on labelled data.

    Args:
        protocol: what is measured, one or several (knn,linear). Options of a protocol, such as --linear.epochs, are
            shown by hardviews evaluate --protocol linear --help.
        data: labelled images to train on, or that vote: a folder with class folders, a Parquet table, WebDataset
            shards, hf:NAME, a torchvision data set's name, or shapes. Detection takes a folder in COCO's layout
            (annotations/instances_train2017.json, train2017, and the same for val2017), segmentation a folder with
            train/images, train/masks, val/images and val/masks.
        test_data: images to classify; by default the test split of a named set, else a tenth of --data, which is held
            out of this measurement (not of the run's training). Detection and segmentation have theirs in --data.
        on: measure on several of torchvision's data sets in place of --data (cifar10,flowers102,pets); sets that are
            missing under --data-root are listed and left out.
        data_root: where torchvision's data sets lie.
        download: let torchvision fetch a data set that is not there.
        image_column: the table's column of encoded images.
        label_column: the table's column of labels.
        tile: cuts every image into squares of this side in pixels, each an image of its own, read without the rest
            where the format allows (docs/formats.md); 0 leaves images whole.
        frames: of a file of several frames or slices: first, or all, each an image of its own.
        checkpoint: for a timm model: its weights from this file instead of the hub (.safetensors, .pth).
        pretrained: for a timm model: false measures it with random weights.
        baselines: also measure the kNN accuracy of raw pixels, and of the backbone before training, which encodes all
            images once more: on, off, or auto, which does so of up to 50,000 images of --data, and not with --json.
        image_size: in pixels; by default the run's, or the size the timm model was trained for.
        mean: per channel, of pixels in 0..1; by default the run's or the timm model's.
        std: per channel, as mean.
        crop: side of the central crop as a part of the shorter side; by default 1 for small images, else the model's or
            0.875.
        batch_size: images encoded at once.
        workers: processes that decode images.
        blocks: for a ViT, linear classifiers get the class tokens of this many last blocks and the mean of the patches;
            with 0, what the backbone yields.
        cache: folder where features are stored for the next time, or off; by default RUN/features for a run, and off
            for other models.
        accelerator: cpu, cuda, or auto, which takes CUDA where it is available.
        precision: auto is bf16 where the device is fast at it, else fp32.
        seed: of the held-out tenth and everything else random; by default the run's, else 0.
    """

    protocol: str = "knn"
    data: str | None = None
    test_data: str | None = None
    on: str | None = None
    data_root: str = "data"
    download: bool = False
    image_column: str = "image"
    label_column: str = "label"
    tile: int = 0
    frames: Literal["first", "all"] = "first"
    checkpoint: str | None = None
    pretrained: bool = True
    baselines: Literal["auto", "on", "off"] = "auto"
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None
    batch_size: int = 256
    workers: int = 2
    blocks: int = 4
    cache: str | None = None
    accelerator: str = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = "auto"
    seed: int | None = None


def split_names(names: str) -> list[str]:
    """Names between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
