"""A loaded backbone: its transform is what evaluation sees, and it embeds anything."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hardviews
from hardviews.cli import main
from hardviews.data.sources import as_source
from hardviews.evaluation.features import Preprocessing, encoded
from hardviews.models.transform import transform_of
from tests.api.small import OPTIONS, Pictures

PIXELS = Pictures().pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hardviews.PretrainedRun:
    return hardviews.pretrain("shapes:48", epochs=1, out=tmp_path_factory.mktemp("api") / "run", **OPTIONS)


@pytest.mark.parametrize("ready", [
    Preprocessing(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 1.0, "bilinear", "squash"),
])  # fmt: skip
def test_the_transform_is_what_evaluation_sees(ready: Preprocessing, tmp_path: Path) -> None:
    """Bit for bit, of a picture in every form."""
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    (batch,) = encoded(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2)), as_source([PIXELS[0]]), ready)
    transform = transform_of(ready)
    tensor = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)
    for form in (PIXELS[0], Image.fromarray(PIXELS[0]), tensor, tmp_path / "a.png", str(tmp_path / "a.png")):
        found = transform(form)
        assert type(found) is torch.Tensor
        assert found.dtype == torch.float32
        assert torch.equal(found, batch.images[0])


def test_any_mixture_is_embedded_in_order(run: hardviews.PretrainedRun, tmp_path: Path) -> None:
    model = hardviews.load(run.folder)
    Image.fromarray(PIXELS[1]).save(tmp_path / "b.png")
    mixed: list[Any] = [
        PIXELS[0], tmp_path / "b.png", Image.fromarray(PIXELS[2]), torch.from_numpy(PIXELS[3]).permute(2, 0, 1),
        PIXELS[4] / 255.0,
    ]  # fmt: skip
    model.backbone.train()
    vectors = model.embed(mixed, batch_size=2)
    assert model.backbone.training
    assert vectors.shape == (5, 16)
    assert vectors.dtype == torch.float32
    with torch.no_grad():
        wanted = model.backbone.eval()(torch.stack([model.transform(image) for image in mixed]))
    torch.testing.assert_close(vectors, wanted)
    torch.testing.assert_close(model.embed(PIXELS[:5], workers=1, device="cpu"), wanted)


@pytest.mark.parametrize(
    ("images", "options", "says"),
    [
        ([], {}, "images: none given"),
        ("a.jpg", {}, "images: got str; give a list"),
        ([PIXELS[0], PIXELS[1], "none.jpg"], {"batch_size": 1}, "images: none.jpg: No such file"),
        ([3], {}, "images: image 0: came as int"),
        (PIXELS[0], {}, r"images: got one image, of shape \[40, 48, 3\]; give a list of images"),
        ([PIXELS[0]], {"batch_size": 0}, "batch_size 0"),
        ([PIXELS[0]], {"device": "nowhere"}, "device: nowhere"),
    ],
)
def test_what_can_not_be_embedded(run: hardviews.PretrainedRun, images: Any, options: Any, says: str) -> None:
    with pytest.raises(hardviews.InputError, match=says):
        hardviews.load(run).embed(images, **options)


def test_evaluate_is_the_verb(run: hardviews.PretrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    options: dict[str, Any] = {"workers": 0, "cache": "off", "knn": {"k": 5}}
    ours = hardviews.evaluate(hardviews.load(run), train="shapes:60", **options)
    assert hardviews.evaluate(run, train="shapes:60", **options) == ours
    capsys.readouterr()
    assert main(f"evaluate {run.folder} --data shapes:60 --workers 0 --cache off --knn.k 5 --json".split()) == 0
    assert json.loads(capsys.readouterr().out) == ours


def test_evaluate_on_objects(run: hardviews.PretrainedRun) -> None:
    train = [(np.full((32, 32, 3), 255 * (k % 2), np.uint8), "ab"[k % 2]) for k in range(20)]
    found = hardviews.evaluate(run, train=train, test=train[:6], protocols="knn", workers=0, cache="off", knn={"k": 3})
    assert isinstance(found, dict)
    assert found["knn_top1_k3"] == 1.0
    assert (found["data"], found["test_images"]) == ("object:list", 6)


def test_what_evaluate_refuses(run: hardviews.PretrainedRun) -> None:
    model = hardviews.load(run)
    for call, says in (
        (lambda: hardviews.evaluate(model, train="shapes:40", protocols=["knnn"]), "unknown protocol 'knnn'; did you"),
        (
            lambda: hardviews.evaluate(model, train="shapes:40", knn={"kk": 3}),
            "unknown option knn.kk; did you mean knn",
        ),
        (lambda: hardviews.evaluate(model), "data: give data"),
        (
            lambda: hardviews.evaluate(model, train="shapes:40", linear={"epochs": 0}),
            "linear.epochs: linear is not measured; add linear to protocols",
        ),
        (lambda: hardviews.evaluate(model, train="shapes:40", protocols=5), "protocols: got 5"),  # type: ignore[arg-type]
        (lambda: hardviews.load(run, module=torch.nn.Linear), "module: got the class Linear"),  # type: ignore[arg-type]
        (lambda: hardviews.report([]), "runs: none given"),
        (lambda: hardviews.report(5), "runs: got int; give a list of runs"),  # type: ignore[arg-type]
        (lambda: hardviews.compare("shapes:40", arms={"a": 1}), "arms: give settings by name"),  # type: ignore[dict-item]
        (lambda: hardviews.compare("shapes:40", policies=[1]), r"policies: got \[1\]"),  # type: ignore[list-item]
        (lambda: hardviews.evaluate(3, train="shapes:40"), "model: got int; give a run"),  # type: ignore[arg-type]
        (
            lambda: hardviews.embed(model, "shapes:40", "x.parquet", checkpoint="w.pth"),
            "checkpoint: the model is loaded",
        ),
        (lambda: hardviews.load("resnet19"), "unknown backbone 'resnet19'"),
    ):
        with pytest.raises(hardviews.InputError, match=says):
            call()


def test_a_model_is_embedded_with_and_exported(run: hardviews.PretrainedRun, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    import timm

    model = hardviews.load(run)
    written = hardviews.embed(model, list(PIXELS[:4]), tmp_path / "e.parquet", workers=0)
    assert written["rows"] == 4
    table = pq.read_table(tmp_path / "e.parquet")
    vectors = torch.tensor(table["embedding"].to_pylist())
    torch.testing.assert_close(vectors, model.embed(PIXELS[:4]))
    model.backbone.train()
    hardviews.export(model, tmp_path / "exported", format="timm")
    assert model.backbone.training
    loaded = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True).eval()
    images = torch.stack([model.transform(image) for image in PIXELS[:4]])
    torch.testing.assert_close(loaded(images), vectors)


def test_random_weights_leave_the_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    hardviews.load("resnet18", pretrained=False, image_size=32)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_are_those_of_the_seed_with_objects_too() -> None:
    pictures = [(np.full((40, 40, 3), 20 * k, np.uint8), k % 2) for k in range(12)]
    figures: list[Any] = []
    for _ in range(2):
        torch.rand(3)
        options = {"pretrained": False, "workers": 0}
        figures.append(hardviews.evaluate("resnet18", train=pictures, protocols=["rankme"], **options))
    assert figures[0]["rank"] == figures[1]["rank"]
