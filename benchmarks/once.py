"""What a step takes whose training uses what scoring computed (``--score-once``), against a second forward.

    python benchmarks/once.py [--device cuda] [--methods dino,ibot,simclr] [--batch 8] [--json FILE]

The steps of ``step.py``, with rendering and optimizer, but SimCLR with ViT-S/16 of 224 px, since ResNet-18 has BN.
Prints seconds, the ratio to the step without hard views, and a step's peak memory above that before it.
tests/training/test_replay.py compares choices and gradients.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from side_by_side import arguments, ratios, side_by_side, table, write
from step import created, pictures

from hardviews.selection.scoring import EXACT, Scoring
from hardviews.training.memory import peak, resident, start_peak
from hardviews.training.scoring.scorer import Scorer
from hardviews.training.step import Step

WAYS = {"exact": EXACT, "once": Scoring(once=True), "resolution 0.5": Scoring(resolution=0.5)}


def compare(name: str, device: torch.device, batch: int, repeats: int) -> dict[str, Any]:
    """Seconds, ratios and memory of a method's step, by way of scoring."""
    plain, hard = (created(name, device, batch, plain=p, patches=True)[0] for p in (True, False))
    images = pictures(batch, device)

    def take(step: Step, scoring: Scoring) -> None:
        step.scorer = Scorer(step.fabric, step.method, scoring)
        step.watch.start()
        step(images, 0)

    runs: dict[str, Callable[[], None]] = {"without": partial(take, plain, EXACT)}
    runs |= {way: partial(take, hard, scoring) for way, scoring in WAYS.items()}
    found = ratios(side_by_side(runs, repeats, device), "without")
    for way, run in runs.items():
        if device.type == "cpu":
            ctypes.CDLL(None).malloc_trim(0)
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()
        start_peak(device)
        run()
        found[way]["megabytes"] = (peak(device) - before) / 1e6
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--methods", default="dino,ibot,simclr")
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    everything: dict[str, Any] = {"device": str(args.device), "threads": torch.get_num_threads()}
    for name in args.methods.split(","):
        everything[name] = compare(name, args.device, args.batch, args.repeats)
        table(
            f"{name}, batch {args.batch}, {args.device}, {torch.get_num_threads()} threads, {args.repeats} repeats",
            ["step", "seconds", "ratio", "lowest", "highest", "MB"],
            [
                [way, *(f"{v[key]:.3f}" for key in ("seconds", "ratio", "lowest", "highest")), f"{v['megabytes']:.0f}"]
                for way, v in everything[name].items()
            ],
        )
    write(args.json, everything)


if __name__ == "__main__":
    main()
