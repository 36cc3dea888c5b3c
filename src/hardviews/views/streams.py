"""Random streams keyed by purpose, so that no draw depends on earlier ones."""

from hashlib import blake2b

import torch


def stream(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A separate CPU generator for every (seed, purpose, counters), such as ``stream(seed, "views", step)``.

    The key is hashed, never summed: with seed + step, the second step of one run would repeat the first of the next.
    Torch's CPU generator keeps 32 bits of the key, so about a hundred pairs among a million streams coincide by chance.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for; different purposes never share a stream.
        counters: step, epoch, index of an image, ...
    """
    key = repr((int(seed), purpose, *(int(counter) for counter in counters)))
    number = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number >> 1)
