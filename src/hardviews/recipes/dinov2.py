"""Runs of DINOv2 with hard views. Settings follow Oquab et al. (TMLR 2024) and their published configuration; choosing
among twice as many candidates of every kind is this library's choice, as for DINO."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def dinov2_vits16_imagenet() -> PretrainOptions:
    """DINOv2 on ImageNet-1k: ViT-S/16, 100 epochs, 2+2+16 views drawn and 1+1+8 kept.

    Source: the default configuration of DINOv2's code, which is its short run of a ViT-L/16 (batch 2048; AdamW, lr 4e-3
    at batch 1024 and with the root of the batch, min 1e-6, warm-up of 10 epochs, rates falling by 0.9 from layer to
    layer, weight decay 0.04 to 0.4, clip 3.0, teacher temperature 0.04 to 0.07 over 30 epochs, drop-path 0.3,
    LayerScale 1e-5). It centres and shares the head; Sinkhorn-Knopp and untied heads are those of the paper's large
    runs. Drop-path 0.1 for the smaller ViT; the patch embedding's rate is not lowered by another 0.2.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe dinov2_vits16_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: unknown; the ViT-L/16 reaches kNN 81.6 % (DINOv2's README).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              2048
    steps per epoch         625
    lr at step 0            0.0
    lr at end of warm-up    0.005656
    lr at last step         1e-06
    weight decay            0.04 -> 0.4
    views                   2 -> 1, 2 -> 1, 16 -> 8
    scoring                 exact
    image size              224, 224, 96
    crop scale              0.32 - 1.0, 0.32 - 1.0, 0.05 - 0.32
    blur                    1.0, 0.1, 0.5
    clip                    3.0 by all
    teacher momentum        0.992
    drop path               0.1
    prototypes              65536
    teacher temperature     0.04 -> 0.07
    koleo                   0.1
    layer decay             0.9
    mask                    0.5 of views, 0.3 ± 0.2 of patches
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "dinov2"},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"drop_path_rate": 0.1, "init_values": 1e-5}),
        image_size=224,
        batch_size=2048,
        epochs=100,
        lr=7.07e-4,
        layer_decay=0.9,
        workers=8,
    )


def dinov2_cifar10() -> PretrainOptions:
    """DINOv2 on CIFAR-10: a small ViT of 4-pixel patches, 200 epochs, 2+2 views drawn and 1+1 kept.

    Source: no published run. ``ibot_cifar10`` with the terms of DINOv2 and crops of 0.32 to 1.

    Command: ``hardviews pretrain --recipe dinov2_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: unknown.
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         195
    lr at step 0            0.0
    lr at end of warm-up    0.0005
    lr at last step         1e-06
    weight decay            0.04 -> 0.4
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              32, 32
    crop scale              0.32 - 1.0, 0.32 - 1.0
    blur                    0.0, 0.0
    clip                    3.0 by all
    teacher momentum        0.99
    drop path               0.1
    prototypes              2048
    teacher temperature     0.04 -> 0.07
    koleo                   0.1
    layer decay             1.0
    mask                    0.5 of views, 0.3 ± 0.2 of patches
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "dinov2", "prototypes": 2048, "teacher_momentum": 0.99},
        plan={"locals": 0, "blur_p": [0.0, 0.0, 0.0]},
        backbone=BackboneOptions("vit_tiny_patch16_224", keywords={"patch_size": 4, "drop_path_rate": 0.1}),
        batch_size=256,
        epochs=200,
        lr=5e-4,
        knn_k=200,
        knn_temperature=0.1,
    )


def dinov2_imagenette() -> PretrainOptions:
    """DINOv2 on Imagenette: ViT-S/16 with four registers at 224 px, 200 epochs, 2+2+16 views drawn and 1+1+8 kept.

    Source: no published run. ``dinov2_vits16_imagenet`` with a batch of 256, fewer prototypes and registers (Darcet et
    al., ICLR 2024, arXiv 2309.16588).

    Command: ``hardviews pretrain --recipe dinov2_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: unknown; stable-pretraining's DINOv2 reaches kNN 29.6 %, linear 37.2 % at epoch 37.
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.0
    lr at end of warm-up    0.0005
    lr at last step         1e-06
    weight decay            0.04 -> 0.4
    views                   2 -> 1, 2 -> 1, 16 -> 8
    scoring                 exact
    image size              224, 224, 96
    crop scale              0.32 - 1.0, 0.32 - 1.0, 0.05 - 0.32
    blur                    1.0, 0.1, 0.5
    clip                    3.0 by all
    teacher momentum        0.992
    drop path               0.1
    prototypes              8192
    teacher temperature     0.04 -> 0.07
    koleo                   0.1
    layer decay             1.0
    mask                    0.5 of views, 0.3 ± 0.2 of patches
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={"name": "dinov2", "prototypes": 8192},
        backbone=BackboneOptions("vit_small_patch14_reg4_dinov2", keywords={"patch_size": 16, "drop_path_rate": 0.1}),
        image_size=224,
        batch_size=256,
        epochs=200,
        lr=5e-4,
        workers=8,
    )


def dinov2_continued() -> PretrainOptions:
    """DINOv2 from its published weights, on images of your own: ViT-S/14, a low rate that falls from layer to layer,
    and Gram anchoring to the weights that it starts from.

    Not a published run. The heads are new, so their first epochs must not change the backbone much: the rate is a
    twentieth of ``dinov2_vits16_imagenet``'s and falls by 0.8 from each layer to the one before it, and the teacher is
    slow. Gram anchoring (weight 2, as in DINOv3) keeps the similarities of patches. Registers: give
    ``--backbone vit_small_patch14_reg4_dinov2``.

    Command: ``hardviews pretrain --recipe dinov2_continued --data FOLDER``, which fetches timm's weights; or the same
    with ``--init FILE``.

    Measured: not yet (needs the weights and a GPU).
    """
    return PretrainOptions(
        scoring="exact",
        method={
            "name": "dinov2",
            "prototypes": 8192,
            "teacher_momentum": 0.998,
            "warmup_teacher_epochs": 5,
            "gram_weight": 2.0,
        },
        backbone=BackboneOptions("vit_small_patch14_dinov2", pretrained=True, keywords={"drop_path_rate": 0.1}),
        image_size=224,
        batch_size=256,
        epochs=20,
        lr=5e-5,
        layer_decay=0.8,
        weight_decay=0.04,
        warmup_epochs=2,
        workers=8,
    )
