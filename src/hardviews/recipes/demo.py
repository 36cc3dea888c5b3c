"""What runs when nothing is asked for."""

from hardviews.training.options import BackboneOptions, PretrainOptions


def demo() -> PretrainOptions:
    """SimCLR with hard views on 5,000 drawn shapes: a narrow ResNet-18, two minutes on two CPU cores.

    Not a published run. Tuned for a backbone that has learned something within minutes: AdamW at a high rate, mild
    crops and colours. The built-in set is a demonstration, never evidence for hard views.

    Command: ``hardviews pretrain``
    """
    return PretrainOptions(
        data="shapes",
        method={"name": "simclr", "hidden_dim": 256, "temperature": 0.2},
        plan={"scale": [0.4, 1.0], "strength": 0.5, "blur_p": 0.0},
        backbone=BackboneOptions("resnet18", stem="imagenet", keywords={"channels": [32, 64, 128, 256]}),
        batch_size=128,
        epochs=20,
        optimizer="adamw",
        lr=0.004,
        warmup_epochs=0,
        decay_1d=True,
        knn_epochs=10,
    )
