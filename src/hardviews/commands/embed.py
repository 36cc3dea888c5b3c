"""``hardviews embed``: the features of every image, in a Parquet file."""

import json
from collections.abc import Mapping
from typing import Any

from hardviews.analysis.measured import left_out
from hardviews.commands.parsing import MODEL_HELP, Parser, summary
from hardviews.console import Say, printer
from hardviews.errors import InputError
from hardviews.options.embedding import EmbedOptions
from hardviews.wording import several


def run(argv: list[str]) -> None:
    """Parses a command line and embeds."""
    target, options, as_json = parse(argv)
    # Only here, so that help and wrong options need not wait for torch.
    from rich.console import Console

    from hardviews.models.embed import embed

    written = embed(target, options)
    if written and as_json:
        print(json.dumps(written, indent=2))
    elif written:
        show(written, printer(Console()))


def parse(argv: list[str]) -> tuple[str, EmbedOptions, bool]:
    """What to embed with, how, and whether to print JSON.

    Raises:
        InputError: an option is unknown, does not fit or is missing.
    """
    parser = Parser(
        prog="hardviews embed",
        usage="hardviews embed RUN_OR_MODEL --data DATA --out FILE.parquet [options]",
        description=f"{summary(EmbedOptions)} torchrun --nproc-per-node N -m hardviews.cli embed ... shares the work "
        "among N processes, and the file is the same.",
    )
    parser.add_argument("target", type=str, metavar="RUN_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_options(EmbedOptions)
    given = parser.parse(argv).as_dict()
    target, as_json = given.pop("target"), given.pop("json")
    if given["data"] is None:
        raise InputError("data: give --data, the images to embed")
    if given["out"] is None:
        raise InputError("out: give --out, the Parquet file to write")
    return target, EmbedOptions(**given), as_json


def show(written: Mapping[str, Any], say: Say) -> None:
    features = several(written["dimension"], "feature")
    lines = [f"{written['target']}: {several(written['rows'], 'image')} of {written['data']}, {features} each"]
    if written["unreadable"]:
        lines.append(f"  {left_out(written['unreadable'])}")
    lines.append(f"  in {written['out']}")
    for line in lines:
        say(line)
