"""``hardviews evaluate``: what a backbone is worth on labelled data."""

from dataclasses import dataclass
from typing import Literal

from hardviews.commands.parsing import Parser, summary
from hardviews.errors import InputError


@dataclass
class EvaluateOptions:
    """Measures the kNN accuracy of a run's backbone, or of any timm model, on labelled data.

    Args:
        data: labelled data that votes: a folder with class folders, a Parquet table, a torchvision data set's name,
            or shapes.
        test_data: labelled data that is classified; by default the test split of a named set, else a held-out tenth of
            --data (held out from the vote only).
        data_root: where torchvision's data sets lie.
        download: let torchvision fetch a data set that is not there.
        image_column: the table's column of encoded images.
        label_column: the table's column of labels.
        checkpoint: for a timm model: its weights from this file instead of the hub (.safetensors, .pth).
        pretrained: for a timm model: false measures it with random weights.
        image_size: in pixels; by default the run's, or the size the timm model was trained for.
        mean: per channel, of pixels in 0..1; by default the run's or the timm model's.
        std: per channel, as mean.
        crop: side of the central crop as a part of the shorter side; by default 1 for small images, else the model's or
            0.875.
        knn_k: neighbours that vote, one number or several (10,20,200).
        knn_temperature: of the votes.
        batch_size: images encoded at once.
        workers: processes that decode images.
        accelerator: cpu, cuda, mps, or auto.
        precision: auto is bf16 where the device is fast at it, else fp32.
        seed: of the held-out tenth; by default the run's, else 0.
    """

    data: str
    test_data: str | None = None
    data_root: str = "data"
    download: bool = False
    image_column: str = "image"
    label_column: str = "label"
    checkpoint: str | None = None
    pretrained: bool = True
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop: float | None = None
    knn_k: int | list[int] = 20
    knn_temperature: float = 0.07
    batch_size: int = 256
    workers: int = 2
    accelerator: str = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = "auto"
    seed: int | None = None


def run(argv: list[str]) -> None:
    """Parses a command line and measures."""
    parser = Parser(
        prog="hardviews evaluate",
        usage="hardviews evaluate RUN_OR_MODEL --data DATA [--test-data DATA] [options]",
        description=summary(EvaluateOptions),
    )
    parser.add_argument("target", type=str, metavar="RUN_OR_MODEL", help="a run folder, or a timm model's name")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_options(EvaluateOptions)
    given = parser.parse(argv).as_dict()
    target, as_json = given.pop("target"), given.pop("json")
    if given["data"] is None:
        raise InputError("data: give --data, labelled images to measure on")
    # Only here, so that help and wrong options need not wait for torch.
    from hardviews.commands.measuring import evaluate

    evaluate(target, EvaluateOptions(**given), as_json)
