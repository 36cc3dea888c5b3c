"""What telemetry takes of a step: short epochs with and without it, in turns, and the seconds spent in it alone.

    python benchmarks/telemetry.py [--device cuda] [--methods simsiam,dino] [--steps 5] [--json FILE]

The steps are those of ``step.py``. Every image of every step is followed, where a run by default follows 2,048 of its
data set, and the file is written after so few steps: a run of larger data, or longer epochs, pays less.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import arguments, ratios, side_by_side, table, write
from step import BATCH, created, pictures

from hardviews.telemetry.followed import Followed
from hardviews.telemetry.recording import Recorder
from hardviews.training.step import observe_nothing


def measured(name: str, device: torch.device, batch: int, steps: int, repeats: int, folder: Path) -> dict[str, Any]:
    step, method = created(name, device, batch, plain=False)
    images, spent = pictures(batch, device), [0.0]
    telemetry = Recorder(folder, method.plan, Followed(batch, batch, 16, 0, "hardest", 1, steps))

    def timed(work: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **keywords: Any) -> None:
            start = time.perf_counter()
            work(*arguments, **keywords)
            spent[0] += time.perf_counter() - start

        return run

    def epoch(observed: bool) -> None:
        step.observe = timed(telemetry.note) if observed else observe_nothing
        for index in range(steps):
            step.watch.start()
            step(images, index)
        if device.type == "cuda":
            torch.cuda.synchronize()  # what a fetch waits for is no time of its own
        if observed:
            timed(telemetry.fetch)()
            timed(telemetry.write)(ended=True)

    times = side_by_side({"without": lambda: epoch(False), "with": lambda: epoch(True)}, repeats, device)
    found: dict[str, Any] = ratios(times, "without")
    found["alone"] = spent[0] / (repeats + 1) / steps  # the warm-up counts too
    found["bytes_per_image"] = next(folder.glob("*.npz")).stat().st_size / (batch * steps)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--methods", default="simsiam,dino")
    parser.add_argument("--steps", type=int, default=5, help="of an epoch")
    args = parser.parse_args()
    everything: dict[str, Any] = {"device": str(args.device), "threads": torch.get_num_threads(), "steps": args.steps}
    rows = []
    for name in args.methods.split(","):
        with tempfile.TemporaryDirectory() as folder:
            v = measured(name, args.device, BATCH[name], args.steps, args.repeats, Path(folder))
        everything[name] = {"batch": BATCH[name], **v}
        ratio, without = v["with"], v["without"]["seconds"] / args.steps
        rows.append(
            [
                name,
                f"{without:.3f}",
                *(f"{ratio[key]:.4f}" for key in ("ratio", "lowest", "highest")),
                f"{1000 * v['alone']:.2f}",
                f"{v['alone'] / without:.3%}",
                f"{v['bytes_per_image']:.0f}",
            ]
        )
    table(
        f"telemetry of all images, epochs of {args.steps} steps, {args.device}, {torch.get_num_threads()} threads, "
        f"{args.repeats} repeats",
        ["method", "s/step", "with / without", "lowest", "highest", "ms/step in it", "of the step", "bytes/image"],
        rows,
    )
    write(args.json, everything)


if __name__ == "__main__":
    main()
