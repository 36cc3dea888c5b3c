"""Writes the features of a data set, alone or as one of several processes."""

import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from hardviews.console import progress_bars
from hardviews.data.reading.decode import printable
from hardviews.data.sources import ImageSource
from hardviews.errors import InputError, RunError, StoppedError
from hardviews.evaluation.bench import StartProgress
from hardviews.evaluation.embeddings import EmbeddingFile, schema_of
from hardviews.evaluation.features import Preprocessing, encoded, why_unreadable
from hardviews.launch.environment import started
from hardviews.launch.global_state import global_state_restored
from hardviews.launch.processes import destroy_process_group, has_process_group, meet_once, peer_errors
from hardviews.models.load import LoadedModel, check, load_model, preprocessing
from hardviews.models.vectors import exact_features, on_device
from hardviews.networks.backbones import check_features
from hardviews.options.embedding import EmbedOptions
from hardviews.setup.data import in_parts, opened
from hardviews.setup.data_notices import warn_of_data, warn_unlabelled
from hardviews.training.precision import device_type, fast_precision
from hardviews.views.pixels import RGB

ENDINGS = (".parquet", ".pq")
PATIENCE = timedelta(days=7)  # for the slowest process: what decoding takes may differ by hours


@global_state_restored()
@peer_errors()
def embed(target: str | LoadedModel, options: EmbedOptions, given: ImageSource | None = None) -> dict[str, Any]:
    """Writes the features of every image of a data set to a Parquet file.

    Args:
        target: a run folder or a timm model's name, of which an existing folder wins; or a model.
        options: as parsed.
        given: the data as an object, which ``options`` names.

    Returns:
        What was written, by name; of several processes, only rank 0 gets it.

    Raises:
        InputError: there is nothing to embed with, nothing to embed, or nowhere to write to.
        RunError: the file could not be written to its end, or another process stopped.
    """
    check(options)
    out = check_out(options)
    own_group = not has_process_group()
    source = opened(options, options.data, options.split) if given is None else in_parts(options, given)
    subject = target
    if isinstance(subject, str):
        subject = load_model(subject, options.checkpoint, options.pretrained, options.image_size)
    ready = preprocessing(subject, options, source)
    warn_of_data(source, form=ready.form)
    warn_unlabelled(source, "none are written")
    fabric = create_fabric(options)
    # Process 0 writes what becomes the file; the others' rows are added to it.
    beside = out.with_name(f"{out.name}.part" + (f"-{fabric.global_rank}" if fabric.global_rank else ""))
    try:
        with unwinding(fabric), on_device(subject.backbone, fabric.device):
            dimension = check_features(subject.name, subject.backbone, ready.image_size, ready.form.channels)
            schema = schema_of(dimension, source.labels is not None, metadata_of(subject, ready, source))
            with writing(out), progress_bars(fabric.is_global_zero) as progress:
                file = EmbeddingFile(beside, schema)
                write_part(file, subject, source, ready, options, fabric, progress)
            fabric.barrier()
            if fabric.is_global_zero:
                with writing(out):
                    for process in range(1, fabric.world_size):
                        file.append(out.with_name(f"{out.name}.part-{process}"))
                    file.close()
                    if not file.rows:
                        why = why_unreadable(source, ready.form)
                        raise InputError(f"{source.name}: no image can be read{why}")
                    beside.replace(out)
            fabric.barrier()
    finally:
        beside.unlink(missing_ok=True)
    if own_group:
        destroy_process_group()
    if not fabric.is_global_zero:
        return {}
    return {
        "target": subject.name,
        "data": source.name,
        "rows": file.rows,
        "dimension": schema.field("embedding").type.list_size,
        "unreadable": len(source) - file.rows,
        "out": str(out),
    }


def check_out(options: EmbedOptions) -> Path:
    """Where to write.

    Raises:
        InputError: it is a folder, or in none, or the data itself, or its name is that of another format.
    """
    out = Path(options.out)
    if out.is_dir():
        raise InputError(f"out: {out} is a folder; give a file, such as {out / 'embeddings.parquet'}")
    if out.suffix.lower() not in ENDINGS:
        raise InputError(f"out: {out} is to be a Parquet file; let its name end with {ENDINGS[0]}")
    if not out.parent.is_dir():
        raise InputError(f"out: there is no folder {out.parent}; make it first")
    if out.exists() and Path(options.data).exists() and out.samefile(options.data):
        raise InputError(f"out: {out} is the data itself; give another file")
    return out


def create_fabric(options: EmbedOptions) -> Fabric:
    """One process, or those that torchrun has started."""
    accelerator = device_type(options.accelerator)
    precision = fast_precision(torch.device(accelerator)) if options.precision == "auto" else options.precision
    devices, nodes = started()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=precision,  # type: ignore[arg-type]  # never "auto" here
        # They only wait for each other, for which GPUs are not needed.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=PATIENCE) if devices * nodes > 1 else "auto",
    )
    meet_once(devices * nodes)
    fabric.launch()
    return fabric


@contextmanager
def unwinding(fabric: Fabric) -> Generator[None, None, None]:
    """Lets SIGTERM raise StoppedError: torchrun ends all where one fails, and then too nothing may be left
    half-written."""

    def stop(*_: object) -> None:
        raise StoppedError("stopped by SIGTERM; nothing was written", signal.SIGTERM)

    alone = fabric.world_size == 1
    before = None if alone else signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if not alone:
            signal.signal(signal.SIGTERM, before)


def metadata_of(subject: LoadedModel, ready: Preprocessing, source: ImageSource) -> dict[str, Any]:
    """What the file's schema says: whose features of what, and how the images were made ready."""
    metadata = {
        "model": subject.name,
        "architecture": subject.built.architecture,
        "data": source.name,
        "image_size": ready.image_size,
        "mean": ready.mean,
        "std": ready.std,
        "crop": ready.crop,
        "crop_mode": ready.crop_mode,
        "interpolation": ready.interpolation,
    }
    metadata |= {} if ready.form == RGB else {"pixels": ready.form.saved()}
    return metadata | ({} if source.class_names is None else {"class_names": source.class_names})


def write_part(
    file: EmbeddingFile, subject: LoadedModel, source: ImageSource, ready: Preprocessing, options: EmbedOptions,
    fabric: Fabric, progress: StartProgress,
) -> None:  # fmt: skip
    """Encodes this process's part of the images."""
    advance = progress("embeddings", -(-len(source) // fabric.world_size))
    batches = encoded(
        subject.backbone, source, ready, batch_size=options.batch_size, workers=options.workers,
        process=fabric.global_rank, processes=fabric.world_size,
    )  # fmt: skip
    exactly = options.precision == "32-true" and fabric.device.type == "cuda"
    with fabric.autocast(), exact_features() if exactly else nullcontext():
        for found in batches:
            paths = [printable(source.path(index)) for index in found.ids.tolist()]
            file.write(paths, None if source.labels is None else source.labels[found.ids], found.vectors)
            advance(len(paths))
    if fabric.global_rank:
        file.close()


@contextmanager
def writing(out: Path) -> Generator[None, None, None]:
    """Says of a full disk, and of a folder that must not be written to, what it is."""
    try:
        yield
    except OSError as error:
        raise RunError(f"out: {out} can't be written: {error.strerror or ' '.join(str(error).split())}") from error
