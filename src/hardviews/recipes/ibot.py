"""Runs of iBOT with hard views. Settings follow Zhou et al. (ICLR 2022); 2+2 -> 1+1 views are this library's choice, as
for DINO."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def ibot_vits16_imagenet() -> PretrainOptions:
    """iBOT on ImageNet-1k: ViT-S/16 without local views, 100 epochs, 2+2 views drawn and 1+1 kept.

    Source: iBOT paper, section 4.1 and appendix, and the command of its README (AdamW, lr 5e-4 per 256, min 1e-6,
    warm-up of 10 epochs, weight decay 0.04 to 0.4, clip 3.0, drop-path 0.1, both teacher temperatures 0.04 to 0.07 over
    30 epochs, shared head, prototypes of any length), at the crops of its runs without local views.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe ibot_vits16_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 72.2 %, kNN 65.4 % after 100 epochs with local views and without hard ones (lightly's benchmark).
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
    teacher temperature     0.04 -> 0.07
    patch temperature       0.04 -> 0.07
    prototypes              8192
    mask                    0.5 of views, 0.3 ± 0.2 of patches
    drop path               0.1
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              224, 224
    crop scale              0.14 - 1.0, 0.14 - 1.0
    blur                    1.0, 0.1
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "ibot", "teacher_temperature": 0.07, "norm_last_layer": False},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"drop_path_rate": 0.1}),
        image_size=224,
        batch_size=1024,
        epochs=100,
        workers=8,
    )


def ibot_cifar10() -> PretrainOptions:
    """iBOT on CIFAR-10: a small ViT of 4-pixel patches, 200 epochs, 2+2 views drawn and 1+1 kept.

    Source: no published run. The optimizer and schedules of the paper, a ViT of 12 blocks of width 192, fewer
    prototypes, a faster teacher, no blur.

    Command: ``hardviews pretrain --recipe ibot_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: unknown.
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         195
    lr at step 0            0.0
    lr at end of warm-up    0.0005
    lr at last step         1e-06
    weight decay            0.04 -> 0.4
    clip                    3.0 by parameter
    teacher momentum        0.99
    teacher temperature     0.04 -> 0.04
    patch temperature       0.04 -> 0.07
    prototypes              2048
    mask                    0.5 of views, 0.3 ± 0.2 of patches
    drop path               0.1
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              32, 32
    crop scale              0.2 - 1.0, 0.2 - 1.0
    blur                    0.0, 0.0
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "ibot", "prototypes": 2048, "teacher_momentum": 0.99},
        plan={"scale": [0.2, 1.0], "blur_p": [0.0, 0.0, 0.0]},
        backbone=BackboneOptions("vit_tiny_patch16_224", keywords={"patch_size": 4, "drop_path_rate": 0.1}),
        batch_size=256,
        epochs=200,
        knn_k=200,
        knn_temperature=0.1,
    )
