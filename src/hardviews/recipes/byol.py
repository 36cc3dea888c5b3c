"""A run of BYOL with hard views. Settings follow Grill et al. (NeurIPS 2020); 2+2 -> 1+1 views are this library's
choice."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def byol_resnet50_imagenet() -> PretrainOptions:
    """BYOL on ImageNet-1k: ResNet-50, 300 epochs, 2+2 views drawn and 1+1 kept.

    Source: BYOL paper, section 3.2 and appendix (batch 4096, LARS without biases and norms, warm-up of 10 epochs; for
    300 epochs lr 0.3 per 256, weight decay 1e-6, teacher momentum 0.99).

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe byol_resnet50_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 72.5 % after 300 epochs without hard views (BYOL paper).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              4096
    steps per epoch         312
    lr at step 0            0.0
    lr at end of warm-up    4.8
    lr at last step         1.447e-09
    weight decay            1e-06 -> 1e-06
    clip                    0.0 by parameter
    teacher momentum        0.99
    drop path               0.0
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              224, 224
    crop scale              0.08 - 1.0, 0.08 - 1.0
    blur                    1.0, 0.1
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "byol"},
        backbone=BackboneOptions("resnet50", stem="imagenet", keywords={"zero_init_last": True}),
        image_size=224,
        batch_size=4096,
        epochs=300,
        workers=8,
    )
