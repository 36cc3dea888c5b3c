"""Triton's kernels: run by Triton's interpreter, compiled as for a GPU, and left where Triton fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hardviews.views.render as rendering

triton = pytest.importorskip("triton", reason="Triton is not installed here")


def test_kernels_make_the_views_that_operations_make() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("interpreted.py")),
    ]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_trial_shows_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton can't compile, one line says so, and torch's operations render."""
    import hardviews.views.fused as fused

    def broken(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify it.\nmore")

    monkeypatch.setattr(fused, "compile_for", broken)
    rendering.kernels_on.cache_clear()
    with pytest.warns(UserWarning, match=r"Triton can't compile for cuda:7.*Failed to find C compiler"):
        assert rendering.kernels_on(torch.device("cuda", 7)) is None
    rendering.kernels_on.cache_clear()


@pytest.mark.parametrize("bicubic", [False, True])
def test_kernels_compile_for_a_gpu_that_is_not_here(bicubic: bool) -> None:
    """The interpreter lets types pass that the compiler refuses."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hardviews.views import fused, kernels

    floats, places = dict.fromkeys(("out", "sums", "source", "sigma", "target", "maps", "turns", "means", "affine"),
                                   "*fp32"), dict.fromkeys(("placed", "boxes"), "*fp64")  # fmt: skip
    flags = dict.fromkeys(("flip", "is_hue", "grey", "solarize"), "*i1")
    numbers = dict.fromkeys(("threshold", "mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b", "ridge"), "fp32")
    known: dict[str, str] = {**floats, **places, **flags, **numbers, "pixels": "*u8"}
    constants = {"reach": 1 + bicubic, "bicubic": bicubic, "size": fused.TILE, "count": fused.ROWS,
                 "block": fused.BLOCK, "points": rendering.POINTS}  # fmt: skip
    for kernel in (kernels.resize, kernels.blur, kernels.fit, kernels.finish):
        names = kernel.arg_names
        types = {name: "constexpr" if name in constants else known.get(name, "i32") for name in names}
        given = {(names.index(name),): value for name, value in constants.items() if name in names}
        source = ASTSource(fn=kernel, signature=types, constexprs=given)
        assert "sm_80" in triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
