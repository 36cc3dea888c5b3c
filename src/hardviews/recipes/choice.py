"""Which recipe fits a set of images, for runs that name none. Importing this imports no torch."""

from typing import NamedTuple

from hardviews.wording import several

LARGEST = 10_000  # images of a small set, for which a run of some thousand steps has 20 epochs or more
SMALL = {3: "small_rgb"}  # by the images' channels
TUNED = "small_rgb_tuned"
NONE = "none"  # --recipe none: the options' defaults

# Options that a recipe is made of. Who gives one of them has a run in mind, and gets the defaults for the rest.
DECISIVE = ("recipe", "config", "extend", "init", "method", "backbone", "plan")


class Choice(NamedTuple):
    """A recipe's name, None for the defaults; and a line that says why."""

    recipe: str | None
    why: str


def is_open(argv: list[str]) -> bool:
    """Whether a command line leaves the recipe open."""
    options = (argument[2:] for argument in argv if argument.startswith("--"))
    return {option.partition("=")[0].partition(".")[0] for option in options}.isdisjoint(DECISIVE)


def choice(images: int, channels: int = 3) -> Choice:
    """The recipe for a set of so many images with so many channels."""
    count = several(images, "image")
    if images > LARGEST:
        return Choice(None, f"no recipe: {count} are no small set (up to {LARGEST:,}), so the defaults hold")
    if channels not in SMALL:
        return Choice(None, f"no recipe: none is made for {several(channels, 'channel')}, so the defaults hold")
    name = SMALL[channels]
    others = f"options that you give replace its own, --recipe {NONE} takes the defaults"
    return Choice(name, f"recipe {name} for {count}, a small set (up to {LARGEST:,}): {others}")
