"""Runs of SimCLR with hard views. Settings follow Chen et al. (ICML 2020); 4 -> 2 views follow Ferreira et al.
(ICLR 2025)."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def simclr_cifar10() -> PretrainOptions:
    """SimCLR on CIFAR-10: ResNet-18, 500 epochs, 4 views drawn and 2 kept.

    Source: SimCLR paper, appendix B.9 (no blur, colour strength 0.5, batch 512, temperature 0.5, LARS with lr 1.0
    and weight decay 1e-4, warm-up of 10 epochs), where a ResNet-50 is trained for up to 1000 epochs.

    Command: ``hardviews pretrain --recipe simclr_cifar10 --data cifar10 --data-root ROOT --out RUN``

    Expected: linear 94.0 % with the paper's ResNet-50, batch 1024, 1000 epochs, without hard views; with a
        ResNet-18 less.
    Measured: not yet (needs a GPU and the original images).

    ======================  ==========
    batch size              512
    steps per epoch         97
    lr at step 0            0.0
    lr at end of warm-up    2.0
    lr at last step         2.184e-09
    weight decay            0.0001
    momentum                0.9
    temperature             0.5
    views                   4 -> 2
    scoring                 exact
    image size              32
    crop scale              0.08 - 1.0
    blur                    0.0
    projector               2048, 128
    ======================  ==========
    """
    return PretrainOptions(
        data="cifar10",
        scoring="exact",
        method={"name": "simclr", "temperature": 0.5},
        plan={"strength": 0.5, "blur_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="cifar"),
        batch_size=512,
        epochs=500,
        lr=1.0,
        weight_decay=1e-4,
        knn_k=200,
        knn_temperature=0.1,
    )


def simclr_imagenet() -> PretrainOptions:
    """SimCLR on ImageNet-1k: ResNet-50, 100 epochs, batch 4096, 4 views drawn and 2 kept.

    Source: SimCLR paper, section 2.3 and appendix B.6 (LARS, lr 0.3 per 256, warm-up of 10 epochs, temperature 0.1,
    biases and norms neither decayed nor adapted); weight decay 1e-4 as in the hard-view paper (the SimCLR paper: 1e-6).

    Command: ``torchrun --nproc-per-node 8 -m hardviews.cli pretrain --recipe simclr_imagenet --data IMAGENET/train
    --test-data IMAGENET/val --out RUN``

    Expected: linear 64 to 65 % after 100 epochs without hard views (SimCLR paper, figure 9).
    Measured: not yet (needs ImageNet and GPUs).

    ======================  ==========
    batch size              4096
    steps per epoch         312
    lr at step 0            0.0
    lr at end of warm-up    4.8
    lr at last step         1.502e-08
    weight decay            0.0001
    momentum                0.9
    temperature             0.1
    views                   4 -> 2
    scoring                 exact
    image size              224
    crop scale              0.08 - 1.0
    blur                    0.5
    projector               2048, 128
    ======================  ==========
    """
    return PretrainOptions(
        data="imagenet/train",
        scoring="exact",
        method={"name": "simclr"},
        backbone=BackboneOptions("resnet50", stem="imagenet", keywords={"zero_init_last": True}),
        image_size=224,
        batch_size=4096,
        epochs=100,
        lr=0.3,
        weight_decay=1e-4,
        workers=8,
    )
