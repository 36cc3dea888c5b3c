"""``hardviews compare``: whether hard views pay, on the user's own data."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from hardviews.commands import evaluate, pretrain
from hardviews.commands.parsing import Parser, descriptions, summary
from hardviews.comparison.request import Arm, Request, evaluation_argv
from hardviews.console import printer, say, show_table
from hardviews.errors import InputError, RunError, unknown
from hardviews.evaluation import protocols
from hardviews.options.comparison import CompareOptions
from hardviews.options.evaluation import split_names
from hardviews.options.old_names import rename_options
from hardviews.options.pretraining import PretrainOptions
from hardviews.wording import several

if TYPE_CHECKING:
    from rich.console import Console

    from hardviews.comparison.compare import Comparison

# What all arms have in common, so that they can be compared.
SHARED = ("data", "test_data", "epochs", "batch_size", "seed", "out")
OWN = {"--seed": "--seeds", "--policy": "--policies"}


def run(argv: list[str]) -> None:
    """Parses a command line and compares."""
    request, dry, as_json = parse(argv)
    # Only here, so that help and wrong options need not wait.
    from rich.console import Console

    from hardviews.comparison.compare import compare, dry_run

    console = Console(stderr=as_json)
    if dry:
        plan = dry_run(request, printer(console))
        if as_json:
            print(json.dumps(plan, indent=2))
        return
    made = compare(request, printer(console))
    if as_json:
        print(json.dumps(made.as_dict(), indent=2))
    else:
        show(made, console)
    failed = made.failed
    if failed:
        raise RunError(
            f"{len(failed)} of {several(made.jobs, 'run')} failed, the same command tries them again; {failed[0]}"
        )


def show(made: "Comparison", console: "Console") -> None:
    from hardviews.comparison.compare import FIGURES, TEXT

    show_line = printer(console)
    show_table(console, *made.cells())
    for sentence in made.sentences:
        show_line(sentence)
    folder = made.folder
    if made.page:
        show_line(f"the page of this comparison: {made.page}")
    show_line(f"written to {folder / TEXT} and {folder / FIGURES}; the runs lie in {folder / 'runs'}")


def parse(argv: list[str]) -> tuple[Request, bool, bool]:
    """What is to be compared, whether only to plan it, and whether to print JSON.

    Raises:
        InputError: an option of this verb or of pretrain is unknown or does not fit, or arms can't be compared.
    """
    parser = Parser(
        prog="hardviews compare",
        usage="hardviews compare --data DATA [--method NAME] [--epochs E] [--seeds N]\n"
        "                         [--policies NAMES] [options]",
        description=f"{summary(CompareOptions)} All options of hardviews pretrain are taken too.",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and how long it will take, and stop")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    parser.add_options(CompareOptions, skip={"arm"})
    # Taken out of the command line before it comes here, since it may be given again.
    parser.add_argument("--arm", type=str, metavar="'NAME: OPTIONS'", help=descriptions(CompareOptions)["arm"])
    argv, renamed = rename_options(argv)  # once, not for every arm
    for line in renamed:
        say(line)
    own, extra_arms, settings, common = _split(argv)
    given = parser.parse(own).as_dict()
    dry, as_json = given.pop("dry_run"), given.pop("json")
    options = CompareOptions(**given | {"arm": extra_arms})
    if not (options.equal_epochs or options.equal_time):
        raise InputError(
            "--equal-epochs and --equal-time: both false leaves nothing to compare; leave one of them true"
        )
    for name in split_names(options.protocol):
        protocols.find(name)
    written = _written(options)
    arms = tuple(Arm(name, argv, _options(name, common, argv)) for name, argv in written.items())
    if len(arms) < 2:
        raise InputError(f"policies: one arm ({', '.join(written)}) has nothing to be compared with; name another")
    if any(arm.options.extend for arm in arms):
        raise InputError("extend: arms begin anew, at step 0; give --init RUN to begin all of them from its backbone")
    _check_alike(arms)
    baseline = options.baseline or ("random" if "random" in written else arms[0].name)
    if baseline not in written:
        raise unknown("arm", baseline, written)
    seeds = options.seeds if isinstance(options.seeds, list) else list(range(options.seeds))
    for name, least in (("seeds", len(seeds)), ("timed-steps", options.timed_steps)):
        if least < 1:
            raise InputError(f"{name}: must be at least 1")
    measuring = evaluation_argv(options, arms[0].options, settings)
    _, evaluation, given_settings, _ = evaluate.parse(["RUN", *measuring])
    request = Request(
        options, tuple(common), arms, baseline, tuple(sorted(set(seeds))), tuple(measuring), evaluation, given_settings
    )
    return request, dry, as_json


def _split(argv: list[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """A command line in four: this verb's own options, the texts of ``--arm``, options of protocols, those of
    pretrain."""
    own, arms, settings, common = [], [], [], []
    mine = {f"--{entry.name.replace('_', '-')}" for entry in fields(CompareOptions)} | {"--dry-run", "--json", "--help"}
    place = 0
    while place < len(argv):
        end = place + 1
        while end < len(argv) and not argv[end].startswith("--"):
            end += 1
        group, place = argv[place:end], end
        name, _, value = group[0].partition("=")
        if name == "--arm":
            arms.append(" ".join([value, *group[1:]]).strip())
        elif name.replace("_", "-") in mine or group[0] == "-h":
            own += group
        elif name.removeprefix("--").partition(".")[0] in protocols.names():
            settings += group
        else:
            common += group
    return own, arms, settings, common


def _written(options: CompareOptions) -> dict[str, tuple[str, ...]]:
    """The arms as given: name to options of pretrain."""
    written: dict[str, tuple[str, ...]] = {}
    policies = [(name, f"--policy {name}") for name in split_names(options.policies)]
    for name, given in policies + [(arm.partition(":")[0].strip(), arm.partition(":")[2]) for arm in options.arm]:
        if not re.fullmatch(r"[\w.()+-]+", name) or not given.strip():
            raise InputError(f"arm: {name or '(none)'}: give NAME: OPTIONS, such as 'cheap: --score-resolution 0.75'")
        if name in written:
            raise InputError(f"arm: {name} is there twice")
        try:
            written[name] = tuple(shlex.split(given))
        except ValueError as error:
            raise InputError(f"arm: {name}: {error}") from error
    return written


def _options(name: str, common: Sequence[str], argv: Sequence[str]) -> PretrainOptions:
    if "--doctor" in (*common, *argv):
        raise InputError("--doctor: looks at one run; give it to hardviews pretrain")
    for argument in common:
        instead = OWN.get(argument.partition("=")[0])
        if instead:
            raise InputError(f"{argument.partition('=')[0]}: every arm has its own here; give {instead}")
    try:
        options, _ = pretrain.parse([*common, *argv])
    except InputError as error:
        raise InputError(f"arm {name}: {error}") from error
    if options.batch_size == "auto":
        raise InputError("batch-size: auto may come out differently for each run, and arms share it; give a number")
    return options


def _check_alike(arms: Sequence[Arm]) -> None:
    first = arms[0]
    for arm in arms[1:]:
        for name in SHARED:
            here, there = getattr(arm.options, name), getattr(first.options, name)
            if here != there:
                raise InputError(
                    f"arm: {name.replace('_', '-')} is {here} in {arm.name} and {there} in {first.name}; arms share it"
                )
