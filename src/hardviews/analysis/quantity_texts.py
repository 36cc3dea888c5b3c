"""The quantities of views and pairs in words, for figures and captions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class QuantityText:
    """A quantity in words: title, the axis' unit, meaning, and whether it is a fraction."""

    title: str
    unit: str
    meaning: str
    percent: bool = False


GEOMETRY = {
    "overlap": QuantityText(
        "Overlap", "of the smaller crop", "fraction of the smaller crop that lies within the other", percent=True
    ),
    "distance": QuantityText(
        "Distance of centres", "in crop sides", "distance between the crops' centres, in units of their sides"
    ),
    "area": QuantityText("Crop size", "of the picture", "fraction of the picture that a view shows", percent=True),
    "area_difference": QuantityText(
        "Difference in size",
        "logarithm of areas",
        "how much two crops differ in size (0: equal, 0.7: one twice as large)",
    ),
}
COLOURS = {
    "brightness_difference": QuantityText(
        "Brightness", "difference of factors", "how much two views differ in brightness"
    ),
    "contrast_difference": QuantityText("Contrast", "difference of factors", "how much two views differ in contrast"),
    "saturation_difference": QuantityText(
        "Saturation", "difference of factors", "how much two views differ in saturation"
    ),
    "hue_difference": QuantityText("Hue", "difference, in turns", "how much the hue shifts of two views differ"),
    "grey_difference": QuantityText(
        "Grey beside colour", "of pairs", "how often one of two views is grey and the other in colour", percent=True
    ),
    "grey": QuantityText("Grey", "of views", "how often a view is grey", percent=True),
    "blur_difference": QuantityText("Blur", "difference, in pixels", "how much two views differ in blur"),
    "solarize_difference": QuantityText(
        "Solarized beside not", "of pairs", "how often bright parts of only one of two views are inverted", percent=True
    ),
    "flip_difference": QuantityText(
        "Mirrored beside not", "of pairs", "how often exactly one of two views is mirrored", percent=True
    ),
    "gain_difference": QuantityText(
        "Gain", "difference of factors", "how much a channel's gains of two views differ, on average over channels"
    ),
    "offset_difference": QuantityText(
        "Offset", "difference, of values in 0..1", "how much a channel's offsets of two views differ, on average"
    ),
    "gamma_difference": QuantityText("Gamma", "difference of powers", "how much the gammas of two views differ"),
    "dropped_difference": QuantityText(
        "Dropped beside not", "of channels", "fraction of channels that are dropped in one of two views", percent=True
    ),
}
SHORT = {
    "iou": "shared part (IoU)", "overlap": "overlap", "distance": "distance", "area": "crop size",
    "area_difference": "size difference", "brightness_difference": "brightness diff.",
    "contrast_difference": "contrast diff.", "saturation_difference": "saturation diff.",
    "hue_difference": "hue diff.", "grey": "grey", "grey_difference": "grey beside colour",
    "blur_difference": "blur diff.", "solarize_difference": "solarized beside not",
    "flip_difference": "mirrored beside not", "gain_difference": "gain diff.", "offset_difference": "offset diff.",
    "gamma_difference": "gamma diff.", "dropped_difference": "dropped beside not",
}  # fmt: skip
