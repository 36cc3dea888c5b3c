"""Weights of others: what fits is loaded, what does not is named, and nothing else is made of a file."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hardviews.errors import InputError
from hardviews.networks.weights import load_weights, read_weights


def vit(size: int = 32, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0
    )
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda s: s, ""),
        (lambda s: {"state_dict": s, "epoch": 3}, "module."),
        (lambda s: {"model": s}, ""),
        (lambda s: {"teacher": s, "student": {}, "args": argparse.Namespace(a=1)}, "backbone."),
        (lambda s: {"student": s, "args": argparse.Namespace(a=1)}, "module.backbone."),
        # DINO's optimizer holds numpy's numbers as rates
        (lambda s: {"teacher": s, "optimizer": {"param_groups": [{"lr": np.float64(0.1)}]}}, "backbone."),
        (lambda s: {"model_state_dict": s, "step": np.int64(3)}, ""),
    ],
)
def test_every_form_of_file_gives_the_same_weights(tmp_path: Path, wrap: Any, prefix: str) -> None:
    source, backbone, file = vit(), vit(seed=1), tmp_path / "weights.pth"
    state = {prefix + key: value for key, value in source.state_dict().items()} | {"head.mlp.weight": torch.ones(3)}
    torch.save(wrap(state), file)
    match = load_weights(backbone, read_weights(file, "init"), "init: x")
    assert equal(backbone, source)
    assert match.missing == []
    assert match.left == ["head.mlp.weight"]
    count = len(source.state_dict())
    under = f", under {prefix!r}" if prefix else ""
    assert str(match) == f"{count} of the backbone's {count} tensors{under}; 1 left in the file: head.mlp.weight"


@pytest.mark.parametrize(
    "prefix",
    [
        "model.backbone.",  # Lightning
        "_orig_mod.",  # torch.compile
        "module.encoder_q.",  # MoCo
        "model.backbone._orig_mod.",
        "_orig_mod.module.backbone.",
        "module.model._orig_mod.encoder_q.backbone.",
    ],
)
def test_prefixes_are_found_in_any_nesting(prefix: str) -> None:
    source, backbone = vit(), vit(seed=1)
    others = {prefix.replace("encoder_q", "encoder_k") + "head.weight": torch.ones(3), "queue": torch.ones(2)}
    state = {prefix + key: value for key, value in source.state_dict().items()} | others
    match = load_weights(backbone, state, "init")
    assert equal(backbone, source)
    assert (match.missing, match.left) == ([], sorted(others))
    assert f"18 of the backbone's 18 tensors, under {prefix!r}; 2 left in the file: " in str(match)


def test_of_two_networks_in_a_file_the_one_that_fits_is_taken() -> None:
    """A backbone whose own names begin with a wrapper's word keeps them; MoCo's momentum encoder is left."""
    query, key, backbone = vit(), vit(seed=1), vit(seed=2)
    state = {f"module.encoder_q.{name}": value for name, value in query.state_dict().items()}
    state |= {f"module.encoder_k.{name}": value for name, value in key.state_dict().items()}
    match = load_weights(backbone, state, "init")
    assert equal(backbone, query)
    assert len(match.left) == 18
    wrapped, other = nn.ModuleDict({"model": vit()}), nn.ModuleDict({"model": vit(seed=1)})
    assert load_weights(other, {f"module.{k}": v for k, v in wrapped.state_dict().items()}, "init").prefix == "module."
    assert equal(other, wrapped)


def test_blocks_compiled_by_themselves_are_found() -> None:
    source, backbone = vit(), vit(seed=1)
    state = {key.replace("blocks.0.", "blocks.0._orig_mod."): value for key, value in source.state_dict().items()}
    match = load_weights(backbone, state, "init")
    assert equal(backbone, source)
    assert (match.missing, match.left) == ([], [])


def test_files_as_lightning_and_torch_write_them(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    source, backbone = vit(), vit(seed=1)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model: Any = nn.Module()
            self.model.backbone = torch.compile(source)  # type: ignore[assignment]
            self.model.head = nn.Linear(24, width)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model.head.weight.sum()

    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader([torch.zeros(1)]))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    match = load_weights(backbone, read_weights(tmp_path / "run.ckpt", "init"), "init")
    assert equal(backbone, source)
    assert match.prefix == "model.backbone._orig_mod."
    assert match.left == ["model.head.bias", "model.head.weight"]


def test_safetensors(tmp_path: Path) -> None:
    source, backbone = vit(), vit(seed=1)
    save_file(source.state_dict(), str(tmp_path / "weights.safetensors"))
    load_weights(backbone, read_weights(tmp_path / "weights.safetensors", "init"), "init")
    assert equal(backbone, source)


def test_positions_are_resized_and_other_shapes_are_left() -> None:
    source, larger = vit(32), vit(64, seed=1)
    match = load_weights(larger, source.state_dict(), "init")
    assert match.missing == []
    assert larger.get_parameter("pos_embed").shape[1] == 65
    state = source.state_dict() | {"norm.weight": torch.ones(7)}
    match = load_weights(vit(seed=2), state, "init")
    assert match.missing == ["norm.weight"]
    assert match.left == ["norm.weight"]


def test_other_tokens_leave_the_positions() -> None:
    torch.manual_seed(0)
    registers = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0,
        reg_tokens=4, class_token=False, global_pool="avg",
    )  # fmt: skip
    match = load_weights(vit(), registers.state_dict(), "init")
    assert {"cls_token", "pos_embed"} <= set(match.missing)
    assert "blocks.0.attn.qkv.weight" in match.matched
    assert "pos_embed" in match.left


def test_nothing_that_fits_is_refused() -> None:
    with pytest.raises(InputError, match=r"nothing in it fits the backbone: conv1.weight there, cls_token, .* here"):
        load_weights(vit(), {"conv1.weight": torch.ones(3)}, "init: x")


class Anything:
    """Stands for a class that a pickle would make, and might do harm with."""


def test_other_classes_are_refused(tmp_path: Path) -> None:
    torch.save({"teacher": vit().state_dict(), "args": Anything()}, tmp_path / "harm.pth")
    with pytest.raises(InputError, match=r"it holds tests\.networks\.test_weights\.Anything, which is not allowed"):
        read_weights(tmp_path / "harm.pth", "init")
    assert (
        argparse.Namespace not in torch.serialization.get_safe_globals()
    )  # what is allowed here is allowed nowhere else
    torch.save({"state_dict": {}, "array": np.zeros(2)}, tmp_path / "array.pth")
    with pytest.raises(InputError, match=r"it holds numpy\.\S+, which is not allowed"):
        read_weights(tmp_path / "array.pth", "init")
    for name in ("text.pt", "hi.safetensors"):
        for text in ("hello world", "hi", ""):
            (tmp_path / name).write_text(text)
            kind = "file of weights that torch has saved" if name == "text.pt" else "safetensors file"
            with pytest.raises(InputError, match=rf"{name} is no intact {kind}(: \D\D|$)"):
                read_weights(tmp_path / name, "init")
    torch.save({"weights": {"conv1.weight": torch.ones(1)}}, tmp_path / "deep.pth")
    with pytest.raises(InputError, match=r"deep\.pth holds no tensors at the top level or under state_dict, "):
        read_weights(tmp_path / "deep.pth", "init")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dictionary"):
        read_weights(tmp_path / "list.pth", "init")
