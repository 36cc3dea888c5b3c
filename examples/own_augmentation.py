r"""Augmentations of your own, in the place of a method's colours or of its whole views.

    PYTHONPATH=examples hardviews pretrain --data shapes --plan.transform own_augmentation:colours
    PYTHONPATH=examples hardviews pretrain --data shapes --plan.transform own_augmentation:view \
        --plan.transform-input image
    python examples/own_augmentation.py                          # the same without the command line

Views are still chosen by what they cost. docs/augmentations.md says what a transform is given and must return.
"""

import torch
from torch import Tensor
from torchvision.transforms import v2

from hardviews.methods.simclr import SimCLR
from hardviews.views.draw import draw
from hardviews.views.images import ImageBatch
from hardviews.views.render import render
from hardviews.views.streams import stream

# Of the crop, float 0..1: anything that draws from Python's, NumPy's or torch's global generators.
colours = v2.Compose([v2.RandAugment(num_ops=2, magnitude=5), v2.RandomGrayscale(0.2), v2.RandomErasing(0.3)])


def view(image: Tensor, size: int) -> Tensor:
    """The whole view of a decoded image, uint8 ``[3, H, W]``; ``size`` is what the plan asks for."""
    made: Tensor = pipeline(size)(image)
    return made


def pipeline(size: int) -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.3, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(),
            v2.ToDtype(torch.float32, scale=True),  # no Normalize: that comes afterwards
        ]
    )


def noisy(crop: Tensor, seed: int) -> Tensor:
    """A generator of its own, seeded for every view: so are albumentations and other libraries used."""
    generator = torch.Generator(crop.device).manual_seed(seed)
    noise = torch.randn(crop.shape, generator=generator, device=crop.device)
    return (crop + 0.1 * noise).clamp(0, 1)


def main() -> None:
    images = ImageBatch.pack([torch.randint(0, 256, (48, 40, 3), dtype=torch.uint8) for _ in range(4)])
    for transform, given in ((colours, "crop"), (view, "image"), (noisy, "crop")):
        plan = SimCLR.default_plan(32).with_transform(transform, given)  # type: ignore[arg-type]
        numbers = draw(plan, images.size, stream(0, "views", 0))
        first, again = render(images, numbers, plan), render(images, numbers, plan)
        same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        print(f"{len(first)} candidates of {list(first[0].shape)}, the same pixels each time: {same}")


if __name__ == "__main__":
    main()
