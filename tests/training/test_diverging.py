"""How many skipped steps in a row a run bears."""

import pytest

from hardviews.training.diverging import HALVINGS, DivergenceWatch
from hardviews.training.output.saving import DivergedError

GOOD, BAD, OVERFLOW = {"skipped": 0.0}, {"skipped": 1.0}, {"skipped": 1.0, "overflowed": 1.0}


def after(*steps: dict[str, float]) -> list[str]:
    """What is said of these steps, of which two in a row may be bad."""
    said: list[str] = []
    watch = DivergenceWatch(3, said.append)
    watch.note([{"step": float(number), **step} for number, step in enumerate(steps)])
    return said


def test_overflows_while_the_loss_scale_is_found_are_no_bad_steps() -> None:
    said = after(*[OVERFLOW] * (HALVINGS + 2), BAD, BAD, GOOD, BAD, OVERFLOW, BAD)
    assert sum("overflowed in fp16" in line for line in said) == HALVINGS + 3
    assert sum("is not finite" in line for line in said) == 4


@pytest.mark.parametrize("steps", [[BAD] * 3, [BAD, OVERFLOW, BAD, OVERFLOW, BAD], [OVERFLOW] * (HALVINGS + 3)])
def test_too_many_of_either_end_it(steps: list[dict[str, float]]) -> None:
    with pytest.raises(DivergedError, match=f"{len(steps)} steps in a row"):
        after(GOOD, *steps)
    after(GOOD, *steps[:-1], GOOD, steps[-1])
