"""Available and peak memory of a process."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# By version of control groups: folder, limit, usage, and the name of the memory that the kernel would reclaim first.
FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(device: torch.device, processes: int = 1) -> int:
    """Bytes that this process may use on a device, including those that it already uses.

    Args:
        device: a CUDA device; anything else means main memory.
        processes: number of processes that share the main memory; CUDA devices are assumed unshared.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    return resident() + min([_free(), *_left_in_groups()]) // processes


def format_bytes(number: int) -> str:
    """Formats bytes in MiB or GiB."""
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.1f} GiB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; CPUs and cuBLAS have no exception class for it."""
    signs = ("not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def start_peak(device: torch.device) -> None:
    """Resets ``peak``. If the kernel can't (only Linux can), main memory's peak is that of the process's lifetime,
    which suffices as long as the measured use grows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROC / "self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Peak bytes of this process since ``start_peak``: of tensors on CUDA, else resident in main memory."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def held(device: torch.device) -> int:
    """Bytes that this process holds, without waiting for the device: on CUDA the peak of its tensors so far, else
    resident in main memory."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident()


def resident() -> int:
    """Resident bytes of this process in main memory."""
    return _status("VmRSS")


def _status(name: str) -> int:
    try:
        return _kilobytes(PROC / "self/status", name)
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if os.uname().sysname == "Darwin" else most * 1024


def _free() -> int:
    """Available bytes of the machine, including the page cache."""
    try:
        return _kilobytes(PROC / "meminfo", "MemAvailable")
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _kilobytes(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _left_in_groups() -> Iterator[int]:
    """What the limits of this process's control groups leave, from its own group to the outermost; containers set
    them."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controller, most, now, dropped in FILES:
        folder = CGROUPS / controller / own.get(controller, "/").strip("/")
        while folder.is_relative_to(CGROUPS / controller):
            try:
                limit, used = (folder / most).read_text().strip(), int((folder / now).read_text())
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except OSError:  # another version, or a group that is invisible from here
                limit, used, statistics = "max", 0, {}
            if limit != "max":
                yield max(int(limit) - used + int(statistics.get(dropped, 0)), 0)
            folder = folder.parent
