"""BYOL against lightly's loss and the paper's update."""

from copy import deepcopy

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.utils import update_momentum

from hardviews.methods.base import Progress
from hardviews.methods.byol import BYOL
from tests.methods.tiny import TinyBackbone


def method() -> BYOL:
    torch.manual_seed(0)
    return BYOL(TinyBackbone(), BYOL.default_plan(16), dim=12, hidden_dim=24).double()


def test_loss_and_gradients_equal_lightly() -> None:
    """lightly's is half the sum of negative cosines, the paper's the sum of 2 - 2 cos."""
    byol, (a, b) = method(), (torch.rand(6, 3, 16, 16, dtype=torch.float64) for _ in range(2))
    encoding = byol([a, b])
    ours, similarity = byol.loss(encoding), NegativeCosineSimilarity()
    p, z = encoding
    theirs = 4 + 2 * (similarity(p[0], z[1]) + similarity(p[1], z[0]))
    torch.testing.assert_close(ours, theirs)
    trained = [parameter for parameter in byol.parameters() if parameter.requires_grad]
    for mine, other in zip(
        torch.autograd.grad(ours, trained, retain_graph=True), torch.autograd.grad(theirs, trained), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_teacher_follows_as_lightlys_does() -> None:
    byol = method()
    with torch.no_grad():
        for parameter in [*byol.backbone.parameters(), *byol.projector.parameters()]:
            parameter.add_(torch.rand_like(parameter))
    backbone, projector = deepcopy(byol.teacher.backbone), deepcopy(byol.teacher.projector)
    for step, momentum in ((0, 0.99), (5, 0.995), (10, 1.0)):
        byol.progress = Progress(step, 10, 1)
        byol.after_step(byol([torch.rand(4, 3, 16, 16, dtype=torch.float64)] * 2))
        update_momentum(byol.backbone, backbone, momentum)
        update_momentum(byol.projector, projector, momentum)
        for ours, theirs in ((byol.teacher.backbone, backbone), (byol.teacher.projector, projector)):
            for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(mine, other)


def test_teacher_with_bn_is_encoded_again() -> None:
    byol = method()
    views = [torch.rand(4, 3, 16, 16, dtype=torch.float64) for _ in range(4)]
    assert byol.reusable(byol(views)) is None
    byol.eval()
    assert byol.reusable(byol(views)) is not None
