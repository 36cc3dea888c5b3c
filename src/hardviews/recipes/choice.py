"""Which recipe fits a set of images, for runs that name none. Importing this imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hardviews.console import say
from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.wording import several

LARGEST = 10_000  # images of a small set, for which a run of some thousand steps has 20 epochs or more
TUNED = "small_rgb_tuned"
NONE = "none"  # --recipe none: the options' defaults

# Options that a recipe is made of. Who gives one of them has a run in mind, and gets the defaults for the rest.
DECISIVE = ("recipe", "config", "extend", "init", "method", "backbone", "plan")


class Facts(NamedTuple):
    """What a set of images is.

    Args:
        images: how many.
        channels: of each.
        rgb: whether these are red, green and blue.
        ct: whether their values are Hounsfield units.
    """

    images: int
    channels: int = 3
    rgb: bool = True
    ct: bool = False

    @property
    def recipe(self) -> str:
        """The recipe for a small set of such images."""
        grey = "ct" if self.ct else "grey_medical"
        return "small_rgb" if self.rgb else grey if self.channels == 1 else "multispectral"


Look = Callable[[PretrainOptions], Facts]


class Choice(NamedTuple):
    """A recipe's name, None for the defaults; and a line that says why."""

    recipe: str | None
    why: str


def is_open(argv: list[str]) -> bool:
    """Whether a command line leaves the recipe open."""
    options = (argument[2:] for argument in argv if argument.startswith("--"))
    return {option.partition("=")[0].partition(".")[0] for option in options}.isdisjoint(DECISIVE)


def choice(facts: Facts) -> Choice:
    """The recipe for a set of images."""
    count = several(facts.images, "image")
    if facts.images > LARGEST:
        return Choice(None, f"no recipe: {count} are no small set (up to {LARGEST:,}), so the defaults hold")
    if not facts.rgb:
        count += f" of {several(facts.channels, 'channel')}"
    if facts.ct:
        count += ", which look like CT in Hounsfield units"
    others = f"your options replace its own, --recipe {NONE} takes the defaults"
    if facts.ct:
        others += "; --value-range lung is for lungs, --recipe grey_medical for what is not CT"
    return Choice(facts.recipe, f"recipe {facts.recipe} for {count}, a small set (up to {LARGEST:,}): {others}")


def chosen(options: PretrainOptions, look: Look) -> tuple[str | None, int | None]:
    """The recipe for the data of a command line that leaves it open, and the number of images if it was counted; says
    which and why. A run that resumes keeps its own. The built-in set and streams have none."""
    from hardviews.data.sources.streams import is_stream
    from hardviews.training.output.run_folder import RunFolder

    data, run = str(options.data), RunFolder(Path(options.out or "."))
    if options.out and run.config_file.is_file():
        return run.config().get("recipe"), None
    if is_stream(data) or (data.lower().partition(":")[0] == "shapes" and not Path(data).exists()):
        return None, None
    facts = look(options)
    found = choice(facts)
    say(found.why)
    return found.recipe, facts.images


def facts_of(options: PretrainOptions, source: Any = None) -> Facts:
    """What the images are that the options name, or that are given as a source.

    Raises:
        InputError: a stream, whose size is not known, or a single image, of which no recipe learns.
    """
    from hardviews.data.sources.streams import is_stream
    from hardviews.setup.data import opened
    from hardviews.setup.pixels import find_pixels
    from hardviews.setup.value_range import is_ct

    if is_stream(str(options.data)):
        raise InputError(f"recipe: {options.recipe} is for small sets, and {options.data} is a stream; give another")
    source = opened(options, str(options.data), "train") if source is None else source
    if len(source) == 1:
        raise InputError(
            f"data: {source.name} has 1 image, and training takes at least 2: add images, or cut a large one into "
            "parts with --tile 256"
        )
    form, _ = find_pixels(options, source)
    return Facts(len(source), form.channels, form.rgb, is_ct(form, options.value_range))
