"""Pictures to draw views of."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hardviews.views.images import ImageBatch

PACK = Path(__file__).parents[3] / "shared/data/imagenette224/imagenette224-sub-val.parquet"


def natural(height: int, width: int, seed: int) -> Tensor:
    """A picture of smooth colours, edges and some noise, uint8 ``[h, w, 3]``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0]
    edge = (torch.arange(width) * height > torch.arange(height)[:, None] * width).float()
    pixels = 0.8 * smooth + 0.2 * edge + 0.05 * torch.randn(3, height, width, generator=generator)
    return (pixels.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


@pytest.fixture(scope="session")
def mixed() -> ImageBatch:
    """Images of odd, long and tall sizes."""
    sizes = [(61, 37), (224, 224), (150, 333), (20, 90), (97, 41), (64, 64)]
    return ImageBatch.pack([natural(height, width, seed) for seed, (height, width) in enumerate(sizes)])


@pytest.fixture(scope="session")
def photographs() -> ImageBatch:
    """Sixty-four pictures of Imagenette, all classes."""
    if not PACK.exists():
        pytest.skip(f"the Imagenette pack is not at {PACK}")
    import pyarrow.parquet as parquet

    rows = parquet.read_table(PACK, columns=["image"])["image"]
    pictures: list[Tensor] = []
    for row in range(0, len(rows), len(rows) // 64 + 1):
        with Image.open(io.BytesIO(rows[row].as_py())) as image:
            rgb = image.convert("RGB")
            flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
            pictures.append(flat.view(rgb.height, rgb.width, 3))
    return ImageBatch.pack(pictures)
