"""From files to features: what `embed` writes is what timm's own transform and the exported model give."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image, ImageOps
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from hardviews.cli import main
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.shapes import draw_scene
from hardviews.evaluation.features import Preprocessing, encoded
from hardviews.models.export import ONNX_PACKAGES
from hardviews.models.load import load_model, timm_preprocessing

PACK = Path(__file__).parents[3] / "shared" / "data"
SMALL = "--epochs 1 --batch-size 8 --workers 0 --tensorboard false --knn-epochs 0 --accelerator cpu --image-size 64"
RUNS = {
    "resnet": "--method simsiam --method.dim 16 --method.predictor-dim 8 --backbone resnet18 "
    "--backbone.channels 16,32,64,128 --backbone.layers 1,1,1,1",
    "vit": "--method dino --method.prototypes 32 --method.hidden_dim 16 --plan.locals 2 "
    "--backbone vit_tiny_patch16_224 --backbone.patch_size 8 --backbone.embed_dim 48 --backbone.num_heads 3 "
    "--backbone.depth 2",
}


def write_drawn(folder: Path) -> None:
    """Every kind of file, of the built-in scenes: JPEG as stored, grey, CMYK and turned by EXIF, PNG, WebP."""
    for index in range(8):
        scene = Image.fromarray(draw_scene(index, size=1100).image)
        scene.crop((0, 0, 1100, 400 + 97 * index)).save(folder / f"wide{index}.jpg", quality=92)
        scene.resize((224, 224)).save(folder / f"square{index}.jpg")
    scene = Image.fromarray(draw_scene(9, size=500).image).crop((0, 0, 500, 333))
    turned = Image.Exif()
    turned[0x0112] = 6
    scene.save(folder / "turned.jpg", exif=turned)
    scene.convert("L").save(folder / "grey.jpg")
    scene.convert("CMYK").save(folder / "print.jpg")
    scene.save(folder / "high.webp")
    scene.resize((64, 64)).save(folder / "native.png")
    scene.resize((31, 40)).save(folder / "tiny.png")


def write_photographs(folder: Path) -> None:
    table = pq.read_table(PACK / "imagenette224" / "imagenette224-sub-val.parquet", columns=["image"])
    for row in range(0, 1600, 100):
        (folder / f"nette{row}.jpg").write_bytes(table["image"][row].as_py())
    for file in sorted((PACK / "coco-mini" / "val2017").iterdir()):
        (folder / file.name).write_bytes(file.read_bytes())


@pytest.fixture(scope="module", params=["drawn", "photographs"])
def pictures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "photographs" and not PACK.exists():
        pytest.skip(f"{PACK} is not there")
    folder = tmp_path_factory.mktemp("pictures") / str(request.param)
    folder.mkdir()
    {"drawn": write_drawn, "photographs": write_photographs}[request.param](folder)
    return folder


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / str(request.param)
    assert main(["pretrain", *SMALL.split(), *RUNS[request.param].split(), f"--data={pictures}", f"--out={out}"]) == 0
    return out


def by_timm(model: nn.Module, files: list[str]) -> Tensor:
    """What timm's own transform for a model makes of files that Pillow opens, upright and in RGB."""
    transform = create_transform(**resolve_model_data_config(model), is_training=False)  # type: ignore[no-untyped-call]
    pictures = []
    for file in files:
        with Image.open(file) as image:
            pictures.append(transform(ImageOps.exif_transpose(image).convert("RGB")))
    return torch.stack(pictures)


@pytest.mark.parametrize("crop", ["0.875", "1.0"])
def test_timm_gives_from_files_what_embed_writes(run: Path, pictures: Path, crop: str, tmp_path: Path) -> None:
    out, table = tmp_path / "exported", tmp_path / "embeddings.parquet"
    assert main(f"export {run} --format timm --out {out} --crop {crop}".split()) == 0
    line = f"embed {run} --data {pictures} --out {table} --crop {crop} --workers 1 --accelerator cpu --batch-size 7"
    assert main(line.split()) == 0
    written = pq.read_table(table)
    vectors = np.stack(written["embedding"].to_numpy())

    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = by_timm(model, written["path"].to_pylist())
    with torch.no_grad():
        features = model(images).double()
    assert len(features) == len(list(pictures.iterdir()))
    alike = cosine_similarity(torch.from_numpy(vectors).double(), features)
    assert alike.min() > 0.99999
    # Features of images lie close together: their differences have to agree too.
    mean = features.mean(0)
    assert cosine_similarity(torch.from_numpy(vectors).double() - mean, features - mean).min() > 0.9999

    assert torch.equal(seen(pictures, load_model(str(run)).preprocessing, float(crop)), images)  # bit for bit


CARDS = [("RUN", "timm"), ("RUN", "safetensors"), ("RUN", "onnx"), ("resnet18 --pretrained false", "torchvision")]


@pytest.mark.parametrize(("target", "kind"), CARDS)
def test_cards_prepare_images_as_evaluation_does(
    target: str, kind: str, run: Path, pictures: Path, tmp_path: Path
) -> None:
    if kind == "onnx" and not all(importlib.util.find_spec(name) for name in ONNX_PACKAGES):
        pytest.skip("onnx, onnxruntime or onnxscript is missing")
    target = target.replace("RUN", str(run))
    line = f"export {target} --format {kind} --image-size 64 --crop 0.66 --out {tmp_path}/out"  # 64 / 0.66 is 96.97
    assert main(line.split()) == 0
    (code,) = re.findall(r"```python\n(from PIL.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    files = Folder(pictures)
    images = []
    for index in range(len(files)):
        scope: dict[str, Tensor] = {}
        exec(code.replace('"picture.jpg"', repr(files.path(index))), scope)
        images.append(scope["images"])
    ready = load_model(str(run)).preprocessing  # its mean and std are ImageNet's, as those of timm's model
    assert torch.equal(torch.cat(images), seen(pictures, ready, 0.66))


def seen(pictures: Path, ready: Preprocessing, crop: float) -> Tensor:
    """What evaluation shows a network."""
    (part,) = encoded(Looking(), Folder(pictures), replace(ready, crop=crop))
    return part.images


class Looking(nn.Module):
    """A backbone that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "interpolation", "mode", "crop"),
    [
        ("resnet18.tv_in1k", "bilinear", "center", 0.875),
        ("tf_efficientnetv2_b3.in21k_ft_in1k", "bicubic", "squash", 0.9),
    ],
)
def test_a_timm_model_sees_what_its_own_transform_gives(
    name: str, interpolation: str, mode: str, crop: float, pictures: Path
) -> None:
    subject = load_model(name, pretrained=False)
    ready = subject.preprocessing
    assert (ready.interpolation, ready.crop_mode, ready.crop) == (interpolation, mode, crop)
    files = Folder(pictures)
    images = by_timm(subject.backbone, [files.path(index) for index in range(len(files))])
    assert torch.equal(seen(pictures, ready, crop), images)


def test_an_unsupported_crop_mode_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ready = timm_preprocessing("some model", 64, {"interpolation": "bilinear", "crop_mode": "border"})
    assert (ready.interpolation, ready.crop_mode) == ("bilinear", "center")
    assert "some model: timm's crop mode 'border' is not supported" in capsys.readouterr().err
