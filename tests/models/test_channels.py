"""Runs of images of any channels: loaded, embedded with, evaluated, exported, and loaded again by others."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from hardviews.errors import InputError
from hardviews.evaluation.features import Preprocessing, encoded
from hardviews.models.embed import embed
from hardviews.models.evaluate import evaluate_model
from hardviews.models.export import ONNX_PACKAGES, export
from hardviews.models.load import LoadedModel, load_model
from hardviews.networks.backbones import build_backbone
from hardviews.options.embedding import EmbedOptions
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.export import ExportOptions
from hardviews.setup.data import Given
from hardviews.training.output.run_folder import RunFolder
from hardviews.views.pixels import RGB, Pixels
from tests.evaluation.given import Stored, two_tones
from tests.views.test_channels import by_hand, stored

FOUR = Pixels(4, "uint16", (0.0, 10.0, 20.0, 30.0), (10000.0,), rgb=False)
RUNS: dict[str, tuple[Pixels, str, dict[str, Any]]] = {
    "four": (FOUR, "resnet18", {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}),
    "grey": (Pixels(1, "int16", (-1024.0,), (3071.0,), rgb=False), "vit_tiny_patch16_224",
             {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}),
    "stretched": (Pixels(2, "float32", (0.0,), (1.0,), rgb=False, percentiles=(1.0, 99.0)), "resnet18",
                  {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}),
    "bytes": (Pixels(1, "uint8", rgb=False), "resnet18", {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as runs leave them, with an ImageNet's stem but for ``bytes``, which has CIFAR's."""
    root = tmp_path_factory.mktemp("runs")
    for number, (name, (form, backbone, keywords)) in enumerate(RUNS.items()):
        torch.manual_seed(number)
        stem = "cifar" if name == "bytes" else "imagenet" if backbone == "resnet18" else "auto"
        built = build_backbone(backbone, 32, stem=stem, image_channels=form.channels, **keywords)  # type: ignore[arg-type]
        config = {
            "method": {"name": "simsiam"}, "data": "somewhere", "seed": 0, "image_size": 32, "crop": 0.875,
            "mean": [0.3 + 0.01 * c for c in range(form.channels)], "std": [0.2] * form.channels,
            "backbone": {"name": backbone, "stem": stem, "pretrained": False, "keywords": keywords},
            "pixels": form.saved(),
        }  # fmt: skip
        folder = RunFolder(root / name)
        folder.path.mkdir()
        folder.config_file.write_text(yaml.safe_dump(config))
        weights = {f"backbone.{key}": value for key, value in built.backbone.state_dict().items()}
        folder.checkpoints.save({"method": weights, "step": 3})
    return root


def pictures_of(form: Pixels, count: int = 5) -> list[torch.Tensor]:
    return [stored(form, 40 + 9 * k, 90 - 7 * k, seed=k) for k in range(count)]


def test_a_runs_model_has_its_pixels(runs: Path) -> None:
    for name, (form, _, _) in RUNS.items():
        model = load_model(str(runs / name))
        assert model.form == form
        assert len(model.preprocessing.mean) == form.channels
    assert load_model(str(Path(__file__).parents[1] / "fixtures" / "run-0.1")).form == RGB


def test_arrays_tensors_and_files_become_what_torchvision_makes_of_every_channel(runs: Path, tmp_path: Path) -> None:
    model = load_model(str(runs / "four"))
    eyes = Compose([Resize(36, InterpolationMode.BICUBIC), CenterCrop(32)])
    for picture in pictures_of(FOUR):
        levels = (by_hand(picture, FOUR) * 255).numpy().astype(np.float32)
        unit = torch.from_numpy(np.stack([np.asarray(eyes(Image.fromarray(c))) for c in levels])).clamp(0, 255) / 255
        wanted = (unit - torch.tensor(model.preprocessing.mean)[:, None, None]) / 0.2
        np.save(tmp_path / "picture.npy", picture.numpy())
        for given in (picture.numpy(), picture.permute(2, 0, 1), tmp_path / "picture.npy"):
            found = model.transform(given)
            assert type(found) is torch.Tensor
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_embedding_gives_the_features_of_transformed_images(runs: Path) -> None:
    model = load_model(str(runs / "four"))
    images = [picture.numpy() for picture in pictures_of(FOUR)]
    with torch.no_grad():
        wanted = model.backbone.eval()(torch.stack([model.transform(image) for image in images]))
    torch.testing.assert_close(model.embed(images, batch_size=2), wanted)
    for wrong in (np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 4), np.uint8)):
        with pytest.raises(InputError, match=r"images: image 0: [34] channels of uint8, where 4 of uint16 must be"):
            model.embed([wrong])
    with pytest.raises(InputError, match=r"got one image, of shape \[32, 32, 4\]; give a list"):
        model.embed(np.zeros((32, 32, 4), np.uint16))
    assert len(model.embed(np.stack([images[0]] * 2))) == 2


def test_the_verb_embeds_data_in_the_runs_form(runs: Path, tmp_path: Path) -> None:
    model, source = load_model(str(runs / "four")), Stored(pictures_of(FOUR), FOUR)
    options = EmbedOptions("stored", str(tmp_path / "e.parquet"), workers=0, batch_size=2, accelerator="cpu")
    assert embed(model, options, source)["rows"] == 5
    table = pq.read_table(tmp_path / "e.parquet")
    found = np.stack(table["embedding"].to_numpy())
    (part,) = encoded(model.backbone, source, model.preprocessing)
    np.testing.assert_allclose(found, part.vectors.numpy(), atol=1e-5)
    assert Pixels.from_config({"pixels": json.loads(table.schema.metadata[b"pixels"])}) == FOUR
    other = Stored(pictures_of(RUNS["grey"][0]), RUNS["grey"][0])
    with pytest.raises(InputError, match=r"no image can be read; the first: stored\[0\]: 1 channels of int16"):
        embed(model, options, other)


