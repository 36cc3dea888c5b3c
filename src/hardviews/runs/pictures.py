"""A run's training pictures, for pages about it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from hardviews.data.reading.decode import Bounds, UnreadableImage, printable
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError
from hardviews.setup.data import opened
from hardviews.telemetry.shown import picture, shown_channels
from hardviews.views.pixels import Pixels
from hardviews.wording import several

if TYPE_CHECKING:  # these need the extra
    from hardviews.analysis.pictures import Original
    from hardviews.analysis.run import Run


def source_of(run: "Run") -> ImageSource | str:
    """The training pictures; or, as text, why there are none."""
    data, config = run.config.get("data"), run.config
    if not data:
        return "the run names no data"
    options = SimpleNamespace(
        data_root=config.get("data_root", "data"),
        download=False,
        image_column=config.get("image_column", "image"),
        label_column=config.get("label_column", "label"),
        tile=config.get("tile", 0),
        frames=config.get("frames", "first"),
    )
    try:
        source = opened(options, str(data), "train")
    except InputError as error:
        return str(error)
    except Exception as error:  # a table or a set that was damaged since; the report works without pictures
        return f"{data}: {' '.join(str(error).split())[:160]}"
    if run.images is not None and len(source) != run.images:
        return f"{data} holds {several(len(source), 'picture')} now, and the run had {run.images:,}"
    return source


def reader(run: "Run", source: ImageSource | str) -> "Callable[[int], Original | None] | str":
    """A function that reads pictures by index; or, as text, why there is none."""
    from hardviews.analysis.pictures import READ, Original

    if isinstance(source, str):
        return source
    form = Pixels.from_config(run.config)
    shown = shown_channels(form, run.config.get("show_channels"))

    def read(index: int) -> "Original | None":
        from PIL import Image

        try:
            stored = source.read(index, Bounds(side=READ, form=form)).permute(2, 0, 1)
            pixels = Image.fromarray(picture(stored, form, shown).permute(1, 2, 0).contiguous().numpy())
        except (UnreadableImage, OSError):
            return None
        return Original(index, name_of(source, index), class_of(source, index), pixels)

    return read


def name_of(source: ImageSource, index: int) -> str:
    """A picture's file name, after its class folder if it lies in one, or its number."""
    path = Path(printable(source.path(index)))
    if path.name.isdigit():
        return f"picture {path.name}"
    return f"{path.parent.name}/{path.name}" if path.parent.name == class_of(source, index) else path.name


def class_of(source: ImageSource, index: int) -> str | None:
    """The name of a picture's class, or its number."""
    if source.labels is None:
        return None
    label = int(source.labels[index])
    return source.class_names[label] if source.class_names else f"class {label}"
