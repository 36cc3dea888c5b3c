"""How many processes there are, and how they part."""

import os
import time

from hardviews.errors import InputError
from hardviews.training.options import PretrainOptions


def started(devices: int = 1, nodes: int = 1) -> tuple[int, int]:
    """Processes per machine and machines: as torchrun says where it has started them, else as asked for."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return devices, nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


def shared_by(options: PretrainOptions) -> tuple[int, int]:
    """Processes per machine and machines.

    Raises:
        InputError: there are not so many devices, or the batch can't be shared by them.
    """
    import torch

    devices, nodes = started(options.devices, options.nodes)
    available = torch.cuda.device_count() if options.accelerator == "cuda" else devices
    if devices > available:
        raise InputError(f"devices: {devices} asked for, {available} available here")
    if options.images_per_step % (devices * nodes * options.accumulate):
        raise InputError(
            f"batch-size: {options.batch_size} images can't be shared evenly by {devices} x {nodes} devices "
            f"in {options.accumulate} parts"
        )
    if options.images_per_step == devices * nodes * options.accumulate:
        raise InputError(f"batch-size: {options.batch_size} leaves one image to a forward, and BN needs two; give more")
    return devices, nodes


def part_ways() -> None:
    """Ends what processes share, whose threads must not outlive the interpreter; nothing may be under way."""
    import torch

    if torch.distributed.is_initialized():
        # Once a collective is done, gloo's threads let go of its tensors, for which they need Python's lock. Whoever
        # frees the group meanwhile holds that lock, and waits for them for ever (seen with torch 2.6).
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
