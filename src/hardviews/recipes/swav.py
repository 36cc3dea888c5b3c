"""Runs of SwAV with hard views. Settings follow Caron et al. (NeurIPS 2020) and their published scripts; choosing among
twice as many candidates of both kinds is this library's choice."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def swav_resnet50_imagenet() -> PretrainOptions:
    """SwAV on ImageNet-1k: ResNet-50, 100 epochs, batch 4096, 4+12 views drawn and 2+6 kept.

    Source: SwAV's script for 100 epochs (LARS on all parameters, lr 4.8 to 0.0048 at batch 4096, weight decay 1e-6,
    warm-up of 10 epochs, prototypes frozen for the first epoch, no queue). Its warm-up begins at a rate of 0.3, this
    one at 0.

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe swav_resnet50_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 72.1 % after 100 epochs without hard views (SwAV's README).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              4096
    steps per epoch         312
    lr at step 0            0.0
    lr at end of warm-up    4.8
    lr at last step         0.0048
    weight decay            1e-06
    momentum                0.9
    views                   4 -> 2, 12 -> 6
    scoring                 exact
    image size              224, 96
    crop scale              0.14 - 1.0, 0.05 - 0.14
    blur                    0.5, 0.5
    projector               2048, 128
    temperature             0.1
    epsilon                 0.05
    prototypes              3000
    queue                   0
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "swav"},
        backbone=BackboneOptions("resnet50", stem="imagenet"),
        image_size=224,
        batch_size=4096,
        epochs=100,
        min_lr=0.0048,
        workers=8,
    )


def swav_queue_imagenet() -> PretrainOptions:
    """SwAV on ImageNet-1k in small batches, with a queue: ResNet-50, 200 epochs, batch 256, 4+12 views drawn and 2+6
    kept.

    Source: SwAV's script for 200 epochs and batch 256 (lr 0.6 to 0.0006, no warm-up, a queue of 3840 embeddings from
    epoch 15 on).

    Command: ``torchrun --nproc-per-node 4 -m hardviews.cli pretrain --recipe swav_queue_imagenet
    --data IMAGENET/train --test-data IMAGENET/val --out RUN``

    Expected: linear 72.7 % after 200 epochs without hard views (SwAV's README).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              256
    steps per epoch         5004
    lr at step 0            0.6
    lr at end of warm-up    0.6
    lr at last step         0.0006
    weight decay            1e-06
    momentum                0.9
    views                   4 -> 2, 12 -> 6
    scoring                 exact
    image size              224, 96
    crop scale              0.14 - 1.0, 0.05 - 0.14
    blur                    0.5, 0.5
    projector               2048, 128
    temperature             0.1
    epsilon                 0.05
    prototypes              3000
    queue                   3840
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "swav", "queue": 3840},
        backbone=BackboneOptions("resnet50", stem="imagenet"),
        image_size=224,
        batch_size=256,
        epochs=200,
        lr=0.6,
        min_lr=0.0006,
        warmup_epochs=0,
        workers=8,
    )


def swav_cifar10() -> PretrainOptions:
    """SwAV on CIFAR-10: ResNet-18, 200 epochs, 4 views drawn and 2 kept.

    Source: lightly's CIFAR-10 benchmark (batch 128, Adam with lr 1e-3 per 128 and weight decay 1e-6, 512 prototypes,
    no local views, no blur, prototypes never frozen). AdamW stands for Adam.

    Command: ``hardviews pretrain --recipe swav_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: kNN 81.2 % without hard views (lightly: k 200, T 0.1, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              128
    steps per epoch         390
    lr at step 0            0.001
    lr at end of warm-up    0.001
    lr at last step         4.056e-13
    weight decay            1e-06
    momentum                0.9
    views                   4 -> 2
    scoring                 exact
    image size              32
    crop scale              0.14 - 1.0
    blur                    0.0
    projector               512, 128
    temperature             0.1
    epsilon                 0.05
    prototypes              512
    queue                   0
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "swav", "hidden_dim": 512, "prototypes": 512, "freeze_prototypes": 0},
        plan={"locals": 0, "strength": 0.5, "blur_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=128,
        epochs=200,
        optimizer="adamw",
        lr=2e-3,
        weight_decay=1e-6,
        warmup_epochs=0,
        knn_k=200,
        knn_temperature=0.1,
    )


def swav_imagenette() -> PretrainOptions:
    """SwAV on Imagenette: ResNet-18 at 128 px, 800 epochs, 4+12 views drawn and 2+6 kept.

    Source: lightly's Imagenette benchmark (batch 256, Adam with lr 1e-3 per 128 and weight decay 1e-6, 3,000
    prototypes, local views of 64 px). AdamW stands for Adam.

    Command: ``hardviews pretrain --recipe swav_imagenette --data IMAGENETTE/train --test-data IMAGENETTE/val
    --out RUN``

    Expected: kNN 90.2 % without hard views (lightly: k 20, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              256
    steps per epoch         36
    lr at step 0            0.002
    lr at end of warm-up    0.002
    lr at last step         5.95e-12
    weight decay            1e-06
    momentum                0.9
    views                   4 -> 2, 12 -> 6
    scoring                 exact
    image size              128, 64
    crop scale              0.14 - 1.0, 0.05 - 0.14
    blur                    0.5, 0.5
    projector               2048, 128
    temperature             0.1
    epsilon                 0.05
    prototypes              3000
    queue                   0
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenette/train",
        scoring="exact",
        method={"name": "swav", "freeze_prototypes": 0},
        plan={"local_size": 64},
        backbone=BackboneOptions("resnet18", stem="imagenet"),
        image_size=128,
        batch_size=256,
        epochs=800,
        optimizer="adamw",
        lr=2e-3,
        weight_decay=1e-6,
        warmup_epochs=0,
        workers=8,
    )
