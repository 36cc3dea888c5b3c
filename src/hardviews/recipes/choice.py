"""Which recipe fits a set of images, for runs that name none. Importing this imports no torch."""

from typing import NamedTuple

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
    """

    images: int
    channels: int = 3
    rgb: bool = True

    @property
    def recipe(self) -> str:
        """The recipe for a small set of such images."""
        return "small_rgb" if self.rgb else "grey_medical" if self.channels == 1 else "multispectral"


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
    others = f"options that you give replace its own, --recipe {NONE} takes the defaults"
    return Choice(facts.recipe, f"recipe {facts.recipe} for {count}, a small set (up to {LARGEST:,}): {others}")
