"""Run by test_measuring.py, alone or as one of several processes: measurements on the way, whole ones and such that end
in one process before the others; what came of them goes to a file."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from hardviews.data.reading.decode import UNBOUNDED, Bounds, UnreadableImage
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError, PeerError
from hardviews.launch.processes import destroy_process_group
from hardviews.methods.simsiam import SimSiam
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup import monitoring
from hardviews.setup.fabric import answer_within
from hardviews.setup.monitoring import create_evaluated
from hardviews.training.distributed import meeting
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.distributed.sharding import UnshardedCopy
from hardviews.training.loop import Loop
from hardviews.training.monitor import Monitor
from hardviews.training.output.run_folder import RunFolder
from hardviews.training.schedules import FULL_SIZE
from tests.methods.tiny import TinyBackbone
from tests.training.distributed_steps import create_fabric

OPTIONS = PretrainOptions(image_size=32, crop=1.0, workers=0, knn_k=5, knn_bank=0)
BATCH = 8


class Pictures(Shapes):
    """Of which some can't be read, so that processes come to different numbers of them."""

    def __init__(self, split: str, count: int, unreadable: range, error: Exception | None = None) -> None:
        super().__init__(split, count)
        self.unreadable, self.error = unreadable, error

    def read(self, index: int, bounds: Bounds = UNBOUNDED) -> Tensor:
        if index in self.unreadable:
            raise self.error or UnreadableImage(self.path(index), "damaged")
        return super().read(index, bounds)


TRAIN, TEST = Pictures("train", 100, range(3, 12)), Pictures("test", 21, range(20, 21))


class Backbone(nn.Sequential):
    num_features = 8


def network(fabric: Fabric) -> nn.Module:
    """What is measured of a method, whose running means each process has moved by images of its own."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    norm.running_mean = torch.arange(8.0) / 50 + fabric.global_rank
    backbone = Backbone(TinyBackbone(), norm)
    return create_evaluated(SimSiam(backbone, SimSiam.default_plan(32), dim=8, predictor_dim=8), fabric)(
        Meeting(fabric)
    )


def measured(fabric: Fabric, test: Pictures | None = TEST, **changes: Any) -> Mapping[str, float]:
    options = PretrainOptions(**{**vars(OPTIONS), **changes})
    evaluate = monitoring.create_evaluate(options, TRAIN, test, SimSiam.default_plan(32), fabric)
    assert evaluate is not None
    return evaluate(network(fabric), True, Meeting(fabric))


class TooLarge(Backbone):
    """Of which there is no room for a copy."""

    def to_empty(self, **_: Any) -> Any:
        raise torch.OutOfMemoryError("tried")


def interrupted(
    fabric: Fabric, folder: Path, source: Pictures, done: int, stop_at: int = -1, copied: nn.Module | None = None
) -> str:
    """What a monitor says and raises where a process does not come to the end of its part, or has no room for the copy
    of a network that is shared out."""
    evaluate = monitoring.create_evaluate(OPTIONS, source, TEST, SimSiam.default_plan(32), fabric)
    said: list[str] = []
    evaluated = partial(UnshardedCopy(copied).of, copied) if copied is not None else lambda _: network(fabric)
    monitor = Monitor(
        fabric, RunFolder(folder), evaluated, evaluate, str, said.append, every=1, epochs=1,
        steps_per_epoch=1,
    )  # fmt: skip
    looks = 0

    def stop_asked() -> bool:
        nonlocal looks
        looks += 1
        return looks == stop_at

    try:
        assert monitor.measure(done, stop_asked) is None
    except (InputError, PeerError) as error:
        said.append(f"{type(error).__name__}: {error}")
    fabric.barrier()  # nobody is left in another collective
    return f"{'; '.join(said)}{f' after {looks} looks' if stop_at > 0 else ''}"


def reading_again(fabric: Fabric) -> str:
    """A run resumes in the middle of an epoch of a stream, which takes the first process longer than a collective waits
    to read again."""
    patience, meeting.BEAT = 4.0, 1.0
    answer_within(timedelta(seconds=patience), fabric.strategy)
    taken: list[int] = []

    def batches() -> Iterator[Any]:
        if fabric.is_global_zero:
            time.sleep(1.5 * patience)
        yield from range(3)

    def step(images: Any, number: int) -> None:
        dist.all_reduce(torch.ones(1))  # as of gradients
        taken.append(number)

    vars(step).update(watch=SimpleNamespace(start=lambda: None, lap=lambda _: None), resolution=FULL_SIZE)
    loop: Any = SimpleNamespace(
        fabric=fabric, step=step, loader=SimpleNamespace(steps_per_epoch=100), checkpoint_steps=0, log_steps=100,
        _clear_errors=lambda _: nullcontext(), _show_gallery_if_due=lambda _: None, _measure_if_due=lambda *_: False,
    )  # fmt: skip
    nothing: Any = SimpleNamespace(signal=None, move=lambda _: None)
    Loop._take_steps(loop, batches(), 5, 8, nothing, nothing)
    answer_within(timedelta(minutes=5), fabric.strategy)
    return f"all went on from step {taken[0]} to step {taken[-1]}"


def main(out: str) -> None:
    torch.set_num_threads(1)
    monitoring.BATCH = BATCH
    fabric = create_fabric()
    folder, last = Path(out).parent, fabric.global_rank == fabric.world_size - 1
    found: dict[str, Any] = {
        "whole": measured(fabric),
        "held out": measured(fabric, test=None),
        "each": measured(fabric, test=None, knn_test="leave_one_out"),
        "sample": measured(fabric, knn_bank=15),
        "sample of one set": measured(fabric, test=None, knn_bank=4),
    }
    if fabric.world_size > 1:
        missing = Pictures("train", 100, range(96, 97), InputError("the images are gone") if last else None)
        lacking = Pictures("train", 100, range(96, 97), torch.OutOfMemoryError("tried") if last else None)
        found["missing at first"] = interrupted(fabric, folder, missing, 0)
        found["missing later"] = interrupted(fabric, folder, missing, 1)
        found["memory"] = interrupted(fabric, folder, lacking, 0)
        found["stopped"] = interrupted(fabric, folder, TRAIN, 1, 3 if last else 1000)
        found["memory for copies"] = interrupted(fabric, folder, TRAIN, 0, copied=(TooLarge if last else Backbone)())
        found["reading again"] = reading_again(fabric)
    Path(f"{out}-{fabric.global_rank}.json").write_text(json.dumps(found))
    fabric.barrier()
    if fabric.world_size > 1:
        destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
