"""``hardviews pretrain``: from a command line to a run folder."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hardviews import methods
from hardviews.analysis.measured import SIZES, describe_images
from hardviews.commands.parsing import Parser, asks_for_help, read_yaml, value_before_parsing
from hardviews.commands.parsing import summary as first_paragraph
from hardviews.console import Say, duration, printer, say, wrapped
from hardviews.errors import InputError, RunError
from hardviews.launch.environment import is_started, rank
from hardviews.launch.processes import end_with_parent
from hardviews.options.extension import settings_to_extend
from hardviews.options.old_names import RENAMED, rename_options, with_new_names
from hardviews.options.plan import ToneOptions, TransformOptions
from hardviews.options.pretraining import BackboneOptions, PretrainOptions
from hardviews.recipes import fitted, follows_size
from hardviews.recipes.choice import NONE, Facts, chosen, facts_of, is_open
from hardviews.wording import several

Look = Callable[[PretrainOptions], Facts]
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}  # of the doctor's verdicts


def run(argv: list[str]) -> None:
    """Parses a command line and trains, or with ``--doctor`` checks the set-up."""
    options, as_json = parse(argv, choose=True)
    # Only here, so that help and wrong options need not wait for torch.
    if "--doctor" in argv:
        if rank() == 0:  # of several that were started, one checks
            diagnose(options, as_json)
        return
    if options.devices * options.nodes > 1 and not is_started():
        from hardviews.launch.launcher import launch
        from hardviews.setup.fabric import check_shares

        check_shares(options, options.devices, options.nodes)
        raise SystemExit(
            launch(["pretrain", *argv], options.devices, options.nodes, lambda: how_to_resume(options.out))
        )
    end_with_parent()
    from rich.console import Console

    from hardviews.runs.pretrain import pretrain

    console = Console(stderr=as_json)
    summary = pretrain(options, console)
    if rank():  # the first shows it
        return
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary, printer(console))


def how_to_resume(out: str | None) -> str:
    """How to resume a run whose processes could not print it. Without ``out`` the run chose its folder itself."""
    if out is None:
        return "the same command with --out and the run's folder resumes from its last checkpoint, if there is one"
    # Imported only here: it takes seconds, and only a failed run needs it.
    from hardviews.training.output.run_folder import RunFolder

    return RunFolder(Path(out)).checkpoints.how_to_resume()


def diagnose(options: PretrainOptions, as_json: bool) -> None:
    """Prints every check as it is done; raises RunError if one failed."""
    from rich.console import Console
    from rich.text import Text

    from hardviews.doctor.examine import examine

    console = Console(stderr=as_json)
    width = console.width if console.is_terminal else None
    found = []
    for check in examine(options):
        found.append(check)
        head = f"{check.name:10}{check.verdict:8}"
        remedy = f"\n{'':{len(head)}}try: {check.remedy}" if check.remedy else ""
        # The first line has what further ones are indented by.
        line = Text(head + wrapped(" " * len(head) + check.says + remedy, width, 0)[len(head) :])
        line.stylize(STYLES[check.verdict], 10, 10 + len(check.verdict))
        console.print(line, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in found]}, indent=2))
    failed = [check.name for check in found if check.verdict == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}")


def show(summary: Mapping[str, Any], write: Say) -> None:
    """Prints the summary of a run."""
    if summary["unreadable"]:
        write(
            f"{several(summary['unreadable'], 'image')} could not be read; {summary['run']}/unreadable*.csv lists them"
        )
    if summary.get("empty_tiles"):
        write(f"{several(summary['empty_tiles'], 'tile was', 'tiles were')} empty; others took their place")
    if summary["cut_short"]:
        lacking = several(summary["cut_short"], "image lacks its end", "images lack their end")
        write(f"{lacking}; {summary['run']}/cut_short*.csv lists them")
    write(f"trained for {duration(round(summary['seconds'], 1))}; the run is in {summary['run']}")
    if "knn_top1" in summary:
        for line in accuracies(summary):
            write(line)
    else:
        write("no verdict: no kNN accuracy was measured at the end; it needs labels (class folders), and --knn-epochs")
    for line in summary.get("verdict_says", []):
        write(line)


def accuracies(summary: Mapping[str, Any]) -> list[str]:
    """The kNN accuracy of the trained backbone, and what it is to be compared with, one line each."""
    others = any(f"{name}_untrained" in summary for name in SIZES)  # measured before training: not to be compared
    error = f" (standard error {100 * summary['knn_top1_error']:.1f})" if "knn_top1_error" in summary else ""
    names = {"raw pixels": "knn_top1_pixels", "untrained": "knn_top1_untrained", "chance": "knn_top1_chance"}
    beside = {} if others else {label: summary[key] for label, key in names.items() if key in summary}
    lines = [f"kNN accuracy on {describe_images(summary, summary['knn_test_data'], by='by')}:"]
    lines += [f"  {'trained':11}{summary['knn_top1']:6.1%}{error}"]
    lines += [f"  {label:11}{value:6.1%}" for label, value in beside.items()]
    if others:
        lines.append("  before training, other images were measured (evaluation.csv)")
    return lines


def parse(argv: list[str], choose: bool = False, look: Look | None = None) -> tuple[PretrainOptions, bool]:
    """The options of a command line, on top of its ``--config`` file, on top of its ``--recipe``.

    Args:
        choose: the recipe that fits the data, where the command line leaves it open.
        look: what the images are that the options name; by default opens them. Recipes for small sets follow it.

    Raises:
        InputError: an option, or a setting of the file, is unknown or does not fit.
    """
    argv, renamed = rename_options(_expand(argv))
    for line in renamed:
        say(line)
    options, as_json = _parse(argv, None, None)
    recipe, images = options.recipe, None
    if choose and recipe is None and is_open(argv):
        recipe, images = chosen(options, look or facts_of)
    if recipe is None or options.extend:
        return options, as_json
    if images is None and follows_size(recipe):
        images = (look or facts_of)(options).images
    elif recipe == options.recipe:
        return options, as_json
    return _parse(argv, recipe, images)


def _parse(argv: list[str], recipe: str | None, images: int | None) -> tuple[PretrainOptions, bool]:
    """The options, on top of a recipe where the command line names none, fitted to so many images."""
    given = _given(argv, recipe, images)
    named = value_before_parsing(argv, "--method.name") or given.get("method", {}).get("name")
    helps = asks_for_help(argv)
    asked = any(value_before_parsing(argv, option) for option in ("--method.name", "--config", "--recipe"))
    parser = _parser(None if helps and not asked else named or "simsiam")
    namespace = parser.parse(argv, {} if helps and not asked else given).as_dict()
    as_json = namespace.pop("json")
    del namespace["config"], namespace["doctor"]
    if namespace["recipe"] == NONE:
        namespace["recipe"] = None
    namespace["backbone"] = BackboneOptions(**namespace["backbone"])
    own = {field.name for kind in (TransformOptions, ToneOptions) for field in fields(kind)}
    plan = namespace.get("plan") or {}
    namespace["plan"] = {name: value for name, value in plan.items() if value is not None or name not in own}
    return PretrainOptions(**namespace), as_json


def _parser(method: str | None) -> Parser:
    """The parser for one method's options, or for a general help without torch."""
    listed = ", ".join(methods.names())
    parser = Parser(
        prog="hardviews pretrain",
        usage="hardviews pretrain [--data DATA] [--method NAME] [--out RUN] [options]",
        description=f"{first_paragraph(PretrainOptions)} Options of a method and its views, --method.X and --plan.X, "
        "are shown by hardviews pretrain --method NAME --help.",
    )
    parser.add_argument("--config", type=str, help="a YAML file of these settings, such as a run's config.yaml")
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="train nothing, but check by a few steps whether the run would go well: data, views, loss, memory, time",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON at the end, and nothing else")
    parser.add_to(
        "method", "--method.name", type=str, default="simsiam", metavar="NAME",
        help=f"{listed}, or package.module.Class; short: --method (default: simsiam)",
    )  # fmt: skip
    if method:
        found = methods.find(method)
        parser.add_signature(found, "method", skip={"backbone", "plan"})
        parser.add_signature(found.default_plan, "plan", skip={"size"})
        parser.add_options(TransformOptions, "plan.")
        parser.add_options(ToneOptions, "plan.", skip=inspect.signature(found.default_plan).parameters)
    parser.add_options(BackboneOptions, "backbone.", skip={"module"})
    parser.add_options(PretrainOptions, skip={"method", "plan", "backbone"})
    if method:
        parser.tell_defaults(method, asdict(found.training_defaults))
    return parser


