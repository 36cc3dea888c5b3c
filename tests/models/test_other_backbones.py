"""Runs on backbones that timm does not make: they resume to the bit, are measured, embedded with and exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardviews.cli import main
from hardviews.errors import InputError
from hardviews.models.export import export
from hardviews.models.load import load_model
from hardviews.options.export import ExportOptions
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.runs.pretrain import pretrain
from hardviews.training.output.checkpoint import load


class Tiny(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).mean((2, 3))  # type: ignore[no-any-return]


def tiny(width: int = 6) -> nn.Module:
    return Tiny(width)


@pytest.fixture
def dinov2(tmp_path: Path) -> str:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    transformers.AutoModel.from_config(transformers.Dinov2Config(**small)).save_pretrained(tmp_path / "dinov2")
    return f"hf:{tmp_path / 'dinov2'}"


LINE = (
    "pretrain --data shapes:48 --batch-size 16 --workers 0 --tensorboard false --accelerator cpu --knn-epochs 0 "
    "--telemetry 0 --method simclr --method.hidden-dim 16 --method.dim 8 --epochs 2 --keep-epochs 1 --lr 0.1"
)
FORMATS = {"torchvision": ["torchvision", "safetensors", "onnx"], "hf": ["safetensors", "onnx"]}


@pytest.mark.parametrize("kind", ["torchvision", "hf", "function"])
def test_a_run_resumes_is_measured_and_is_exported(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"torchvision": "torchvision:shufflenet_v2_x0_5", "function": f"{__name__}:tiny"}.get(kind)
    name = name or request.getfixturevalue("dinov2")
    run, again = tmp_path / "run", tmp_path / "again"
    width = ["--backbone.width", "8"] if kind == "function" else []
    line = [*LINE.split(), "--backbone", name, *width]
    assert main([*line, "--out", str(run)]) == 0
    shutil.copytree(run, again)
    (again / "checkpoints" / "before.pt").unlink()
    shutil.copyfile(again / "checkpoints" / "epoch-0001.pt", again / "checkpoints" / "last.pt")
    assert main([*line, "--out", str(again)]) == 0
    whole, resumed = (load(folder / "checkpoints" / "last.pt") for folder in (run, again))
    assert whole["step"] == resumed["step"] == 6
    assert all(torch.equal(value, resumed["method"][key]) for key, value in whole["method"].items())

    measured = f"--data shapes:48 --workers 0 --accelerator cpu --precision 32-true --batch-size 16 {run}".split()
    assert main(["evaluate", "--protocol", "knn,linear", "--linear.epochs", "1", *measured]) == 0
    assert 0 <= json.loads((run / "results.jsonl").read_text())["knn_top1"] <= 1
    assert main(["embed", *measured, "--out", str(tmp_path / "embedded.parquet")]) == 0

    subject = load_model(str(run))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = subject.backbone.eval()(images)
    for form in FORMATS.get(kind, ["safetensors", "onnx"]):
        out = tmp_path / form
        export(str(run), ExportOptions(str(out), form))  # type: ignore[arg-type]
        code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
        monkeypatch.chdir(out)
        there: dict[str, Any] = {}
        exec(code, there)
        with torch.no_grad():
            found = there.get("features", there["model"])(images.numpy() if form == "onnx" else images)
        torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-3, atol=1e-4)
    assert main(["export", str(run), "--format", "timm", "--out", str(tmp_path / "timm")]) == 2


def test_dino_names_what_a_backbone_of_one_size_does_not_take(capsys: pytest.CaptureFixture[str]) -> None:
    line = LINE.replace("--method simclr --method.hidden-dim 16 --method.dim 8", "--method dino --plan.local-size 32")
    assert main(f"{line} --backbone torchvision:vit_b_32 --image-size 64".split()) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "plan: of the views of kind 'local': backbone 'torchvision:vit_b_32' does not take images of 32" in said


def test_named_backbones_are_measured_without_a_run(dinov2: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--data shapes:48 --workers 0 --accelerator cpu --batch-size 16 --json"
    assert main(["evaluate", dinov2, *line.split()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image_size"] == 32
    assert main(["evaluate", "torchvision:resnet18", "--pretrained", "false", "--image-size", "32", *line.split()]) == 0
    assert main(["evaluate", f"{__name__}:tiny", "--image-size", "32", *line.split()]) == 0


def options_of(module: nn.Module, out: Path, **others: Any) -> PretrainOptions:
    given: dict[str, Any] = {
        "data": "shapes:48", "method": {"name": "simclr", "hidden_dim": 16, "dim": 8}, "batch_size": 16, "workers": 0,
        "tensorboard": False, "accelerator": "cpu", "knn_epochs": 0, "telemetry": 0, "epochs": 1, "lr": 0.1,
    }  # fmt: skip
    return PretrainOptions(**given | others, backbone=BackboneOptions(module=module), out=str(out))


def test_a_module_given_in_python_is_copied_trained_and_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = Tiny()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    pretrain(options_of(own, tmp_path / "run"))
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    config = load_model(str(tmp_path / "run"), module=own).config
    assert config["backbone"] == {
        "name": f"object:{__name__}.Tiny", "stem": "auto", "pretrained": False, "keywords": {}
    }  # fmt: skip
    trained = load_model(str(tmp_path / "run"), module=Tiny())
    assert not torch.equal(trained.backbone.state_dict()["conv.0.weight"], before["conv.0.weight"])
    with pytest.raises(InputError, match=r"backbone 'object:\S+Tiny' was given as a Python object"):
        load_model(str(tmp_path / "run"))
    with pytest.raises(InputError, match="the checkpoint does not fit"):
        load_model(str(tmp_path / "run"), module=Tiny(7))
    pretrain(options_of(own, tmp_path / "run"))  # is at its end, and resumes from there
    with pytest.raises(InputError, match=r"--backbone is object:\S+Tiny there and object:torch\S+Sequential here"):
        pretrain(options_of(nn.Sequential(Tiny()), tmp_path / "run"))


def test_a_module_brings_mean_and_std(tmp_path: Path) -> None:
    own: Any = Tiny()
    own.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    pretrain(options_of(own, tmp_path / "run"))
    assert load_model(str(tmp_path / "run"), module=own).preprocessing.mean == (0.5, 0.4, 0.3)
