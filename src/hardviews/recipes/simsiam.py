"""Runs of SimSiam with hard views. Settings follow Chen and He (CVPR 2021); 4 -> 2 views follow Ferreira et al.
(ICLR 2025)."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def simsiam_cifar10() -> PretrainOptions:
    """SimSiam on CIFAR-10: ResNet-18, 800 epochs, 4 views drawn and 2 kept.

    Source: SimSiam paper, appendix D (lr 0.03, weight decay 5e-4, batch 512, 2-layer projector, no blur); the hard-view
    paper's code took lr 0.06.

    Command: ``hardviews pretrain --recipe simsiam_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: kNN 90 % and linear 91.8 % after 800 epochs without hard views (SimSiam paper, figure D.1).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              512
    steps per epoch         97
    lr at step 0            0.06
    lr at end of warm-up    0.06
    lr at last step         2.458e-11
    constant lr             0.06
    weight decay            0.0005
    momentum                0.9
    views                   4 -> 2
    scoring                 exact
    image size              32
    crop scale              0.2 - 1.0
    blur                    0.0
    projector               2048 x 2
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "simsiam", "projector_layers": 2},
        plan={"blur_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=512,
        epochs=800,
        lr=0.03,
        weight_decay=5e-4,
        knn_k=200,
        knn_temperature=0.1,
    )


def simsiam_imagenet() -> PretrainOptions:
    """SimSiam on ImageNet-1k: ResNet-50, 100 epochs, 4 views drawn and 2 kept.

    Source: SimSiam paper, section 4.1 (lr 0.05, weight decay 1e-4, batch 512, predictor at a constant rate).

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe simsiam_imagenet --data IMAGENET/train
    --test-data IMAGENET/val --out RUN``

    Expected: linear 68.20 % without and 68.98 % with hard views (hard-view paper).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              512
    steps per epoch         2502
    lr at step 0            0.1
    lr at end of warm-up    0.1
    lr at last step         3.942e-12
    constant lr             0.1
    weight decay            0.0001
    momentum                0.9
    views                   4 -> 2
    scoring                 exact
    image size              224
    crop scale              0.2 - 1.0
    blur                    0.5
    projector               2048 x 3
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "simsiam"},
        backbone=BackboneOptions("resnet50", stem="imagenet", keywords={"zero_init_last": True}),
        image_size=224,
        batch_size=512,
        epochs=100,
        lr=0.05,
        weight_decay=1e-4,
        workers=8,
    )


def fastsiam_cifar10() -> PretrainOptions:
    """SimSiam with four kept views on CIFAR-10, as in FastSiam: ResNet-18, 200 epochs, 8 views drawn and 4 kept.

    Every view predicts the mean of the three others (Pototzky et al., DAGM GCPR 2022), whose projections have length 1
    before they are averaged, and not after, so that every pair has a cost of its own.

    Source: lightly's CIFAR-10 benchmark (batch 128, SGD with lr 0.06 per 128 and weight decay 5e-4, no blur).

    Command: ``hardviews pretrain --recipe fastsiam_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: kNN 90.6 % without hard views (lightly's FastSiam: k 200, T 0.1, best of all epochs).
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              128
    steps per epoch         390
    lr at step 0            0.06
    lr at end of warm-up    0.06
    lr at last step         2.433e-11
    weight decay            0.0005
    momentum                0.9
    views                   8 -> 4
    scoring                 exact
    image size              32
    crop scale              0.2 - 1.0
    blur                    0.0
    projector               2048 x 2
    constant lr             0.06
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "simsiam", "projector_layers": 2},
        plan={"blur_p": 0.0, "keep": 4},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=128,
        epochs=200,
        lr=0.12,
        weight_decay=5e-4,
        knn_k=200,
        knn_temperature=0.1,
    )
