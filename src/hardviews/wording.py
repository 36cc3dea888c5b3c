"""Counts in messages."""


def several(count: int, one: str, more: str = "") -> str:
    """A number and its noun: ``1 step``, ``1,000 steps``.

    Args:
        count: at least 0.
        one: the noun, with a verb if one follows it: ``image is``.
        more: the same for any other number; by default ``one`` and an s.
    """
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"
