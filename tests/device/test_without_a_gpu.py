"""Training and evaluation on a fake CUDA device: they run there, and wait for it only where they must.

A new method is judged too: it is found by its file.
"""

from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

import hardviews.views.render as rendering
from hardviews import methods
from hardviews.data.labelled.semantic import open_segmented
from hardviews.data.loading.in_memory import held
from hardviews.data.reading.decode import UNBOUNDED
from hardviews.data.sources import open_source
from hardviews.evaluation import protocols
from hardviews.evaluation.detector import detector
from hardviews.evaluation.features import Preprocessing, extract
from hardviews.evaluation.protocols import finetune, segmentation
from hardviews.evaluation.pyramid import Pyramid
from hardviews.models.load import LoadedModel, preprocessing
from hardviews.models.vectors import on_device
from hardviews.networks.backbones import build_backbone
from hardviews.selection.hard_views import HardViews
from hardviews.selection.policies import names
from hardviews.selection.scoring import Scoring
from hardviews.training.schedules import ResolutionSchedule
from hardviews.training.scoring import early_exit
from hardviews.views.draw import draw
from hardviews.views.plan import ViewPlan
from hardviews.views.streams import stream
from tests.device.fake_cuda import CUDA, FakeCuda, onto_cuda, pretending
from tests.device.steps import NUMBER, batch_of, bench, create_step, created, network_of, take, telemetry

# What may wait for the device, and why.
ALLOWED = {
    "evaluation/": "features leave the device batch by batch, and a protocol reads what it has found",
    "views/images.py": "evaluation moves ordinary memory; training's batches are pinned by the loader",
    "timm/": "fine-tuning's optimizer, schedule and mixup are timm's",
}
# What has no deterministic kernel, and so ends a run with --deterministic.
UNREPEATABLE = {"_upsample_bicubic2d_aa_backward": "position embeddings of views of two sizes"}


def check_step(mode: FakeCuda) -> None:
    assert not mode.found.waits
    assert mode.found.unrepeatable.keys() <= UNREPEATABLE.keys()


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "bf16-mixed") for name in methods.names()]
    + [(name, precision) for name in ("simsiam", "dino") for precision in ("16-mixed", "32-true")],
)
def test_no_step_waits(name: str, precision: str, tmp_path: Path) -> None:
    method = created(name)
    recorded = telemetry(tmp_path, method.plan)
    with pretending() as mode:
        step = create_step(method, precision, observe=recorded.note)
        report = take(step, mode)
    check_step(mode)
    assert report.loss.device == CUDA
    assert all(value.device == CUDA for value in report.values.values())
    trained = [p for n, p in method.named_parameters() if p.requires_grad and not n.startswith("teacher")]
    assert sum(p in step.optimizer.optimizer.state for p in trained) == len(trained)


