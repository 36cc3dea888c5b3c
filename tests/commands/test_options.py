"""From a command line, a configuration file and a recipe to options, without torch."""

import dataclasses
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from hardviews.cli import VERBS, main
from hardviews.commands.parsing import descriptions
from hardviews.commands.pretrain import parse
from hardviews.errors import InputError
from hardviews.options.comparison import CompareOptions
from hardviews.options.embedding import EmbedOptions
from hardviews.options.evaluation import EvaluateOptions
from hardviews.options.export import ExportOptions
from hardviews.options.groups import GROUPS, RARE
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.options.report import ReportOptions


def test_nothing_is_the_demonstration() -> None:
    options, as_json = parse([])
    assert options.data == "shapes"
    assert not as_json
    assert parse(["--seed", "3"])[0] == dataclasses.replace(options, seed=3)


def test_data_alone_takes_the_defaults() -> None:
    assert parse(["--data", "d"])[0] == PretrainOptions(
        data="d", method=parse(["--data", "d"])[0].method, plan=parse(["--data", "d"])[0].plan
    )


def test_every_spelling() -> None:
    line = (
        "--data d --method simclr --method.temperature 0.5 --method.hidden-dim 64 --backbone resnet26 "
        "--backbone.stem=cifar --backbone.channels 16,32,64,128 --plan.blur_p 0 --views 2,2,16 "
        "--mean .1,.2,.3 --batch-size 8 --policy sampled(128)"
    )
    options, _ = parse(line.split())
    assert options.method["name"] == "simclr"
    assert options.method["temperature"] == 0.5
    assert options.method["hidden_dim"] == 64
    assert options.backbone == BackboneOptions("resnet26", stem="cifar", keywords={"channels": [16, 32, 64, 128]})
    assert options.plan["blur_p"] == 0
    assert options.views == [2, 2, 16]
    assert options.mean == (0.1, 0.2, 0.3)
    assert options.policy == "sampled(128)"
    assert parse(["--data", "d", "--views", "4"])[0].views == 4


def test_a_method_of_ones_own_may_inherit_its_constructor() -> None:
    options, _ = parse(["--data", "shapes", "--method", "tests.runs.spoilt.Spoilt", "--method.dim", "8"])
    assert options.method == {
        "name": "tests.runs.spoilt.Spoilt", "dim": 8, "predictor_dim": 512, "projector_layers": 3
    }  # fmt: skip


def test_line_over_file_over_recipe(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"method": "simsiam", "epochs": 7, "backbone": {"name": "resnet34"}, "seed": 2}))
    options, _ = parse(["--recipe", "simsiam_cifar10", "--config", str(file), "--seed", "9", "--method.dim", "64"])
    assert (options.seed, options.epochs, options.batch_size) == (9, 7, 512)
    assert options.backbone == BackboneOptions("resnet34", stem="cifar")
    assert (options.method["dim"], options.method["projector_layers"]) == (64, 2)


def test_another_method_drops_the_recipes_arguments() -> None:
    options, _ = parse(["--recipe", "simsiam_cifar10", "--method", "simclr"])
    assert options.method["name"] == "simclr"
    assert "projector_layers" not in options.method


