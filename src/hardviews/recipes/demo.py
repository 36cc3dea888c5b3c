"""The default run."""

from hardviews.options.pretraining import BackboneOptions, PretrainOptions


def demo() -> PretrainOptions:
    """SimCLR with hard views on 5,000 drawn shapes: a ResNet with one block per stage, two minutes on two CPU cores.

    Not a published run. It is tuned for a backbone that learns something within minutes: AdamW at a high rate, mild
    crops and colours, and many grey views, since the shapes' colours carry no information. The built-in set is a
    demonstration, never evidence for hard views.

    Command: ``hardviews pretrain``
    """
    return PretrainOptions(
        data="shapes",
        scoring="exact",
        method={"name": "simclr", "hidden_dim": 256, "temperature": 0.2},
        plan={"scale": [0.4, 1.0], "strength": 0.5, "grey_p": 0.7, "blur_p": 0.0},
        backbone=BackboneOptions(
            "resnet18", stem="cifar", keywords={"channels": [16, 32, 64, 128], "layers": [1, 1, 1, 1]}
        ),
        batch_size=128,
        epochs=10,
        optimizer="adamw",
        lr=0.004,
        warmup_epochs=0,
        decay_bias_and_norm=True,
        knn_epochs=5,
    )
