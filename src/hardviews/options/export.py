"""The settings of ``hardviews export``."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class ExportOptions:
    """Writes a run's backbone (of a method with a teacher, the teacher's) to a folder that loads without hardviews.

    Args:
        out: the folder, new or empty. It gets the weights, config.json, and README.md, a model card that says how to
            load them.
        format: timm and safetensors take any timm backbone, timm in the layout of the Hugging Face Hub; torchvision
            takes the ResNets and Vision Transformers that it has too; onnx needs the export extra. What was written is
            loaded again and its features are compared before the folder appears.
        checkpoint: for a timm model: its weights from this file instead of the hub (.safetensors, .pth).
        pretrained: for a timm model: false takes random weights.
        image_size: in pixels; by default the run's, or the size the timm model was trained for.
        crop: side of the central crop as a part of the shorter side, for config.json; by default 1 for runs on images
            of 96 pixels or less, else the model's or 0.875.
        push_to_hub: USER/NAME of a repository on the Hugging Face Hub, to which the folder is uploaded too; one that
            does not exist is made. It needs `hf auth login` or HF_TOKEN.
        private: make the repository private, if it does not exist.
    """

    out: str
    format: Literal["timm", "torchvision", "safetensors", "onnx"]
    checkpoint: str | None = None
    pretrained: bool = True
    image_size: int | None = None
    crop: float | None = None
    push_to_hub: str | None = None
    private: bool = False
