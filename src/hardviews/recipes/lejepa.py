"""Runs of LeJEPA with hard views. Settings follow the code of Balestriero and LeCun (2025); choosing among twice as
many candidates of every kind is this library's choice."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def lejepa_vits16_imagenet() -> PretrainOptions:
    """LeJEPA on ImageNet-1k: ViT-S/16, 100 epochs, 4+12 views drawn and 2+6 kept.

    Source: the recommended settings in the README of LeJEPA's code (views, AdamW, peak lr 5e-4, weight decay 0.05, last
    lr a thousandth of the peak). A warm-up of 1 epoch, drop-path 0.1 and an embedding of 64 are those of lightly's
    benchmark on this backbone; the batch of 256 is this library's choice. The paper's largest runs take a ViT-L/14.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe lejepa_vits16_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 64.0 %, kNN 47.1 % after 100 epochs without hard views (lightly's benchmark, whose batch may
        differ).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              256
    steps per epoch         5004
    lr at step 0            0.0
    lr at end of warm-up    0.0005
    lr at last step         5e-07
    weight decay            0.05
    momentum                0.9
    weight of SIGReg        0.05
    directions              1024
    drop path               0.1
    views                   4 -> 2, 12 -> 6
    scoring                 exact
    image size              224, 98
    crop scale              0.3 - 1.0, 0.05 - 0.3
    blur                    0.5, 0.5
    projector               2048, 2048, 64
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "lejepa"},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"drop_path_rate": 0.1}),
        image_size=224,
        batch_size=256,
        epochs=100,
        workers=8,
    )


def lejepa_imagenette() -> PretrainOptions:
    """LeJEPA on Imagenette: ViT-S/8 at 128 px, 800 epochs, 8 views drawn and 4 kept.

    Source: the minimal example of LeJEPA's code (batch 256, AdamW, lr 2e-3 down to 1e-3, weight decay 0.05, warm-up of
    1 epoch, SIGReg's weight 0.02 and 256 directions, an embedding of 16, drop-path 0.1, four views that all count as
    global). It has a linear layer of 512 between backbone and projector, and blurs with a kernel of 7 pixels.

    Command: ``hardviews pretrain --recipe lejepa_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: linear, trained along, 90.7 % without hard views (the minimal example).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.0
    lr at end of warm-up    0.002
    lr at last step         0.001
    weight decay            0.05
    momentum                0.9
    weight of SIGReg        0.02
    directions              256
    drop path               0.1
    views                   8 -> 4
    scoring                 exact
    image size              128
    crop scale              0.08 - 1.0
    blur                    0.5
    projector               2048, 2048, 16
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={"name": "lejepa", "dim": 16, "weight": 0.02, "directions": 256},
        plan={
            "globals": 4,
            "locals": 0,
            "scale": [0.08, 1.0],
            "brightness": 0.8,
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
        },
        backbone=BackboneOptions("vit_small_patch8_224", keywords={"drop_path_rate": 0.1}),
        image_size=128,
        batch_size=256,
        epochs=800,
        lr=2e-3,
        min_lr=1e-3,
        workers=8,
    )


def lejepa_cifar10() -> PretrainOptions:
    """LeJEPA on CIFAR-10: ResNet-18, 200 epochs, 8 views drawn and 4 kept.

    Not a published run. Views without blur and solarization, batch and rate after ``lejepa_imagenette``, SIGReg's
    weight and embedding at the method's defaults, and the weight decay that the README of LeJEPA's code gives for
    ResNets.

    Command: ``hardviews pretrain --recipe lejepa_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         195
    lr at step 0            0.0
    lr at end of warm-up    0.002
    lr at last step         2e-06
    weight decay            0.0005
    momentum                0.9
    weight of SIGReg        0.05
    directions              1024
    drop path               0.0
    views                   8 -> 4
    scoring                 exact
    image size              32
    crop scale              0.2 - 1.0
    blur                    0.0
    projector               2048, 2048, 64
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "lejepa"},
        plan={"globals": 4, "locals": 0, "scale": [0.2, 1.0], "blur_p": 0.0, "solarize_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=256,
        epochs=200,
        lr=2e-3,
        min_lr=2e-6,
        weight_decay=5e-4,
        knn_k=200,
        knn_temperature=0.1,
    )
