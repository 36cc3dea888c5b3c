"""Runs of DINO with hard views. Settings follow Caron et al. (ICCV 2021) and its published commands. Choosing among
twice as many candidates of every kind is this library's choice (Ferreira et al., ICLR 2025, choose among one view of
kind A and three of kind B, and keep local views as drawn)."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def dino_vits16_imagenet() -> PretrainOptions:
    """DINO on ImageNet-1k: ViT-S/16, 100 epochs, 2+2+16 views drawn and 1+1+8 kept.

    Source: DINO paper, section 3.2 and its code's default command (AdamW, lr 5e-4 per 256, min 1e-6, warm-up of 10
    epochs, weight decay 0.04 to 0.4, clip 3.0, drop-path 0.1, last layer frozen for 1 epoch), with the paper's batch of
    1024.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe dino_vits16_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 73.3 %, kNN 67.5 % after 100 epochs without hard views (lightly's benchmark).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              1024
    steps per epoch         1251
    lr at step 0            0.0
    lr at end of warm-up    0.002
    lr at last step         1e-06
    weight decay            0.04 -> 0.4
    clip                    3.0 by parameter
    teacher momentum        0.996
    teacher temperature     0.04 -> 0.04
    prototypes              65536
    drop path               0.1
    views                   2 -> 1, 2 -> 1, 16 -> 8
    scoring                 exact
    image size              224, 224, 96
    crop scale              0.4 - 1.0, 0.4 - 1.0, 0.05 - 0.4
    blur                    1.0, 0.1, 0.5
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "dino"},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"drop_path_rate": 0.1}),
        image_size=224,
        batch_size=1024,
        epochs=100,
        workers=8,
    )


def dino_resnet50_imagenet() -> PretrainOptions:
    """DINO on ImageNet-1k: ResNet-50, 100 epochs, 2+2+16 views drawn and 1+1+8 kept.

    Source: the ResNet-50 command of DINO's README (8 GPUs of 64 images; SGD, lr 0.03 per 256, constant weight decay
    1e-4, crops 0.14 to 1 and 0.05 to 0.14).

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe dino_resnet50_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 68.2 %, kNN 49.9 % after 100 epochs without hard views (lightly's benchmark).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              512
    steps per epoch         2502
    lr at step 0            0.0
    lr at end of warm-up    0.06
    lr at last step         1e-06
    weight decay            0.0001 -> 0.0001
    clip                    3.0 by parameter
    teacher momentum        0.996
    teacher temperature     0.04 -> 0.04
    prototypes              65536
    drop path               0.0
    views                   2 -> 1, 2 -> 1, 16 -> 8
    scoring                 exact
    image size              224, 224, 96
    crop scale              0.14 - 1.0, 0.14 - 1.0, 0.05 - 0.14
    blur                    1.0, 0.1, 0.5
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "dino"},
        plan={"scale": [0.14, 1.0], "local_scale": [0.05, 0.14]},
        backbone=BackboneOptions("resnet50", stem="imagenet"),
        image_size=224,
        batch_size=512,
        epochs=100,
        optimizer="sgd",
        lr=0.03,
        weight_decay=1e-4,
        workers=8,
    )


def dino_cifar10() -> PretrainOptions:
    """DINO on CIFAR-10: ResNet-18, 200 epochs, 2+2 views drawn and 1+1 kept.

    Source: lightly's CIFAR-10 benchmark (batch 128, SGD with lr 0.06 per 128 and weight decay 5e-4, 2,048 prototypes,
    BN in the head, teacher momentum 0.99, no local views, no blur). Its head has two layers, this one three; its
    teacher momentum is constant.

    Command: ``hardviews pretrain --recipe dino_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: kNN 84.0 % without hard views (lightly: k 200, T 0.1, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              128
    steps per epoch         390
    lr at step 0            0.06
    lr at end of warm-up    0.06
    lr at last step         2.433e-11
    weight decay            0.0005 -> 0.0005
    clip                    0.0 by parameter
    teacher momentum        0.99
    teacher temperature     0.04 -> 0.04
    prototypes              2048
    drop path               0.0
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              32, 32
    crop scale              0.4 - 1.0, 0.4 - 1.0
    blur                    0.0, 0.0
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={
            "name": "dino",
            "prototypes": 2048,
            "bn_in_head": True,
            "teacher_momentum": 0.99,
            "freeze_last_layer": 0,
        },
        plan={"locals": 0, "blur_p": [0.0, 0.0, 0.0]},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=128,
        epochs=200,
        optimizer="sgd",
        lr=0.12,
        min_lr=0.0,
        weight_decay=5e-4,
        clip=0.0,
        warmup_epochs=0,
        knn_k=200,
        knn_temperature=0.1,
    )


def dino_imagenette() -> PretrainOptions:
    """DINO on Imagenette: ResNet-18 at 128 px, 800 epochs, 2+2+12 views drawn and 1+1+6 kept.

    Source: lightly's Imagenette benchmark (batch 256, SGD with lr 0.06 per 128 and weight decay 5e-4, 2,048 prototypes,
    BN in the head, teacher momentum 0.99, local views of 64 px). Its head and teacher momentum differ as in
    ``dino_cifar10``.

    Command: ``hardviews pretrain --recipe dino_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: kNN 88.8 % without hard views (lightly: k 20, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.12
    lr at end of warm-up    0.12
    lr at last step         3.57e-10
    weight decay            0.0005 -> 0.0005
    clip                    0.0 by parameter
    teacher momentum        0.99
    teacher temperature     0.04 -> 0.04
    prototypes              2048
    drop path               0.0
    views                   2 -> 1, 2 -> 1, 12 -> 6
    scoring                 exact
    image size              128, 128, 64
    crop scale              0.4 - 1.0, 0.4 - 1.0, 0.05 - 0.4
    blur                    1.0, 0.1, 0.5
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={
            "name": "dino",
            "prototypes": 2048,
            "bn_in_head": True,
            "teacher_momentum": 0.99,
            "freeze_last_layer": 0,
        },
        plan={"local_size": 64, "locals": 6},
        backbone=BackboneOptions("resnet18", stem="imagenet"),
        image_size=128,
        batch_size=256,
        epochs=800,
        optimizer="sgd",
        lr=0.12,
        min_lr=0.0,
        weight_decay=5e-4,
        clip=0.0,
        warmup_epochs=0,
        workers=8,
    )