def test_the_verb_measures_in_the_runs_form(runs: Path) -> None:
    model = load_model(str(runs / "grey"))
    form = RUNS["grey"][0]
    train, test = two_tones(40, form), two_tones(20, form)
    options = EvaluateOptions(
        data="stored", test_data="test", workers=0, accelerator="cpu", precision="32-true", cache="off"
    )
    (found,) = evaluate_model(model, options, {"knn": {"k": 1}}, given=Given(train, test))
    assert found["knn_top1_k1"] == 1.0  # every test image is a training image too
    assert (found["test_images_in_train"], found["test_images_compared"]) == (20, 20)
    with pytest.raises(InputError, match="mean: 3 numbers for 1 channel; give one for each"):
        evaluate_model(model, EvaluateOptions(data="stored", mean=(0.5,) * 3), {"knn": {}}, given=Given(train, test))


def exported(model: LoadedModel, kind: Any, folder: Path) -> tuple[str, str, dict[str, Any]]:
    """The card's code that loads, its code that prepares a picture, and the configuration."""
    export(model, ExportOptions(str(folder), kind))
    loads, prepares = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "hardviews" not in loads + prepares
    return loads, prepares, json.loads((folder / "config.json").read_text())


def test_plain_timm_loads_four_channels(runs: Path, tmp_path: Path) -> None:
    model, images = load_model(str(runs / "four")), pictures_of(FOUR)
    _, _, config = exported(model, "timm", tmp_path / "out")
    wanted = model.embed([picture.numpy() for picture in images])
    batch = torch.stack([model.transform(picture.numpy()) for picture in images])
    folder = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    file = timm.create_model(
        "resnet18", in_chans=4, num_classes=0, checkpoint_path=str(tmp_path / "out" / "model.safetensors"),
        channels=[8, 8, 16, 16], layers=[1, 1, 1, 1],
    )  # fmt: skip
    for found in (folder, file):
        with torch.no_grad():
            np.testing.assert_allclose(found.eval()(batch).numpy(), wanted.numpy(), atol=1e-5)
    assert config["model_args"]["in_chans"] == 4
    data = timm.data.resolve_model_data_config(folder)  # type: ignore[attr-defined,no-untyped-call]
    assert tuple(data["input_size"]) == (4, 32, 32)
    assert list(data["mean"]) == pytest.approx([0.3, 0.31, 0.32, 0.33])
    again = load_model(f"local-dir:{tmp_path / 'out'}")
    assert again.preprocessing == model.preprocessing
    torch.testing.assert_close(again.embed([picture.numpy() for picture in images]), wanted)


@pytest.mark.parametrize(
    ("run", "kind"),
    [("four", "timm"), ("grey", "safetensors"), ("grey", "onnx"), ("stretched", "timm"), ("bytes", "torchvision"),
     ("bytes", "safetensors")],
)  # fmt: skip
def test_cards_alone_give_from_an_array_what_embedding_gives(
    run: str, kind: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx" and not all(importlib.util.find_spec(name) for name in ONNX_PACKAGES):
        pytest.skip("onnx, onnxruntime or onnxscript is missing")
    model, (form, _, _) = load_model(str(runs / run)), RUNS[run]
    loads, prepares, config = exported(model, kind, tmp_path / "out")
    assert config["pixels"] == json.loads(json.dumps(form.saved()))
    monkeypatch.chdir(tmp_path / "out")
    scope: dict[str, Any] = {}
    exec(loads, scope)
    for picture in pictures_of(form, 3):
        np.save("picture.npy", picture.numpy())
        exec(prepares, scope)
        images = scope["images"]
        torch.testing.assert_close(images[0], model.transform(picture.numpy()), atol=1e-6, rtol=1e-6)
        with torch.no_grad():
            found = scope["model"](images.numpy() if kind == "onnx" else images)
        wanted = model.embed([picture.numpy()])
        assert wanted.abs().max() > 1e-3
        np.testing.assert_allclose(np.asarray(found), wanted.numpy(), atol=1e-5, rtol=1e-5)


def test_torchvision_has_no_such_network(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torchvision's resnet18 does not have this backbone's .*in_chans 4"):
        export(load_model(str(runs / "four")), ExportOptions(str(tmp_path / "out"), "torchvision"))


def test_transformers_keep_what_images_are(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    transformers.AutoModel.from_config(transformers.Dinov2Config(**small)).save_pretrained(tmp_path / "rgb")
    built = build_backbone(f"hf:{tmp_path / 'rgb'}", 32, pretrained=True, image_channels=4)
    model = LoadedModel("four", built, Preprocessing(32, (0.3,) * 4, (0.2,) * 4, form=FOUR))
    export(model, ExportOptions(str(tmp_path / "out"), "safetensors"))
    again = load_model(f"hf:{tmp_path / 'out'}")
    assert again.form == FOUR
    images = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.backbone.eval()(images), model.backbone.eval()(images))


def test_a_folder_that_says_channels_alone_is_taken_for_eight_bits(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(load_model(str(runs / "four")), "timm", tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    del config["pixels"]
    file.write_text(json.dumps(config))
    assert load_model(f"local-dir:{tmp_path / 'out'}").form == Pixels(4, rgb=False)
    assert "takes 4 channels, and does not say of which type: 8-bit ones are taken" in capsys.readouterr().err