def test_options_of_a_run_come_back_from_its_file(tmp_path: Path) -> None:
    options, _ = parse(["--recipe", "simclr_cifar10", "--views", "6", "--mean", ".5,.5,.5"])
    from hardviews.training.output.differences import plain

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain(dataclasses.asdict(options))))
    assert parse(["--config", str(file)])[0] == options


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--epoch 3", "unknown option --epoch; did you mean --epochs?"),
        ("--epochs x", "--epochs: 'x' is not a whole number"),
        ("--backbone.stem foo", "--backbone.stem: 'foo' is not one of auto, imagenet, cifar"),
        ("--data d extra", "'extra' belongs to no option"),
        ("--data d --views a", "--views: 'a' is not a whole number or numbers such as 2,2,16"),
        ("--data d --mean x", "--mean: 'x' is not a number or numbers such as 0.1,0.2,0.3 or auto"),
        ("--data", "--data: expected one argument"),
        ("--data d --method simsaim", "unknown method 'simsaim'; did you mean simsiam"),
        ("--data d --method simsiam --method.temperature 1", "unknown option --method.temperature"),
        ("--data d --plan.blurp 1", "unknown option --plan.blurp; did you mean --plan.blur-p?"),
        ("--recipe simsiam_cifar", "unknown recipe 'simsiam_cifar'; did you mean simsiam_cifar10"),
        ("--config nowhere.yaml", "config: nowhere.yaml can't be read"),
    ],
)
def test_wrong_ones_are_one_line(line: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(line.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch: 3", "unknown setting epoch; did you mean --epochs?"),
        ("epochs: many", "--epochs: 'many' is not a whole number"),
        ("[1, 2]", "holds no settings"),
        ("a: [1", "is not YAML"),
        ("method: [1]", "config: method must hold settings"),
        ("method: 5", "config: method must hold settings"),
        ("method: {name: 5}", "config: method.name must be text, not 5"),
        ("recipe: 5", "config: recipe must be text, not 5"),
        ("plan: null", "config: plan must hold settings"),
        ("method: {name: simsiam, wrong: 1}", "unknown setting method.wrong"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        parse(["--data", "d", "--config", str(file)])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [PretrainOptions, BackboneOptions, EvaluateOptions, EmbedOptions, ExportOptions])
def test_every_option_has_a_help_text(options: type) -> None:
    missing = {field.name for field in dataclasses.fields(options)} - descriptions(options).keys()
    assert not missing


def test_help_names_every_policy_and_imports_no_torch() -> None:
    code = (
        "import sys; from hardviews.cli import main\n"
        "try: main(['pretrain', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    from hardviews.selection import policies

    for name in policies.names():
        assert name in done.stdout
    assert "--backbone.stem" in done.stdout


def printed_help(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with suppress(SystemExit):
        main(list(argv))
    return capsys.readouterr().out


@pytest.mark.parametrize("asked", ["--help", "--help-all"])
@pytest.mark.parametrize("verb", ["", *VERBS, "pretrain --method dino", "evaluate --protocol knn,linear,finetune"])
def test_help_fits_80_columns_and_shows_an_option_once(
    verb: str, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    if (verb or "recipes") == "recipes" and asked == "--help-all":
        return  # no options
    text = printed_help(capsys, *verb.split(), asked)
    assert text.startswith("usage: hardviews")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"--\S+\+", text)
    assert not re.search(r"type: |Literal|\| None|NoneType", text)  # types are written for people
    listed = re.findall(r"^  (--[a-z][\w.-]*)", text, re.MULTILINE)
    assert sorted(set(listed)) == sorted(listed)


KINDS = [PretrainOptions, EvaluateOptions, EmbedOptions, ExportOptions, CompareOptions, ReportOptions]


def test_every_option_is_in_one_group_of_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names.split()]
    own = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    assert own - set(grouped) == set()
    assert set(grouped) - own == {"json"} - own
    assert len(grouped) == len(set(grouped))
    assert set(grouped) >= RARE


def test_rare_options_are_shown_by_help_all_alone(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = printed_help(capsys, "pretrain", "--help"), printed_help(capsys, "pretrain", "--help-all")
    assert "--clip-mode" not in short
    assert "--clip-mode" in long
    found = re.search(r"^(\d+) more options: --help-all$", short, re.MULTILINE)
    assert found
    options = [set(re.findall(r"^  (--[a-z][\w.-]*)", text, re.MULTILINE)) for text in (short, long)]
    assert int(found[1]) == len(options[1] - options[0]) > 20
    assert "more options" not in long


def test_help_tells_the_rate_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert "by default simclr's, 0.3" in " ".join(printed_help(capsys, "pretrain", "--method=simclr", "--help").split())


@pytest.mark.parametrize("verb", ["evaluate", "embed", "export"])
def test_help_of_other_verbs_imports_no_torch(verb: str) -> None:
    code = (
        "import sys; from hardviews.cli import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"hardviews {verb} RUN_OR_MODEL" in done.stdout
