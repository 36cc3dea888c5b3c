"""Runs of VICReg with hard views. Settings follow Bardes et al. (ICLR 2022); 4 -> 2 views are this library's choice."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def vicreg_resnet50_imagenet() -> PretrainOptions:
    """VICReg on ImageNet-1k: ResNet-50, 1000 epochs, batch 2048, 4 views drawn and 2 kept.

    Source: VICReg paper, section 4.2 and appendix C (LARS, lr 0.2 per 256 down to 0.002, weight decay 1e-6 without
    biases and norms, warm-up of 10 epochs, three layers of 8192). Its code's command for 100 epochs on one machine has
    batch 512 and lr 0.3: ``--batch-size 512 --lr 0.3 --epochs 100``.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe vicreg_resnet50_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 73.2 % without hard views (VICReg paper).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              2048
    steps per epoch         625
    lr at step 0            0.0
    lr at end of warm-up    1.6
    lr at last step         0.002
    weight decay            1e-06
    momentum                0.9
    weights                 25.0, 25.0, 1.0
    views                   4 -> 2
    scoring                 exact
    image size              224
    crop scale              0.08 - 1.0
    blur                    0.5
    projector               8192, 8192, 8192
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "vicreg"},
        backbone=BackboneOptions("resnet50", stem="imagenet", keywords={"zero_init_last": True}),
        image_size=224,
        batch_size=2048,
        epochs=1000,
        workers=8,
    )


def vicreg_cifar10() -> PretrainOptions:
    """VICReg on CIFAR-10: ResNet-18, 1000 epochs, 4 views drawn and 2 kept.

    Source: solo-learn's settings (batch 256, LARS with lr 0.3 and weight decay 1e-4, warm-up of 10 epochs, crops from
    0.2, no blur, three layers of 2048). Its LARS has trust coefficient 0.02 and clips the rate; this one has timm's
    0.001.

    Command: ``hardviews pretrain --recipe vicreg_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: linear, trained along, 92.07 % without hard views (solo-learn).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         195
    lr at step 0            0.0
    lr at end of warm-up    0.3
    lr at last step         1.986e-11
    weight decay            0.0001
    momentum                0.9
    weights                 25.0, 25.0, 1.0
    views                   4 -> 2
    scoring                 exact
    image size              32
    crop scale              0.2 - 1.0
    blur                    0.0
    projector               2048, 2048, 2048
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "vicreg", "dim": 2048, "hidden_dim": 2048},
        plan={"scale": [0.2, 1.0], "blur_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=256,
        epochs=1000,
        lr=0.3,
        min_lr=0.0,
        weight_decay=1e-4,
        knn_k=200,
        knn_temperature=0.1,
    )


def vicreg_imagenette() -> PretrainOptions:
    """VICReg on Imagenette: ResNet-18 at 128 px, 800 epochs, 4 views drawn and 2 kept.

    Source: lightly's Imagenette benchmark (batch 256, LARS with lr 0.3 and weight decay 1e-4, warm-up of 40 epochs,
    three layers of 2048), at the paper's views.

    Command: ``hardviews pretrain --recipe vicreg_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: kNN 84.3 % without hard views (lightly: k 20, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.0
    lr at end of warm-up    0.3
    lr at last step         9.888e-10
    weight decay            0.0001
    momentum                0.9
    weights                 25.0, 25.0, 1.0
    views                   4 -> 2
    scoring                 exact
    image size              128
    crop scale              0.08 - 1.0
    blur                    0.5
    projector               2048, 2048, 2048
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={"name": "vicreg", "dim": 2048, "hidden_dim": 2048},
        backbone=BackboneOptions("resnet18", stem="imagenet"),
        image_size=128,
        batch_size=256,
        epochs=800,
        lr=0.3,
        min_lr=0.0,
        weight_decay=1e-4,
        warmup_epochs=40,
        workers=8,
    )
