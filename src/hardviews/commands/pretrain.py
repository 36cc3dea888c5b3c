"""``hardviews pretrain``: from a command line to a run folder."""

import re
from dataclasses import asdict, fields
from typing import Any

from hardviews import methods
from hardviews.commands.parsing import Parser, read_yaml, summary, value_before_parsing
from hardviews.commands.processes import check_shares, end_with_parent, is_started, number
from hardviews.errors import InputError
from hardviews.recipes import find, recipes
from hardviews.training.options import BackboneOptions, PretrainOptions


def run(argv: list[str]) -> None:
    """Parses a command line and trains, or looks whether that would go well."""
    options, as_json = parse(argv)
    if "--doctor" in argv:
        from hardviews.commands.doctor import diagnose

        if number() == 0:  # of several that were started, one looks
            diagnose(options, as_json)
        return
    if options.devices * options.nodes > 1 and not is_started():
        from hardviews.commands.launching import launch

        check_shares(options, options.devices, options.nodes)
        raise SystemExit(launch(["pretrain", *argv], options.devices, options.nodes))
    end_with_parent()
    # Only here, so that help and wrong options need not wait for torch.
    from hardviews.commands.training_run import pretrain

    pretrain(options, as_json=as_json)


def parse(argv: list[str]) -> tuple[PretrainOptions, bool]:
    """The options of a command line, on top of its ``--config`` file, on top of its ``--recipe``.

    Raises:
        InputError: an option, or a setting of the file, is unknown or does not fit.
    """
    argv = _expand(argv)
    given = _given(argv)
    named = value_before_parsing(argv, "--method.name") or given.get("method", {}).get("name")
    helps = any(argument in ("-h", "--help") for argument in argv)
    asked = any(value_before_parsing(argv, option) for option in ("--method.name", "--config", "--recipe"))
    parser = _parser(None if helps and not asked else named or "simsiam")
    namespace = parser.parse(argv, {} if helps and not asked else given).as_dict()
    as_json = namespace.pop("json")
    del namespace["config"], namespace["recipe"], namespace["doctor"]
    namespace["backbone"] = BackboneOptions(**namespace["backbone"])
    namespace["plan"] = namespace.get("plan") or {}
    return PretrainOptions(**namespace), as_json


def _parser(method: str | None) -> Parser:
    """The parser for one method's options, or for a general help without torch."""
    listed = ", ".join(methods.names())
    parser = Parser(
        prog="hardviews pretrain",
        usage="hardviews pretrain [--data DATA] [--method NAME] [--out RUN] [options]",
        description=f"{summary(PretrainOptions)} Options of a method and its views, --method.X and --plan.X, "
        "are shown by hardviews pretrain --method NAME --help.",
    )
    parser.add_argument("--config", type=str, help="a YAML file of these settings, such as a run's config.yaml")
    parser.add_argument("--recipe", type=str, help=f"a published run: {', '.join(recipes())}")
    parser.add_argument(
        "--doctor",
        action="store_true",
        help="train nothing, but check by a few steps whether the run would go well: data, views, loss, memory, time",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON at the end, and nothing else")
    parser.add_argument(
        "--method.name", type=str, default="simsiam", help=f"{listed}, or package.module.Class (short: --method)"
    )
    if method:
        found = methods.find(method)
        parser.add_signature(found, "method", skip={"backbone", "plan"})
        parser.add_signature(found.default_plan, "plan", skip={"size"})
    parser.add_options(BackboneOptions, "backbone.", skip={"module"})
    parser.add_options(PretrainOptions, skip={"method", "plan", "backbone"})
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


def _given(argv: list[str]) -> dict[str, Any]:
    """Settings from the recipe and the configuration file; the demonstration's where no data is named."""
    file, recipe = value_before_parsing(argv, "--config"), value_before_parsing(argv, "--recipe")
    settings = read_yaml(file) if file else {}
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
    if recipe is None and not settings.get("data") and value_before_parsing(argv, "--data") is None:
        recipe = "demo"
    if recipe is None:
        return settings
    base = asdict(find(recipe)())
    del base["backbone"]["module"]
    named = (
        value_before_parsing(argv, "--method.name") or settings.get("method", {}).get("name") or base["method"]["name"]
    )
    if named != base["method"]["name"]:
        # Another method than the recipe's can't take the recipe's arguments.
        base |= {"method": {"name": named}, "plan": {}}
    return _merged(base, settings)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(base[key], dict)}
    return {**base, **over, **both}
