"""The settings of ``hardviews embed``."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class EmbedOptions:
    """Writes the features of every image of a data set to a Parquet file with columns path, label and embedding.

    Args:
        data: a folder of images, a Parquet table, WebDataset shards, hf:NAME, a torchvision data set's name, or shapes;
            its labels, where it has any, go into the file.
        out: the Parquet file; an existing one is replaced once the new one is complete.
        split: train or test, of a named set or of a folder with train-*.parquet and test-*.parquet.
        data_root: where torchvision's data sets lie.
        download: let torchvision fetch a data set that is not there.
        image_column: the table's column of encoded images.
        label_column: the table's column of labels.
        tile: cuts every image into squares of this side in pixels, each an image of its own, read without the rest
            where the format allows (docs/formats.md); 0 leaves images whole.
        frames: of a file of several frames or slices: first, or all, each an image of its own.
        checkpoint: for a timm model: its weights from this file instead of the hub (.safetensors, .pth).
        pretrained: for a timm model: false takes random weights.
        image_size: in pixels; by default the run's, or the size the timm model was trained for.
        mean: per channel, of pixels in 0..1; by default the run's or the timm model's.
        std: per channel, as mean.
        crop: side of the central crop as a part of the shorter side; by default 1 for small images, else the model's or
            0.875.
        batch_size: images encoded at once, by each process.
        workers: processes that decode images, per process that encodes.
        accelerator: cpu, cuda, or auto, which takes CUDA where it is available.
        precision: 32-true, the default, gives the same features as an exported model; auto is bf16 if the device is
            fast at it, and exact to two or three digits.
    """

    data: str
    out: str
    split: Literal["train", "test"] = "train"
    data_root: str = "data"
    download: bool = False
    image_column: str = "image"
    label_column: str = "label"
    tile: int = 0
    frames: Literal["first", "all"] = "first"
    checkpoint: str | None = None
    pretrained: bool = True
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None
    batch_size: int = 256
    workers: int = 2
    accelerator: str = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = "32-true"
