"""Pretraining on a data set of your own: any ``torch.utils.data.Dataset``, here discs drawn by PIL.

    PYTHONPATH=examples hardviews pretrain --data python:own_dataset:discs --epochs 1 --out runs/discs
    python examples/own_dataset.py                       # what the loader makes of it

``python:MODULE:FUNCTION`` names a function that returns the data set. In Python, ``as_source`` takes the data set
itself. Labels are for evaluation alone; pretraining never looks at them, and a data set without labels will do.
"""

from itertools import islice

from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from hardviews.data.loading.loader import Loader
from hardviews.data.sources import as_source


class Discs(Dataset[tuple[Image.Image, int]]):
    """Grey discs on colours: 200 images of different sizes, the class is large or small."""

    classes = ("small", "large")

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        label = index % 2
        side = 40 + index % 7
        image = Image.new("RGB", (side, side), (index, 255 - index, 7 * index % 256))
        radius = 8 + 8 * label
        corner = (side // 2 - radius, side // 2 - radius, side // 2 + radius, side // 2 + radius)
        ImageDraw.Draw(image).ellipse(corner, fill=(128, 128, 128))
        return image, label  # no random transform here: hardviews draws the views


def discs() -> Discs:
    """What ``--data python:own_dataset:discs`` calls."""
    return Discs()


def main() -> None:
    source = as_source(discs())
    print(f"{source.name}: {len(source)} images of {source.class_names}")
    for batch in islice(Loader(source, batch_size=8, seed=0, workers=2).batches(), 3):
        print(f"batch of {len(batch)}; the first is image {batch.index[0]}, {list(batch.image(0).shape)}")


if __name__ == "__main__":
    main()
