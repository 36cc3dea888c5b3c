"""Evaluation during training: kNN accuracy and rank."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn

from hardviews.analysis.measured import describe_figures, describe_images
from hardviews.data.sources import ImageSource
from hardviews.data.sources.streams import Stream
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation.features import Features, Preprocessing, extract
from hardviews.evaluation.protocols.knn import knn_accuracy, voters
from hardviews.evaluation.rank import effective_rank
from hardviews.evaluation.splits import held_out, sample
from hardviews.methods.base import Method
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup.data import tested_on
from hardviews.setup.data_notices import Tenth
from hardviews.setup.gathering import gathered
from hardviews.setup.pixels import pixels_of
from hardviews.training.distributed.meeting import Meeting
from hardviews.training.distributed.sharding import UnshardedCopy, broadcast_buffers
from hardviews.training.monitor import Evaluate
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream

# Images that vote, and images that are tested: all that CIFAR has to train on, 50 of every class of ImageNet and its
# whole validation set. Encoding both takes 100,000 forwards, where an epoch of ImageNet takes 2.6 million or more, and
# features of 2,048 numbers take 0.8 GB, with raw pixels 2 GB.
BANK = 50_000
# Without test data, up to so many images are each classified by all others: a tenth of 600 would have a standard error
# of 6 points. A tenth of more has one of at most 2.2.
LEAVE_ONE_OUT = 5_000
BATCH = 256  # images encoded at once, for speed only


def resolve_knn(options: PretrainOptions, source: ImageSource | Stream) -> PretrainOptions:
    """The options with a value for ``knn_bank`` and ``knn_test``: that of the run if it resumes, so that figures stay
    comparable; versions that had no such options took all images, and held out a tenth."""
    run = RunFolder(Path(options.out)) if options.out else None
    usual: dict[str, Any] = {"knn_bank": BANK, "knn_test": "leave_one_out" if len(source) <= LEAVE_ONE_OUT else "tenth"}
    if run is not None and run.config_file.exists():
        usual = {"knn_bank": 0, "knn_test": "tenth"} | run.config()
    open_ones = {name: usual[name] for name in ("knn_bank", "knn_test") if getattr(options, name) is None}
    return replace(options, **open_ones)


def preprocessing_of(options: PretrainOptions, plan: ViewPlan) -> Preprocessing:
    """The preprocessing of images in evaluation, from resolved options."""
    size, crop = options.image_size or 224, options.crop or 0.875
    return Preprocessing(size, plan.mean, plan.std, crop, form=pixels_of(options))


class Drawn(NamedTuple):
    """The images of an evaluation during training."""

    bank: Tensor  # numbers in the source of those that vote, int64 [N]
    queries: Tensor  # of those that are tested, in the test images or, without any, in the source, int64 [M]
    sizes: dict[str, int]  # of how many they are drawn, by the names of ``SIZES``, where they are not all


def drawn(options: PretrainOptions, source: ImageSource, test: ImageSource | None) -> Drawn:
    """The training images that vote and the test images; arguments as of ``create_evaluate``, labelled."""
    labels = source.labels
    assert labels is not None
    rows = torch.arange(len(source))
    if test is None and options.knn_test == "leave_one_out":
        query_rows, query_labels = rows, labels
    elif test is None:
        rows, query_rows = held_out(len(source), stream(options.seed, "held-out"))
        query_labels = labels[query_rows]
    else:
        query_rows = torch.arange(len(test))
        query_labels = query_rows if test.labels is None else test.labels
    limit = options.knn_bank or 0
    bank = rows[sample(labels[rows], limit, stream(options.seed, "knn-bank"))]
    queries = query_rows[sample(query_labels, limit, stream(options.seed, "knn-queries"))]
    if leaves_one_out(options, test):
        queries = bank
    sizes = {}
    if len(bank) < len(rows):
        sizes["knn_train_images_of"] = len(rows)
    if len(queries) < len(query_rows):
        sizes["knn_test_images_of"] = len(query_rows)
    return Drawn(bank, queries, sizes)


def tenth_of(options: PretrainOptions) -> Tenth:
    """What of the training data kNN tests, without test data."""
    if not options.knn_epochs:
        return None
    return "each" if options.knn_test == "leave_one_out" else options.seed


def leaves_one_out(options: PretrainOptions, test: ImageSource | None) -> bool:
    """Whether every image is classified by all others."""
    return test is None and options.knn_test == "leave_one_out"


def create_evaluate(
    options: PretrainOptions, source: ImageSource, test: ImageSource | None, plan: ViewPlan, fabric: Fabric
) -> Evaluate | None:
    """The kNN accuracy and the rank of a backbone, and once the accuracy of raw pixels; None where nothing is
    labelled.

    Every process encodes its part of the images, and the first compares the features: figures don't depend on the
    number of processes.

    Args:
        options: resolved, ``knn_bank`` among them.
        source: whose images vote.
        test: whose images are tested; by default those of ``source``, as ``knn_test`` says.
        plan: for mean and standard deviation of pixels.
        fabric: launched.
    """
    if source.labels is None:
        return None
    preprocessing = preprocessing_of(options, plan)
    bank_rows, query_rows, sizes = drawn(options, source, test)
    alone = leaves_one_out(options, test)

    def evaluate(backbone: nn.Module, pixels: bool, meeting: Meeting) -> Mapping[str, float]:
        def features(of: ImageSource, rows: Tensor) -> Features:
            """With numbers in the source."""
            some = of if len(rows) == len(of) else Subset(of, rows)
            with meeting.working(), fabric.autocast():
                part = extract(
                    backbone, some, preprocessing, batch_size=BATCH, pixels=pixels, workers=options.workers,
                    on_batch=lambda _: meeting.pause(), process=fabric.global_rank, processes=fabric.world_size,
                )  # fmt: skip
            found = gathered(part, some, meeting)
            return found if some is of else replace(found, rows=rows[found.rows])

        if test is None:
            bank = queries = features(source, bank_rows if alone else torch.cat([bank_rows, query_rows]).sort().values)
        else:
            bank, queries = features(source, bank_rows), features(test, query_rows)
        values: dict[str, float] = {}
        with meeting.working():
            if fabric.is_global_zero:
                if test is None and not alone:
                    asked = torch.isin(bank.rows, query_rows)
                    bank, queries = bank[~asked], queries[asked]
                values = figures(bank, queries, options, fabric.device, meeting.pause, alone) | sizes
                lacking = {"test": len(query_rows) - len(queries.rows)}
                lacking |= {} if alone else {"train": len(bank_rows) - len(bank.rows)}
                values |= {f"knn_{part}_images_unreadable": count for part, count in lacking.items() if count}
        return values

    return evaluate


def figures(
    bank: Features, queries: Features, options: PretrainOptions, device: torch.device, on_part: Callable[[], None],
    leave_one_out: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Figures by name, and of how many images they are. Beside raw pixels also the accuracy by chance, of an answer
    that is always the most frequent class of the test images.

    Args:
        bank: votes.
        queries: are tested.
        leave_one_out: they are the same, and no image votes for itself.

    Raises:
        InputError: no image that votes, or none that is tested, can be read.
        RunError: features are not finite.
    """
    for part, name in ((bank, "training"), (queries, "test")):
        if not len(part.rows):
            raise InputError(
                f"knn: none of the {name} images that were drawn can be read; a larger --knn-bank draws more"
            )
    values: dict[str, float] = {
        "knn_top1": knn_accuracy(bank, queries, options.knn_k, options.knn_temperature, device, on_part, leave_one_out),
        "embedding_rank": effective_rank(queries.vectors),
    }
    if bank.pixels is not None and queries.pixels is not None:
        raw = [Features(part.pixels, part.labels, part.rows) for part in (bank, queries) if part.pixels is not None]
        values["knn_top1_pixels"] = knn_accuracy(
            raw[0], raw[1], options.knn_k, device=device, on_part=on_part, leave_one_out=leave_one_out
        )
        values["knn_top1_chance"] = (queries.labels == queries.labels.mode().values).double().mean().item()
    return values | {
        "knn_k": voters(options.knn_k, bank, leave_one_out),
        "knn_train_images": len(bank.rows) - leave_one_out,
        "knn_test_images": len(queries.rows),
    }


def create_describe(options: PretrainOptions) -> Callable[[Mapping[str, float]], str]:
    """Of what is measured: figures; and the images they are of, unless they were said before."""
    test = tested_on(options.data, options.test_data, options.knn_test)
    said: list[str] = []

    def describe(values: Mapping[str, float]) -> str:
        images = describe_images(values, test, options.knn_k, by="by")
        if images in said:
            return describe_figures(values)
        said[:] = [images]
        return f"{describe_figures(values)}; on {images}"

    return describe


def create_evaluated(method: Method[Any], fabric: Fabric) -> Callable[[Meeting], nn.Module]:
    """The backbone that is evaluated, with the same weights in every process; each encodes a part of the images."""
    network = method.get_submodule(method.evaluated)
    if isinstance(fabric.strategy, ModelParallelStrategy):
        whole = UnshardedCopy(network)
        return lambda meeting: whole.of(network, meeting)

    def evaluated(meeting: Meeting) -> nn.Module:
        if fabric.world_size > 1:
            broadcast_buffers(network)  # as the next step would
        return network

    return evaluated
