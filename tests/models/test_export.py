"""Exported folders, loaded as their cards say, without hardviews: the very features that embed writes."""

import errno
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.torch import load_file

from hardviews.analysis.comparison import results
from hardviews.analysis.measured import SIZES
from hardviews.analysis.run import read
from hardviews.cli import main
from hardviews.data.sources import open_source
from hardviews.errors import InputError
from hardviews.evaluation.features import encoded
from hardviews.models import export, formats
from hardviews.models.load import load_model
from hardviews.networks import exports
from hardviews.networks.backbones import Built
from hardviews.networks.exports import TORCHVISION, check_torchvision, for_torchvision, vit_name
from hardviews.options.export import ExportOptions
from hardviews.training.output import checkpoint

SIMSIAM = "--method simsiam --method.dim 16 --method.predictor-dim 8 --backbone resnet18"
RUNS = {
    "small": f"{SIMSIAM} --backbone.channels 8,8,16,16 --backbone.layers 1,1,1,1",  # and the stem of CIFAR
    "cifar": f"{SIMSIAM} --knn-epochs 0",
    "plain": f"{SIMSIAM} --knn-epochs 0 --backbone.stem imagenet",
    "vit": "--method dino --method.prototypes 32 --method.hidden_dim 16 --plan.locals 2 --knn-epochs 0 "
    "--backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.embed_dim 24 --backbone.num_heads 2 "
    "--backbone.depth 2",
}
EVERY = "--data shapes:32 --batch-size 16 --image-size 32 --epochs 1 --workers 0 --tensorboard false --seed 3"
EXPORTS = [
    ("small", "timm"),
    ("small", "safetensors"),
    ("small", "onnx"),
    ("cifar", "torchvision"),
    ("plain", "timm"),
    ("plain", "torchvision"),
    ("vit", "timm"),
    ("vit", "safetensors"),
    ("vit", "onnx"),
]
HAS_ONNX = all(importlib.util.find_spec(name) for name in export.ONNX_PACKAGES)

