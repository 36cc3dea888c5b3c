"""Which recipe a run without more than data gets, and whose options win."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import hardviews
from hardviews.cli import main
from hardviews.commands.pretrain import parse
from hardviews.errors import InputError
from hardviews.methods.simclr import SimCLR
from hardviews.options.pretraining import PretrainOptions
from hardviews.recipes import recipes
from hardviews.recipes.choice import LARGEST, Facts, choice, is_open
from hardviews.recipes.small import fitted, small_rgb
from hardviews.views.photometric import Photometric

ENDS = ("", "_pixels", "_untrained", "_chance", "_error")


def counted(argv: str, images: int) -> PretrainOptions:
    return parse(argv.split(), choose=True, look=lambda _: Facts(images))[0]


def test_a_small_set_gets_its_recipe_and_given_options_win(capsys: pytest.CaptureFixture[str]) -> None:
    options = counted("--data d --epochs 7 --lr 0.5 --seed 3", 600)
    assert capsys.readouterr().err.startswith("recipe small_rgb for 600 images, a small set (up to 10,000): ")
    recipe = small_rgb(600)
    assert options.method == recipe.method | {"dim": 128}
    assert (options.recipe, options.backbone, options.batch_size) == ("small_rgb", recipe.backbone, 64)
    assert (options.epochs, options.lr, options.seed) == (7, 0.5, 3)
    explicit, _ = parse(["--data", "d", "--recipe", "small_rgb"], look=lambda _: Facts(40))
    assert (explicit.batch_size, explicit.epochs) == (16, 400)


@pytest.mark.parametrize(
    "argv",
    [
        "--data d --method simsiam",
        "--data d --method.dim 8",
        "--data d --backbone resnet18",
        "--data d --backbone.stem=cifar",
        "--data d --plan.blur_p 0",
        "--data d --init f.pth",
        "--data d --recipe none",
        "--data shapes:64",
        "--data https://host/{000..099}.tar --epoch-images 10",
    ],
)
def test_who_has_a_run_in_mind_gets_the_defaults(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    chosen, plain = counted(argv, 600), parse(argv.split())[0]
    assert chosen == plain
    assert chosen.recipe is None
    assert chosen.epochs == PretrainOptions().epochs
    assert not capsys.readouterr().err


def test_a_stream_is_no_small_set() -> None:
    with pytest.raises(InputError, match=r"recipe: small_rgb is for small sets, and https://host/a.tar is a stream"):
        parse(["--data", "https://host/a.tar", "--recipe", "small_rgb"])


def test_a_large_set_gets_the_defaults_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert counted("--data d", LARGEST + 1) == parse(["--data", "d"])[0]
    assert capsys.readouterr().err.startswith("no recipe: 10,001 images are no small set (up to 10,000), so the defau")
    assert counted("--data d", LARGEST).recipe == "small_rgb"
    assert choice(Facts(LARGEST + 1, 1, rgb=False)).recipe is None


def test_a_file_of_settings_and_a_run_that_resumes_keep_theirs(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for settings, recipe in (({"epochs": 3}, None), ({"epochs": 3, "recipe": "small_rgb"}, "small_rgb")):
        file.write_text(yaml.safe_dump(settings | {"backbone": {}}))
        assert counted(f"--data d --out {tmp_path}", 600).recipe == recipe  # the run's own
        options = counted(f"--data d --config {file}", 600)
        assert (options.recipe, options.epochs) == (recipe, 3)
    file.write_text(yaml.safe_dump({"recipe": "simclr_cifar10", "backbone": {}}))
    assert counted(f"--data d --out {tmp_path}", 600).backbone == recipes()["simclr_cifar10"]().backbone
    assert not is_open(["--config", "x"])
    assert is_open(["--out", "plan"])
    assert is_open(["--data", "d", "--epochs", "3", "--test-data", "e", "--views", "4"])


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(1, 2, 400), (3, 2, 400), (40, 16, 400), (122, 32, 400), (600, 64, 223),
                                    (5_000, 64, 26), (10_000, 64, 20)]
)  # fmt: skip
def test_batch_and_epochs_fit_the_set(images: int, batch: int, epochs: int) -> None:
    assert fitted(images, 2_000, shortest=20) == (batch, epochs)


def photographs(folder: Path, count: int) -> Path:
    """Noise of several sizes, in two class folders."""
    for number in range(count):
        file = folder / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(number)
        Image.fromarray(generator.integers(0, 256, (70 + number, 90, 3), np.uint8)).save(file)
    return folder


def test_a_folder_of_forty_runs_resumes_and_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = photographs(tmp_path / "photos", 40), tmp_path / "run"
    line = ["pretrain", "--data", str(data), "--epochs", "1", "--out", str(run), "--tensorboard", "false"]
    assert main(line) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("recipe small_rgb for 40 images, a small set")
    *_, on, trained, pixels, untrained, chance, verdict, tries = printed.out.splitlines()
    test = "40 test images (photos, each left out in turn), by the 19 nearest of 39 training images"
    assert on == f"kNN accuracy on {test}:"
    figures = [yaml.safe_load((run / "summary.json").read_text())[f"knn_top1{end}"] for end in ENDS]
    assert [line.split("(")[0].split() for line in (trained, pixels, untrained, chance)] == [
        ["trained", f"{figures[0]:.1%}"], ["raw", "pixels", f"{figures[1]:.1%}"], ["untrained", f"{figures[2]:.1%}"],
        ["chance", "50.0%"],
    ]  # fmt: skip
    assert trained.endswith(f"(standard error {100 * figures[4]:.1f})")
    assert re.search(r"^trained for \d+\.\d s; the run is in ", printed.out, re.M)
    assert verdict.startswith("verdict: ")
    assert "--epochs 400, since 2 steps are few" in tries  # the recipe's most
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["recipe"], config["batch_size"], config["knn_test"]) == ("small_rgb", 16, "leave_one_out")
    assert main(line) == 0  # resumes, at its end
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    says = verdict.removeprefix("verdict: ")[1:]  # which begins a sentence there
    assert page.index(says) < page.index('<section id="run"')
    assert hardviews.pretrain(str(data), epochs=1, out=run, quiet=True).summary["verdict_says"] == [verdict, tries]


@pytest.mark.parametrize(
    ("channels", "dtype", "recipe"), [(1, np.uint16, "grey_medical"), (4, np.uint8, "multispectral"),
                                      (3, np.uint8, "small_rgb"), (3, np.uint16, "small_rgb")]
)  # fmt: skip
def test_the_recipe_fits_the_channels(
    channels: int, dtype: type[np.generic], recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    images = [(generator.random((70, 80, channels)) * 200).astype(dtype) for _ in range(24)]
    run = hardviews.pretrain(images, epochs=1, out=tmp_path, knn_epochs=0, workers=0, quiet=True)
    of = "" if recipe == "small_rgb" else f" of {channels} channel{'s' * (channels > 1)}"
    assert capsys.readouterr().err.startswith(f"recipe {recipe} for 24 images{of}, a small set")
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["recipe"], config["pixels"]["channels"]) == (recipe, channels)
    assert run.summary["steps"] == 3


def test_ct_keeps_its_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Hounsfield unit means a tissue: views change no value, and the window is the same for all."""
    generator = np.random.default_rng(0)
    images = [generator.uniform(-1024, 2000, (70, 80, 1)).astype(np.int16) for _ in range(24)]
    for asked, low, high in ((None, -150, 250), ("lung", -1350, 150)):
        out = tmp_path / str(asked)
        more = {} if asked is None else {"value_range": asked}
        hardviews.pretrain(images, epochs=1, out=out, knn_epochs=0, workers=0, quiet=True, **more)
        said = capsys.readouterr().err
        assert said.startswith("recipe ct for 24 images of 1 channel, which look like CT in Hounsfield units, a small")
        assert "left out, which only RGB has" not in said
        config = yaml.safe_load((out / "config.yaml").read_text())
        assert (config["recipe"], config["pixels"]["low"], config["pixels"]["high"]) == ("ct", [low], [high])
        (slot,) = SimCLR.default_plan(64, **config["plan"]).slots
        assert slot.photometric == Photometric(jitter_p=slot.photometric.jitter_p)


@pytest.mark.parametrize("line", ["", "--recipe small_rgb"])
def test_a_single_image_is_no_dead_end(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = photographs(tmp_path / "one", 1)
    assert main(["pretrain", "--data", str(data), *line.split(), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "data: one has 1 image, and training takes at least 2: add images, or cut" in error
    assert main(["pretrain", "--data", str(data), "--tile", "32", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0


def test_a_recipe_does_not_shape_another_backbone() -> None:
    options, _ = parse(["--data", "d", "--recipe", "small_rgb", "--backbone", "resnet50"], look=lambda _: Facts(600))
    assert (options.backbone.name, options.backbone.keywords) == ("resnet50", {})
    assert options.lr == small_rgb().lr
