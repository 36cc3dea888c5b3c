"""How many processes there are."""

import os


def started(devices: int = 1, nodes: int = 1) -> tuple[int, int]:
    """Processes per machine and machines: as torchrun says where it has started them, else as asked for."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return devices, nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices
