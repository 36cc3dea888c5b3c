"""Chooses the device, its fast number format, and kernels."""

import os

import torch

from hardviews.errors import InputError, unknown
from hardviews.options.pretraining import Precision

ACCELERATORS = ("auto", "cpu", "cuda")


def device_type(accelerator: str) -> str:
    """``"cpu"`` or ``"cuda"``; auto uses CUDA if it is available.

    Raises:
        InputError: the device does not exist or is unavailable.
    """
    accelerator = "cuda" if accelerator == "gpu" else accelerator
    if accelerator == "mps":
        raise InputError("accelerator: mps has no float64, in which crop boxes are computed; give cpu")
    if accelerator not in ACCELERATORS:
        raise unknown("accelerator", accelerator, ACCELERATORS)
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("accelerator: no CUDA device is available here; give cpu or auto")
    if accelerator != "auto":
        return accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_precision(device: torch.device) -> Precision:
    """bf16 where the device has instructions for it, else fp16 with a scaler on CUDA, else fp32.

    On CPUs this needs AMX (Intel since Sapphire Rapids) or AVX512-BF16 (AMD since Zen 4): on two such cores, a training
    step of a ResNet-18 was 1.6 to 2.7 times as fast as in fp32. Other CPUs emulate bf16, slower than fp32.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= 8 else "16-mixed"
    if device.type == "cpu":
        known = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        if any(supported() for supported in known if supported is not None):
            return "bf16-mixed"
    return "32-true"


def choose_kernels(deterministic: bool) -> None:
    """Sets which of several kernels torch uses in this process.

    Deterministic kernels give identical bits in every run on the same machine with the same versions; an operation
    without one raises RuntimeError with its name. Otherwise cuDNN times its kernels at the first batch of every shape
    and uses the fastest, which suits training, since it repeats few shapes.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at startup
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