def _expand(argv: list[str]) -> list[str]:
    """``--method X`` is short for ``--method.name X``, and ``--backbone.channels X`` for
    ``--backbone.keywords.channels X``."""
    known = {field.name for field in fields(BackboneOptions)}

    def expand(argument: str) -> str:
        argument = re.sub(r"^--(method|backbone)(?==|$)", r"--\1.name", argument)
        found = re.match(r"--backbone\.(\w+)", argument)
        return (
            argument.replace("--backbone.", "--backbone.keywords.", 1) if found and found[1] not in known else argument
        )

    return [expand(argument) for argument in argv]


def _given(argv: list[str], chosen: str | None, images: int | None) -> dict[str, Any]:
    """Settings from the recipe and the configuration file; the demonstration's where no data is named.

    Args:
        chosen: a recipe, where neither names one.
        images: size of the data, for recipes that follow it.
    """
    file, recipe = value_before_parsing(argv, "--config"), value_before_parsing(argv, "--recipe")
    settings = read_yaml(file) if file else {}
    old = [f"{name} is now {RENAMED[name]}" for name in settings if name in RENAMED]
    if old:
        say(f"config: {', '.join(old)}; the old names will go in the next version")
    settings = with_new_names(settings)
    if any(value_before_parsing(argv, option) for option in ("--channels", "--value-range")):
        if "pixels" in settings:  # what that run found and measured does not hold any more
            for name in ("pixels", "mean", "std"):
                settings.pop(name, None)
    elif "channels" not in settings and settings.get("mean") and settings.get("method"):
        settings.setdefault("pixels", {})  # of a run from before there was more than RGB
    if settings.pop("allow_pipe", False):
        raise InputError("config: allow_pipe lets the data run a shell; give it on the command line")
    for group in ("method", "backbone", "plan"):
        if isinstance(settings.get(group), str) and group != "plan":
            settings[group] = {"name": settings[group]}
        if group in settings and not isinstance(settings[group], dict):
            raise InputError(f"config: {group} must hold settings, not {settings[group]!r}")
        if group in settings and not isinstance(settings[group].get("name", ""), str):
            raise InputError(f"config: {group}.name must be text, not {settings[group]['name']!r}")
    if settings.get("backbone", {}).get("module", ...) is None:  # an object has no place in a file
        del settings["backbone"]["module"]
    extended = value_before_parsing(argv, "--extend") or settings.get("extend")
    if extended:
        if recipe:
            raise InputError("recipe: not with --extend, whose settings are those of the run; leave one of them out")
        given = {argument.partition("=")[0].removeprefix("--").replace("-", "_") for argument in argv} | settings.keys()
        given |= {f"plan.{name}" for name in settings.get("plan", {})}
        base = settings_to_extend(str(extended), value_before_parsing(argv, "--out"), given)
        named = value_before_parsing(argv, "--method.name") or settings.get("method", {}).get("name")
        if named not in (None, base["method"]["name"]):  # before its arguments are looked at
            raise InputError(
                f"extend: --method is {base['method']['name']} there and {named} here; that can't change: leave it "
                f"out, or begin anew with --init {extended}"
            )
        return _merged(base, settings)
    recipe = recipe or settings.get("recipe") or chosen
    if not isinstance(recipe, str | None):
        raise InputError(f"config: recipe must be text, not {recipe!r}")
    if recipe is None and not settings.get("data") and value_before_parsing(argv, "--data") is None:
        recipe = "demo"
    if recipe is None or recipe == NONE:
        return settings
    base = {**asdict(fitted(recipe, images)), "recipe": recipe}
    del base["backbone"]["module"]
    if value_before_parsing(argv, "--init") or settings.get("init"):  # in place of a library's weights
        base["backbone"]["pretrained"] = False
    named = (
        value_before_parsing(argv, "--method.name") or settings.get("method", {}).get("name") or base["method"]["name"]
    )
    if named != base["method"]["name"]:
        # The recipe's arguments are of its own method.
        base |= {"method": {"name": named}, "plan": {}}
    network = value_before_parsing(argv, "--backbone.name") or settings.get("backbone", {}).get("name")
    if network not in (None, base["backbone"]["name"]):
        base["backbone"] |= {"name": network, "keywords": {}}  # likewise
    return _merged(base, settings)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(base[key], dict)}
    return {**base, **over, **both}
