import torch
from torch import Tensor
from torchvision.ops import box_iou

from hardviews.views.boxes import iou, overlap, pairwise_iou, relative_distance


def boxes(*shape: int) -> Tensor:
    corner = torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    side = torch.rand(*shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.01
    return torch.cat([corner, corner + side], -1)


def test_pairwise_iou_is_torchvisions() -> None:
    box = boxes(6, 40)
    found = pairwise_iou(box)
    assert found.shape == (6, 6, 40)
    for b in range(40):
        torch.testing.assert_close(found[..., b], box_iou(box[:, b], box[:, b]))
    assert (found == 0).any()
    assert ((found > 0) & (found < 1)).any()


def test_known_boxes() -> None:
    a, inside, apart = (torch.tensor(box) for box in ([0.0, 0, 4, 4], [1.0, 1, 3, 2], [4.0, 4, 8, 8]))
    assert iou(a, inside) == 2 / 16
    assert overlap(a, inside) == 1
    assert overlap(inside, a) == 1
    assert overlap(a, torch.tensor([2.0, 0, 8, 2])) == 4 / 12
    assert iou(a, apart) == overlap(a, apart) == 0
    assert relative_distance(a, apart) == 1  # equal squares that touch at a corner
    assert relative_distance(a, a) == 0
    torch.testing.assert_close(relative_distance(a, torch.tensor([3.0, 0, 7, 4])), torch.tensor(3 / (4 * 2**0.5)))


def test_stretching_an_axis_changes_nothing() -> None:
    a, b = boxes(2, 50)
    stretch = torch.tensor([3.0, 0.5, 3.0, 0.5], dtype=torch.float64)
    for measure in (iou, overlap, relative_distance):
        torch.testing.assert_close(measure(a * stretch, b * stretch), measure(a, b))
