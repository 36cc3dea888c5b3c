"""First runs on a folder of a few hundred to a few thousand pictures. ``choice.py`` says which set gets which."""

from dataclasses import replace
from math import ceil, log2
from typing import Any

from hardviews.options.pretraining import BackboneOptions, PretrainOptions

BATCH = 64
LONGEST = 400  # epochs
RGB_PLAN = {"scale": [0.2, 1.0], "strength": 0.5, "blur_p": 0.0}


def small_rgb(images: int = 600) -> PretrainOptions:
    """SimCLR on a folder of photographs, in minutes on two CPU cores: a ResNet of 16 to 128 channels at 64 pixels.

    Not a published run. What decides on few images is the rate (AdamW at 0.016 per 256 images, eight times that of
    benchmarks/evidence.py) and the number of steps: an epoch of 600 images has nine. No views are selected, since on
    600 photographs that gained nothing and took 1.6 times the time. benchmarks/RESULTS.md has the measurements.

    Command: ``hardviews pretrain --data FOLDER``

    Args:
        images: size of the set, which the batch and the number of epochs follow: about 2,000 steps.
    """
    return _small(images, RGB_PLAN)


def grey_medical(images: int = 600) -> PretrainOptions:
    """``small_rgb`` for images of one channel: X-rays, ultrasound, grey microscopy; ``ct`` is for CT.

    Not a published run. Crops are larger than of photographs, since small ones miss what a finding is; brightness,
    contrast and gamma stand for exposure. After MoCo-CXR (Sowrirajan et al., MIDL 2021, arXiv 2010.05352), which
    leaves out small crops, blur and colours that may change what an X-ray shows. Not measured on medical images, of
    which none are at hand.

    Command: ``hardviews pretrain --data FOLDER``, or with ``--recipe grey_medical`` for 8-bit pictures and
    ``--channels 1``.

    Args:
        images: as of ``small_rgb``.
    """
    return _small(images, {"scale": [0.4, 1.0], "strength": 0.5, "blur_p": 0.0, "gamma": 0.25})


def ct(images: int = 600) -> PretrainOptions:
    """``small_rgb`` for slices of CT in Hounsfield units, seen by the window of soft tissue.

    Not a published run. A Hounsfield unit means the same tissue in every scan, so brightness, contrast, gamma and blur
    stay as they are, and views differ by crops and flips alone: as Swin UNETR was pretrained on CT, with rotation and
    cutout and no change of intensities (Tang et al., CVPR 2022, arXiv 2111.14791). The window is that of
    radiopaedia.org/articles/windowing-ct. Not measured on medical images, of which none are at hand.

    Command: ``hardviews pretrain --data FOLDER``, or with ``--recipe ct``; of lungs with ``--value-range lung``.

    Args:
        images: as of ``small_rgb``.
    """
    plan = {"scale": [0.4, 1.0], "strength": 0.0, "grey_p": 0.0, "blur_p": 0.0}
    return _small(images, plan, value_range="soft_tissue")


def multispectral(images: int = 600) -> PretrainOptions:
    """``small_rgb`` for images of several bands, such as satellites' 4 or 13, or stains of a microscope.

    Not a published run. Every band has a gain and an offset of its own in place of the saturation and hue of RGB, and
    a band is dropped now and then. That contrastive learning on all 13 bands of Sentinel-2 pays is of SSL4EO-S12 (Wang
    et al., 2023, arXiv 2211.07044); the gains are a choice made here. Not measured on satellite images, of which none
    are at hand.

    Command: ``hardviews pretrain --data FOLDER``, or with ``--recipe multispectral``.

    Args:
        images: as of ``small_rgb``.
    """
    plan = {"scale": [0.2, 1.0], "strength": 0.5, "blur_p": 0.0, "gain": 0.2, "offset": 0.05, "drop_p": 0.05}
    return _small(images, plan, held=1_000)  # 13 bands of 16 bits take 0.6 MB an image


def small_rgb_tuned(images: int = 600) -> PretrainOptions:
    """SimCLR from weights of others (``--init FILE``, or timm's): a low rate, lower for early layers, few epochs.

    Not a published run. The rate falls by 0.65 from each layer to the one before it (``--layer-decay``), as in
    fine-tuning (Clark et al., ICLR 2020, arXiv 2003.10555; BEiT, arXiv 2106.08254), so that what early layers know
    stays.

    Command: ``hardviews pretrain --data FOLDER --recipe small_rgb_tuned``, which fetches timm's weights of a ResNet-18;
    or the same with ``--init FILE`` and the ``--backbone`` that it is of.

    Args:
        images: size of the set, which the batch and the number of epochs follow: about 200 steps.
    """
    return _small(
        images, RGB_PLAN, steps=200, shortest=4, image_size=128, lr=0.001, layer_decay=0.65, in_memory="on",
        backbone=BackboneOptions("resnet18", stem="imagenet", pretrained=True),
    )  # fmt: skip


def _small(
    images: int, plan: dict[str, Any], steps: int = 2_000, shortest: int = 20, held: int = 10_000, **others: Any
) -> PretrainOptions:
    """SimCLR with a plan on a small ResNet, for about so many steps and at least so many epochs; sets of up to ``held``
    images are held in memory. ``others`` take the place of its options."""
    batch, epochs = fitted(images, steps, shortest)
    options = PretrainOptions(
        method={"name": "simclr", "hidden_dim": 512, "temperature": 0.2},
        plan=plan,
        backbone=BackboneOptions(
            "resnet18", stem="imagenet",
            keywords={"channels": [16, 32, 64, 128], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8},
        ),
        image_size=64,
        views=2,
        batch_size=batch,
        epochs=epochs,
        optimizer="adamw",
        lr=0.016,
        weight_decay=1e-4,
        warmup_epochs=1,
        in_memory="on" if images <= held else "auto",
        knn_epochs=ceil(epochs / 5),
    )  # fmt: skip
    return replace(options, **others)


def fitted(images: int, steps: int, shortest: int) -> tuple[int, int]:
    """A batch of at most half of the images, and epochs that come to about so many steps, between ``shortest`` and
    ``LONGEST``. The batch is a power of two, which processes can share."""
    batch = 2 ** max(int(log2(max(min(BATCH, images // 2), 1))), 1)
    epochs = ceil(steps / max(images // batch, 1))
    return batch, min(max(epochs, shortest), LONGEST)