@pytest.mark.parametrize(("by", "most"), [("kernels", 30), ("operations", 160)])
def test_rendering_launches_few_kernels(by: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of views and images, and their sizes."""
    if by == "operations":
        monkeypatch.setattr(rendering, "kernels_on", lambda _: None)
    elif find_spec("triton") is None:
        pytest.skip("Triton is not installed here")
    plan = methods.find("simsiam").default_plan(64)
    counts = set()
    for draw_count, batch in ((2, 3), (7, 20)):
        some = ViewPlan(tuple(replace(slot, draw=draw_count) for slot in plan.slots))
        images = batch_of(batch, ((40, 50), (64, 30)))
        with pretending() as mode, mode:
            for _ in range(2):  # the first fills what is kept on the device
                there = images.to(CUDA)
                mode.found.clear()
                rendering.render(there, draw(some, images.size, stream(0, "views", 0)), some)
        counts.add(mode.found.launches.total())
    assert len(counts) == 1
    assert counts.pop() <= most


@pytest.mark.parametrize(
    "policy", ["learnable(0.9)", *("sampled(8)" if name == "sampled" else name for name in names())]
)
@pytest.mark.parametrize("guarded", [False, True], ids=["", "guarded"])
def test_no_policy_waits(policy: str, guarded: bool) -> None:
    with pretending() as mode:
        take(create_step(created("dino"), "bf16-mixed", policy, min_contrast=0.2 * guarded), mode)
    check_step(mode)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simsiam", {"policy": "random"}),
        ("simsiam", {"scoring": Scoring(resolution=0.5)}),
        ("simsiam", {"scoring": Scoring(every=2), "parts": 2}),
        ("simsiam", {"optimizer": "lars"}),
        ("byol", {"optimizer": "sgd", "scoring": Scoring(network="teacher")}),
        ("mocov3", {"scoring": Scoring(network="teacher")}),
        ("mocov3", {"scoring": Scoring(depth=0.5)}),
        ("swav", {"scoring": Scoring(resolution=0.5)}),
        ("dinov2", {"scoring": Scoring(network="teacher")}),
        ("dinov2", {"scoring": Scoring(network="teacher_targets", resolution=0.5)}),
        ("dinov2", {"scoring": Scoring(once=True)}),
        ("dino", {"optimizer": "sgd", "parts": 2}),
        ("dino", {"scoring": Scoring(network="teacher_targets", resolution=0.5)}),
        ("dino", {"scoring": Scoring(token_keep=0.5)}),
        ("simsiam", {"scoring": Scoring(depth=0.5)}),
        ("byol", {"scoring": Scoring(depth=0.5, network="teacher"), "parts": 2}),
        ("dino", {"scoring": Scoring(depth=0.5)}),
        ("dino", {"scoring": Scoring(chunk=3, reuse=False)}),
        ("ibot", {"scoring": Scoring(network="teacher_targets", resolution=0.5)}),
        ("ibot", {"scoring": Scoring(resolution=0.5), "parts": 2}),
        ("dino", {"resolution": ResolutionSchedule(0.5, 100)}),
        ("ibot", {"resolution": ResolutionSchedule(0.5, 100), "scoring": Scoring(resolution=0.5)}),
        ("simsiam", {"resolution": ResolutionSchedule(0.5, NUMBER + 1)}),  # the step that is judged is the first large
        ("dino", {"scoring": Scoring(once=True)}),
        ("ibot", {"scoring": Scoring(once=True), "parts": 2}),
    ],
    ids=str,
)
def test_no_way_of_scoring_waits(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_exit, "STEPS", 1)
    with pretending() as mode:
        take(create_step(created(name), "bf16-mixed", **options), mode)
    check_step(mode)


def test_views_on_the_cpu_choose_among_candidates_on_the_device() -> None:
    method = created("simsiam")
    images = batch_of(4, ((40, 50), (64, 30)))
    views = draw(method.plan, images.size, stream(0, "views", 0))
    with pretending() as mode, mode:
        candidates = [torch.zeros(4, 3, 8, 8, device=CUDA) for _ in range(method.plan.draw)]
        ids = HardViews(None, method.plan, "lowest_iou").choose(candidates, views).ids
    assert ids.device == CUDA
    assert views.device == torch.device("cpu")


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_comes_back_from_the_device(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, moves = nn.Linear(2, 2), list[str]()
    monkeypatch.setattr(network, "to", lambda device: moves.append(str(device)))
    with suppress(OSError), on_device(network, CUDA):
        if fails:
            raise OSError
    assert moves == ["cuda:0", "cpu"]


def check_evaluation(mode: FakeCuda) -> None:
    assert all(any(place in what for place in ALLOWED) for what in mode.found.waits), mode.found.waits


@pytest.mark.parametrize(
    ("protocol", "network", "settings"),
    [
        ("knn", "resnet10t", {"k": [5, 20]}),
        ("linear", "vit_tiny_patch16_224", {"epochs": 1}),
        ("linear", "resnet10t", {"epochs": 1, "augment": True}),
        ("retrieval", "resnet10t", {}),
        ("rankme", "resnet10t", {}),
    ],
    ids=str,
)
def test_protocols_run(protocol: str, network: str, settings: dict[str, Any]) -> None:
    given = bench(network)
    with pretending() as mode, mode:
        for _ in protocols.find(protocol)(given, **settings):
            pass
    check_evaluation(mode)


def test_finetuning_runs() -> None:
    """Of a network that comes from the CPU: fake ones can't be copied."""
    given, copied = bench(), network_of("resnet10t")
    with pretending() as mode, patch("copy.deepcopy", lambda _: copied), mode:
        list(finetune.finetune(given, epochs=1, batch_size=8))
    assert next(copied.parameters()).device == CUDA
    check_evaluation(mode)


def test_segmentation_trains_its_head() -> None:
    """What it measures depends on values: which pixels are ignored."""
    given = bench()
    train, _ = open_segmented("shapes:16", 32, 0)
    with pretending() as mode, mode:
        segmentation.fit(segmentation.Head(given, len(train.classes), 1), train, 32, 2, 8, 1e-3, 1e-4)
    check_evaluation(mode)


def test_detection_gets_as_far_as_torchvisions_boxes() -> None:
    given = bench()
    network = onto_cuda(detector(Pyramid(given.backbone, 8, False), 3, False, given.preprocessing, 64, 64)).eval()
    with pretending() as mode, mode, pytest.raises(DynamicOutputShapeException) as stopped:
        network([torch.rand(3, 64, 48).to(CUDA)])
    assert "filter_proposals" in [entry.name for entry in stopped.traceback]


def test_features_pixels_and_raw_pixels_leave_the_device() -> None:
    given = bench()
    with pretending() as mode, mode:
        found = extract(given.backbone, open_source("shapes:20"), given.preprocessing, batch_size=8, pixels=True)
    assert found.vectors.device.type == found.pixels.device.type == "cpu"  # type: ignore[union-attr]


def test_an_image_size_of_ones_own_is_tried_where_the_backbone_is() -> None:
    from types import SimpleNamespace

    built = build_backbone("resnet10t", 32, channels=[8, 8, 16, 16])
    onto_cuda(built.backbone)
    ready = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    with pretending() as mode, mode:
        options: Any = SimpleNamespace(image_size=48, mean=None, std=None, crop=None)
        assert preprocessing(LoadedModel("RUN", built, ready), options).image_size == 48


def test_images_held_on_the_device_are_gathered_there() -> None:
    with pretending() as mode, mode:
        kept = held(open_source("shapes:20"), UNBOUNDED, True, CUDA)
        assert kept is not None
        mode.found.clear()
        kept.batch(torch.arange(5))
    assert not mode.found.waits
