"""``hardviews evaluate``: evaluates a backbone on labelled data."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardviews.analysis.measured import beside_in_words, left_out_of
from hardviews.commands.parsing import MODEL_HELP, Parser, asks_for_help, summary, value_before_parsing
from hardviews.console import Say, printer, show_table
from hardviews.errors import InputError
from hardviews.evaluation import protocols
from hardviews.options.evaluation import EvaluateOptions, split_names
from hardviews.wording import several

if TYPE_CHECKING:
    from rich.console import Console


def run(argv: list[str]) -> None:
    """Parses a command line and evaluates."""
    target, options, settings, as_json = parse(argv)
    # Only here, so that help and wrong options need not wait for torch.
    from rich.console import Console

    from hardviews.models.evaluate import evaluate

    console = Console(stderr=as_json)
    say = printer(console)

    def on_result(figures: Mapping[str, float], result: Mapping[str, Any]) -> None:
        if not as_json and options.on is None:
            show(figures, result, say)

    results = evaluate(target, options, settings, say, on_result)
    if as_json:
        print(json.dumps(results[0] if options.on is None else results, indent=2))
    elif options.on is not None:
        show_results(results, console)


def parse(argv: list[str]) -> tuple[str, EvaluateOptions, dict[str, dict[str, Any]], bool]:
    """The model, the options, the settings of every protocol, and whether to print JSON.

    Raises:
        InputError: an option is unknown or does not fit, or no data is named.
    """
    wanted = value_before_parsing(argv, "--protocol")
    helps = asks_for_help(argv)
    parser = Parser(
        prog="hardviews evaluate",
        usage="hardviews evaluate RUN_OR_MODEL --data DATA [--test-data DATA]\n"
        "                          [--protocol NAMES] [options]",
        description=f"{summary(EvaluateOptions)} Protocols: {', '.join(protocols.names())}.",
    )
    parser.add_argument("target", type=str, metavar="RUN_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    # Protocols import torch, which a general help need not wait for.
    names = [] if helps and not wanted else split_names(wanted or EvaluateOptions.protocol)
    for name in names:
        parser.add_signature(protocols.find(name), name, skip={"bench"})
    parser.add_options(EvaluateOptions)
    for argument in argv:
        other = argument.removeprefix("--").partition(".")[0]
        if argument.startswith(f"--{other}.") and other in protocols.names() and other not in names and not helps:
            raise InputError(f"{argument.partition('=')[0]}: {other} is not measured; add {other} to --protocol")
    given = parser.parse(argv).as_dict()
    target, as_json = given.pop("target"), given.pop("json")
    settings = {name: given.pop(name, None) or {} for name in names}
    if (given["data"] is None) == (given["on"] is None):
        raise InputError("data: give --data, labelled images to measure on, or --on, names of torchvision's data sets")
    if given["baselines"] == "auto" and (as_json or given["on"] is not None):
        given["baselines"] = "off"
    return target, EvaluateOptions(**given), settings, as_json


def show(figures: Mapping[str, float], result: Mapping[str, Any], say: Say) -> None:
    of = f"{result['target']} on {result['data']}"
    if "test_images" in result:
        of += f": {both_sizes(result['train_images'], result['test_images'])} ({result['test_data']})"
    errors, others = result.get("beside", {}).get("errors", {}), beside_in_words(result)
    width = max(map(len, [*figures, *others]))
    say(of)
    for name in ("detection", "segmentation"):  # whose data has its own test split
        if f"{name}_test_images" in result:
            train, test, test_data = (result[f"{name}_{key}"] for key in ("train_images", "test_images", "test_data"))
            say(f"  {name}: {both_sizes(train, test)} ({test_data})")
    for name, value in figures.items():
        error = f" (standard error {100 * errors[name]:.1f})" if name in errors else ""
        say(f"  {name:{width}}  {protocols.as_text(name, value)}{error}")
    for name, value in others.items():
        say(f"  {name:{width}}  {protocols.as_text(name, value)}")
    if without := left_out_of(result):
        say(f"  {without}")


def both_sizes(train: int, test: int) -> str:
    """The numbers of training and test images, in words."""
    return f"{train:,} training and {several(test, 'test image')}"


def show_results(results: Sequence[Mapping[str, Any]], console: "Console") -> None:
    """One row for every data set, one column for every figure but those that were chosen on the way."""
    rows = [{key.replace(f"_{row['metric']}", ""): value for key, value in row.items()} for row in results]
    figures = dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, float))
    columns = [key for key in figures if not key.endswith(protocols.CHOSEN) and key != "crop"]
    cells = [
        [
            row["data"], f"{row['train_images']:,}", f"{row['test_images']:,}", row["metric"].replace("_", " "),
            *(protocols.as_text(key, row[key]) if key in row else "" for key in columns),
        ]
        for row in rows
    ]  # fmt: skip
    title = f"{results[0]['target']}, each measured on its test split"
    show_table(console, ["data", "train images", "test images", "metric", *columns], cells, title)
    for result in results:
        if without := left_out_of(result):
            printer(console)(f"  {result['data']}: {without}")
