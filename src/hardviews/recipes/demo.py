"""What runs when nothing is asked for."""

from hardviews.training.options import BackboneOptions, PretrainOptions


def demo() -> PretrainOptions:
    """SimCLR on 4,000 drawn shapes: a narrow ResNet-18, minutes on two CPU cores."""
    return PretrainOptions(
        data="shapes",
        method={"name": "simclr", "hidden_dim": 512},
        backbone=BackboneOptions("resnet18", keywords={"channels": [16, 32, 64, 128]}),
        batch_size=128,
        epochs=10,
    )
