"""Runs of MoCo v3 with hard views. Settings follow Chen, Xie and He (ICCV 2021) and their commands; 2+2 -> 1+1
views are this library's choice."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def mocov3_resnet50_imagenet() -> PretrainOptions:
    """MoCo v3 on ImageNet-1k: ResNet-50, 100 epochs, 2+2 views drawn and 1+1 kept.

    Source: the command of MoCo v3's CONFIG.md for 100 epochs (batch 4096, LARS with lr 0.6 per 256 and weight decay
    1e-6, without biases and norms, warm-up of 10 epochs, temperature 1, teacher momentum 0.99, crops 0.2 to 1).

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe mocov3_resnet50_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 68.9 % after 100 epochs without hard views (CONFIG.md).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              4096
    steps per epoch         312
    lr at step 0            0.0
    lr at end of warm-up    9.6
    lr at last step         3.004e-08
    weight decay            1e-06
    momentum                0.9
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              224, 224
    crop scale              0.2 - 1.0, 0.2 - 1.0
    blur                    1.0, 0.1
    projector               4096, 256
    temperature             1.0
    teacher momentum        0.99
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "mocov3"},
        backbone=BackboneOptions("resnet50", stem="imagenet"),
        image_size=224,
        batch_size=4096,
        epochs=100,
        workers=8,
    )


def mocov3_vits16_imagenet() -> PretrainOptions:
    """MoCo v3 on ImageNet-1k: ViT-S/16, 300 epochs, 2+2 views drawn and 1+1 kept.

    Source: the command of MoCo v3's CONFIG.md for ViT-Small with a batch of 4096 (AdamW, lr 1.5e-4 per 256, weight
    decay 0.1, warm-up of 40 epochs, temperature 0.2, fixed patch projection, crops 0.08 to 1). Its ViT has 12 heads and
    fixed sine and cosine positions; timm's has 6 heads and learns its positions.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe mocov3_vits16_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 73.2 % after 300 epochs without hard views (CONFIG.md).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              4096
    steps per epoch         312
    lr at step 0            0.0
    lr at end of warm-up    0.0024
    lr at last step         8.999e-13
    weight decay            0.1
    momentum                0.9
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              224, 224
    crop scale              0.08 - 1.0, 0.08 - 1.0
    blur                    1.0, 0.1
    projector               4096, 4096, 256
    temperature             0.2
    teacher momentum        0.99
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "mocov3", "projector_layers": 3, "predictor_norm": True, "temperature": 0.2},
        plan={"scale": [0.08, 1.0]},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"weight_init": "moco"}),
        image_size=224,
        batch_size=4096,
        epochs=300,
        optimizer="adamw",
        lr=1.5e-4,
        weight_decay=0.1,
        decay_bias_and_norm=True,
        warmup_epochs=40,
        workers=8,
    )


def mocov3_cifar10() -> PretrainOptions:
    """MoCo v3 on CIFAR-10: ResNet-18, 200 epochs, 2+2 views drawn and 1+1 kept.

    Source: no published run. Batch, optimizer and length of lightly's CIFAR-10 benchmark (batch 128, SGD with lr 0.06
    per 128 and weight decay 5e-4, no blur); temperature and momentum of the paper's ViT runs.

    Command: ``hardviews pretrain --recipe mocov3_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: unknown; lightly's first MoCo reaches kNN 83.8 % (k 200, T 0.1, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              128
    steps per epoch         390
    lr at step 0            0.06
    lr at end of warm-up    0.06
    lr at last step         2.433e-11
    weight decay            0.0005
    momentum                0.9
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              32, 32
    crop scale              0.2 - 1.0, 0.2 - 1.0
    blur                    0.0, 0.0
    projector               2048, 256
    temperature             0.2
    teacher momentum        0.99
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "mocov3", "hidden_dim": 2048, "temperature": 0.2},
        plan={"blur_p": [0.0, 0.0]},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=128,
        epochs=200,
        optimizer="sgd",
        lr=0.12,
        weight_decay=5e-4,
        warmup_epochs=0,
        knn_k=200,
        knn_temperature=0.1,
    )


def mocov3_imagenette() -> PretrainOptions:
    """MoCo v3 on Imagenette: ViT-S/16 at 224 px, 200 epochs, 2+2 views drawn and 1+1 kept.

    Source: no published run. ``mocov3_vits16_imagenet`` with a batch of 256, a higher rate and a warm-up of 10 epochs;
    stable-pretraining reports the same backbone, data and length.

    Command: ``hardviews pretrain --recipe mocov3_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: kNN 82.6 %, linear 84.7 % without hard views (stable-pretraining's table).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.0
    lr at end of warm-up    0.0005
    lr at last step         2.637e-11
    weight decay            0.1
    momentum                0.9
    views                   2 -> 1, 2 -> 1
    scoring                 exact
    image size              224, 224
    crop scale              0.08 - 1.0, 0.08 - 1.0
    blur                    1.0, 0.1
    projector               4096, 4096, 256
    temperature             0.2
    teacher momentum        0.99
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={"name": "mocov3", "projector_layers": 3, "predictor_norm": True, "temperature": 0.2},
        plan={"scale": [0.08, 1.0]},
        backbone=BackboneOptions("vit_small_patch16_224", keywords={"weight_init": "moco"}),
        image_size=224,
        batch_size=256,
        epochs=200,
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.1,
        decay_bias_and_norm=True,
        warmup_epochs=10,
        workers=8,
    )
