"""A moving average of a method's weights, whose costs the policy ``learnable`` compares with."""

from torch import nn

from hardviews.methods.base import Method
from hardviews.networks.teacher import Teacher


class Average(nn.Module):
    """Copy of a method whose weights follow: ``average = momentum · average + (1 - momentum) · method``.

    Its weights and the number of steps it has followed are all that it knows.

    Args:
        method: to copy.
        momentum: at least 0, below 1.
    """

    def __init__(self, method: Method, momentum: float) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.momentum, self.steps = momentum, 0
        self.teacher = Teacher(method=method)

    @property
    def method(self) -> Method:  # type: ignore[type-arg]
        found = self.teacher.method
        assert isinstance(found, Method)
        return found

    def begin(self, method: nn.Module) -> None:
        """Starts from the method's weights, which may have been loaded since it was copied, if it has not begun yet."""
        if not self.steps:
            self.teacher.follow([method], 0.0)

    def follow(self, method: nn.Module) -> None:
        """Call it after every step of the optimizer."""
        self.teacher.follow([method], self.momentum if self.steps else 0.0)
        self.steps += 1

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state
