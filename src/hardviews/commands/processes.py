"""How many processes there are, and how they part."""

import os
import time


def started(devices: int = 1, nodes: int = 1) -> tuple[int, int]:
    """Processes per machine and machines: as torchrun says where it has started them, else as asked for."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return devices, nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


def part_ways() -> None:
    """Ends what processes share, whose threads must not outlive the interpreter; nothing may be under way."""
    import torch

    if torch.distributed.is_initialized():
        # Once a collective is done, gloo's threads let go of its tensors, for which they need Python's lock. Whoever
        # frees the group meanwhile holds that lock, and waits for them for ever (seen with torch 2.6).
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
