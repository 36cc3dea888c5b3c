"""Which device there is, which number format it is fast at, and which of its kernels are taken."""

import os

import torch

from hardviews.errors import InputError, unknown
from hardviews.options.pretraining import Precision

ACCELERATORS = ("auto", "cpu", "cuda")


def device_type(accelerator: str) -> str:
    """``"cpu"`` or ``"cuda"``; auto takes CUDA where it is available.

    Raises:
        InputError: there is no such device, here or at all.
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

    On CPUs that is AMX (Intel since Sapphire Rapids) or AVX512-BF16 (AMD since Zen 4): a ResNet-18 training step on
    two such cores was 1.6 to 2.7 times as fast as in fp32. Elsewhere bf16 is emulated and slower than fp32.
    """
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= 8 else "16-mixed"
    if device.type == "cpu":
        known = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
        if any(supported() for supported in known if supported is not None):
            return "bf16-mixed"
    return "32-true"


def choose_kernels(deterministic: bool) -> None:
    """Which of several kernels torch takes from now on, in this process.

    Deterministic ones give the same bits in every run on the same machine and versions. An operation that has none
    raises RuntimeError, which names it. Otherwise cuDNN times its kernels at the first batch of every shape, and takes
    the fastest: training sees few shapes, again and again.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