# Runs the code of every card in its folder, where hardviews can't be imported.
READER = """
import json, os, re, sys
sys.modules["hardviews"] = None
import numpy, timm, torch
root = sys.argv[1]
for name in sys.argv[2:]:
    os.chdir(f"{root}/{name}")
    run = name.split("-")[0]
    images = numpy.load(f"{root}/{run}.npy")
    scope = {}
    exec(re.search(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1], scope)
    if name.endswith("onnx"):
        features = numpy.concatenate([scope["model"](images[:5]), scope["model"](images[5:])])
    else:
        with torch.no_grad():
            features = scope["model"](torch.from_numpy(images)).numpy()
    found = {"features": features}
    if name.endswith("timm") and "local-dir:." in open("README.md").read():
        config = json.load(open("config.json"))
        again = timm.create_model(
            config["architecture"], checkpoint_path="model.safetensors", num_classes=0, **config["model_args"]
        )
        with torch.no_grad():
            found["again"] = again.eval()(torch.from_numpy(images)).numpy()
        data = timm.data.resolve_model_data_config(scope["model"])
        json.dump(data, open(f"{root}/{name}.json", "w"))
        classes = timm.create_model("local-dir:.", pretrained=True, num_classes=10)  # to be tuned
        found["classes"] = classes(torch.from_numpy(images)).detach().numpy()
    numpy.savez(f"{root}/{name}.npz", **found)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, the images ``RUN.npy`` and the embeddings ``RUN.parquet`` of each, and what is exported of them, read."""
    root = tmp_path_factory.mktemp("export")
    for name, line in RUNS.items():
        run = root / "runs" / name
        assert main(["pretrain", *EVERY.split(), *line.split(), "--out", str(run)]) == 0
        assert (
            main(f"embed {run} --data shapes:8 --out {root / name}.parquet --workers 0 --accelerator cpu".split()) == 0
        )
        subject, source = load_model(str(run)), open_source("shapes:8")
        ready = export.at_size(subject, ExportOptions("", "timm")).preprocessing
        (part,) = encoded(subject.backbone, source, ready)
        np.save(root / f"{name}.npy", part.images.numpy())
    folders = [(run, kind) for run, kind in EXPORTS if kind != "onnx" or HAS_ONNX]
    for name, kind in folders:
        assert main(f"export {root / 'runs' / name} --format {kind} --out {root / name}-{kind}".split()) == 0
    command = [sys.executable, "-c", READER, str(root), *(f"{run}-{kind}" for run, kind in folders)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def embedded(root: Path, run: str) -> np.ndarray[Any, Any]:
    table = pq.read_table(root / f"{run}.parquet")
    return np.array(table["embedding"].combine_chunks().flatten()).reshape(8, -1)


@pytest.mark.parametrize(("run", "kind"), EXPORTS)
def test_the_cards_own_code_gives_what_embed_writes(run: str, kind: str, root: Path) -> None:
    if kind == "onnx" and not HAS_ONNX:
        pytest.skip("onnx, onnxruntime or onnxscript is missing")
    found = np.load(root / f"{run}-{kind}.npz")
    wanted = embedded(root, run)
    assert np.ptp(wanted) > 1e-2  # features that say something
    np.testing.assert_allclose(found["features"], wanted, atol=1e-5, rtol=1e-5)
    names = ["README.md", "config.json", "model.onnx" if kind == "onnx" else "model.safetensors"]
    assert sorted(path.name for path in (root / f"{run}-{kind}").iterdir()) == names


@pytest.mark.parametrize("run", ["plain", "vit"])
def test_timm_needs_nothing_but_the_folder(run: str, root: Path) -> None:
    found = np.load(root / f"{run}-timm.npz")
    np.testing.assert_allclose(found["again"], embedded(root, run), atol=1e-5, rtol=1e-5)
    assert found["classes"].shape == (8, 10)
    data = json.loads((root / f"{run}-timm.json").read_text())
    config = yaml.safe_load((root / "runs" / run / "config.yaml").read_text())
    assert data["input_size"] == [3, 32, 32]
    assert (data["mean"], data["std"]) == (config["mean"], config["std"])
    assert (data["crop_pct"], data["interpolation"]) == (1.0, "bicubic")


@pytest.mark.parametrize("kind", ["timm", "safetensors"])
def test_of_a_method_with_a_teacher_the_teacher_leaves(kind: str, root: Path) -> None:
    state = checkpoint.load(root / "runs" / "vit" / "checkpoints" / "last.pt")["method"]
    weights = load_file(root / f"vit-{kind}" / "model.safetensors")
    teacher = {key.removeprefix("teacher.backbone."): key for key in state if key.startswith("teacher.backbone.")}
    assert weights.keys() == teacher.keys()
    assert all(torch.equal(weights[name], state[key]) for name, key in teacher.items())
    assert not torch.equal(weights["norm.weight"], state["backbone.norm.weight"])
    assert "the momentum teacher's" in (root / f"vit-{kind}" / "README.md").read_text()


def test_a_card_says_how_it_was_trained_and_gives_no_place_away(root: Path) -> None:
    text = (root / "small-timm" / "README.md").read_text()
    head = yaml.safe_load(re.search(r"\A---\n(.*?)---\n", text, re.DOTALL)[1])  # type: ignore[index]
    assert head["library_name"] == "timm"
    assert {"self-supervised", "simsiam"} <= set(head["tags"])
    assert "license" not in head
    summary = json.loads((root / "runs" / "small" / "summary.json").read_text())
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text, re.MULTILINE))
    assert (rows["method"], rows["data"], rows["epochs"], rows["seed"]) == ("simsiam", "shapes:32", "1", "3")
    assert rows["views drawn per image"].startswith("4,")
    assert rows["kNN accuracy"] == f"{summary['knn_top1']:.2%}"
    assert rows["kNN accuracy before training"] == f"{summary['knn_top1_untrained']:.2%}"
    assert (summary["knn_train_images"], summary["knn_test_images"], summary["knn_k"]) == (32, 6, 20)
    assert "On 6 test images (the test split of shapes:32), kNN by the 20 nearest of 32 training images.\n" in text
    assert str(root) not in text
    assert "can't load it" in text  # the stem
    assert "cifar" in json.loads((root / "small-timm" / "config.json").read_text())["stem"]


def test_a_cards_figures_name_their_test_sets(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the images that could not be read; also of a run of a version that did not record how many it measured."""
    run, photos = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(root / "runs" / "small", run)
    for split in ("train", "val"):
        for number in range(6):
            (photos / split / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(photos / split / "ab"[number % 2] / f"{number}.png")
    line = f"evaluate {run} --workers 0 --protocol knn --knn.k 3 --cache off --data {photos / 'train'}".split()
    (photos / "val" / "a" / "2.png").write_bytes(b"no picture")
    left_out = "1 test image could not be read and was left out"
    assert main([*line, "--test-data", str(photos / "val")]) == 0
    assert f"  {left_out}\n" in capsys.readouterr().out
    assert main(line) == 0
    assert "left out" not in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({key: summary[key] for key in summary if key not in SIZES}))
    assert main(["export", str(run), "--format", "timm", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text, re.MULTILINE))
    tested, held_out = (json.loads(found)["knn_top1_k3"] for found in (run / "results.jsonl").read_text().splitlines())
    first = json.loads((run / "results.jsonl").read_text().splitlines()[0])
    assert (first["train_unreadable"], first["test_unreadable"], first["unreadable"]) == (0, 1, 1)
    assert f"on train, tested on val (6 images; {left_out})" in results([read(run)])  # the report's tables
    assert rows[f"knn_top1_k3 on val (6 images; {left_out})"] == f"{tested:.2%}"
    assert rows["knn_top1_k3 on a held-out tenth of train (1 image)"] == f"{held_out:.2%}"
    assert "On the test split of shapes:32 (from a version that did not record the number of images).\n" in text
    assert str(tmp_path) not in text


def test_what_is_exported_can_be_exported_again(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(f"export local-dir:{root}/vit-timm --format timm --out {out}".split()) == 0
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (root / "vit-timm", out))
    for config in (first, second):
        config["model_args"] = dict(sorted(config["model_args"].items()))
    assert second == first
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, root / "vit-timm"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    line = f"embed local-dir:{out} --data shapes:8 --out {tmp_path}/e.parquet --workers 0 --accelerator cpu"
    assert main(line.split()) == 0  # at the run's size, and not cropped
    found = pq.read_table(tmp_path / "e.parquet")["embedding"]
    assert found.equals(pq.read_table(root / "vit.parquet")["embedding"])


def test_onnx_is_written_without_a_word_of_the_exporter(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if not HAS_ONNX:
        pytest.skip("onnx, onnxruntime or onnxscript is missing")
    assert main(["export", str(root / "runs" / "small"), "--format", "onnx", "--out", str(tmp_path / "o")]) == 0
    printed = capfd.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert not printed.err
    import onnx

    graph = onnx.load(str(tmp_path / "o" / "model.onnx"))
    (opset,) = [opset.version for opset in graph.opset_import if not opset.domain]
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert (opset, config["opset"], config["input_size"]) == (18, 18, [3, 32, 32])
    (images,), (features,) = graph.graph.input, graph.graph.output
    shapes = [[axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in (images, features)]
    assert (images.name, features.name, shapes) == ("images", "features", [[0, 3, 32, 32], [0, 16]])  # 0: any


def test_a_vit_under_torchvisions_names_is_the_same() -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 4}
    ours = timm.create_model("vit_base_patch16_224", num_classes=0, **small).eval()
    theirs = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 128)
    theirs.heads = torch.nn.Identity()
    built = Built(ours, "vit_base_patch16_224", small, cifar_stem=False)
    exported = for_torchvision(built, 32)
    assert (exported.name, exported.arguments) == ("vit_b_16", {"image_size": 32})
    theirs.load_state_dict(exported.weights)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), ours(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_has_these_under_these_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = timm.create_model(name, num_classes=0).state_dict()
        size = {"image_size": int(name[-3:])} if name.startswith("vit") else {}
        theirs = getattr(torchvision.models, TORCHVISION[name])(**size).state_dict()
    rename = vit_name if name.startswith("vit") else str
    heads = ("fc.", "heads.")
    wanted = {key: value.shape for key, value in theirs.items() if not key.startswith(heads)}
    assert {rename(key): value.shape for key, value in ours.items()} == wanted


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        (
            "resnet18",
            {"channels": [8, 8, 16, 16]},
            "channels [8, 8, 16, 16]: its layer1.0.conv1.weight is 64x64x3x3, and",
        ),
        (
            "resnet18",
            {"layers": [2, 2, 2, 1]},
            "layers [2, 2, 2, 1]: its layer4.1.conv1.weight is 512x512x3x3, and here m",
        ),
        ("resnet18", {"stem_type": "deep"}, "stem_type deep: its conv1.weight is 64x3x7x7, and here missing"),
        ("vit_base_patch16_224", {"depth": 11}, "depth 11: its encoder.layers.encoder_layer_11"),
        ("vit_base_patch16_224", {"embed_dim": 48}, "embed_dim 48: its class_token is 1x1x768, and here 1x1x48"),
        ("resnet18", {"drop_path_rate": 0.1}, None),
        ("vit_base_patch16_224", {}, None),
    ],
)
def test_other_widths_and_depths_than_torchvisions(name: str, arguments: dict[str, Any], says: str | None) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0, **arguments)
    built = Built(backbone, name, arguments, cifar_stem=False)
    with nullcontext() if says is None else pytest.raises(InputError, match=re.escape(says or "")):
        check_torchvision(built, 224)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("RUN --format timm", "out: give --out"),
        ("RUN --out out", "format: give --format"),
        ("RUN --out out --format keras", "not one of timm, torchvision, safetensors, onnx"),
        ("RUN --out FULL --format timm", "is not empty"),
        ("RUN --out FILE --format timm", "is a file"),
        (
            "RUN --out out/of/the/way --format torchvision",
            "torchvision's resnet18 does not have this backbone's channels [8, 8, 16, 16], layers [1, 1, 1, 1]: its "
            "layer1.0.conv1.weight is 64x64x3x3, and here 8x64x3x3; give --format timm, safetensors or onnx",
        ),
        ("resnet26 --pretrained false --out out --format torchvision", "torchvision has no resnet26"),
        ("RUN --out out --format timm --checkpoint c.pth", "which has its own"),
        ("RUN --out out --format timm --crop 2", "crop: 2"),
        ("RUN --out out --format timm --image-size 0", "image-size: 0"),
        ("FULL --out out --format timm", "not a run folder"),
        ("resnet19 --out out --format timm", "unknown backbone 'resnet19'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    line: str, says: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("FULL").mkdir()
    Path("FULL/precious").touch()
    Path("FILE").touch()
    run = str(root / "runs" / "small")
    assert main(["export", *(run if word == "RUN" else word for word in line.split())]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["FILE", "FULL", "FULL/precious"]


def test_without_the_packages_onnx_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["export", str(root / "runs" / "small"), "--format", "onnx", "--out", str(tmp_path / "o")]) == 2
    assert "pip install 'hardviews[export]'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["timm", "safetensors", "onnx"])
def test_a_folder_of_other_features_never_appears(
    kind: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault in what is written: one weight in a thousand is off."""
    if kind == "onnx" and not HAS_ONNX:
        pytest.skip("onnx, onnxruntime or onnxscript is missing")
    weights_of, write_onnx = exports.weights_of, exports.write_onnx

    def spoilt(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
        weights = weights_of(backbone)
        weights["layer4.0.conv2.weight"][0, 0] += 0.5
        return weights

    def spoil(backbone: torch.nn.Module, image_size: int, file: Path, channels: int) -> None:
        other = load_model(str(root / "runs" / "small")).backbone
        other.load_state_dict(spoilt(backbone))
        write_onnx(other, image_size, file, channels)

    monkeypatch.setattr(formats, "weights_of", spoilt)
    monkeypatch.setattr(formats, "write_onnx", spoil)
    assert main(["export", str(root / "runs" / "small"), "--format", kind, "--out", str(tmp_path / "o")]) == 2
    assert "gives other features" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_fault_half_way_leaves_nothing(
    fault: BaseException, code: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*arguments: Any) -> str:
        assert len(list(tmp_path.rglob("model.safetensors"))) == 1
        raise fault

    monkeypatch.setattr(export, "model_card", fail)
    assert main(["export", str(root / "runs" / "small"), "--format", "timm", "--out", str(tmp_path / "o")]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left" in error or "interrupted" in error
    assert not list(tmp_path.iterdir())
