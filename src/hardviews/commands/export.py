"""``hardviews export``: writes a backbone for timm, torchvision, safetensors or ONNX."""

import json
from collections.abc import Mapping
from typing import Any

from hardviews.commands.parsing import MODEL_HELP, Parser, summary
from hardviews.console import Say, printer
from hardviews.errors import InputError
from hardviews.options.export import ExportOptions
from hardviews.wording import several


def run(argv: list[str]) -> None:
    """Parses a command line and exports."""
    target, options, as_json = parse(argv)
    # Only here, so that help and wrong options need not wait for torch.
    from rich.console import Console

    from hardviews.models.export import export

    written = export(target, options)
    if as_json:
        print(json.dumps(written, indent=2))
    else:
        show(written, printer(Console()))


def parse(argv: list[str]) -> tuple[str, ExportOptions, bool]:
    """What to export, how, and whether to print JSON.

    Raises:
        InputError: an option is unknown, does not fit or is missing.
    """
    parser = Parser(
        prog="hardviews export",
        usage="hardviews export RUN_OR_MODEL --out FOLDER\n"
        "                        --format timm|torchvision|safetensors|onnx [options]",
        description=summary(ExportOptions),
    )
    parser.add_argument("target", type=str, metavar="RUN_OR_MODEL", help=MODEL_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_options(ExportOptions)
    given = parser.parse(argv).as_dict()
    target, as_json = given.pop("target"), given.pop("json")
    if given["out"] is None:
        raise InputError("out: give --out, the folder to write")
    if given["format"] is None:
        raise InputError("format: give --format timm, torchvision, safetensors or onnx")
    return target, ExportOptions(**given), as_json


def show(written: Mapping[str, Any], say: Say) -> None:
    files = f"{', '.join(written['files'])} ({sum(written['files'].values()) / 1e6:.1f} MB)"
    lines = [
        f"{written['target']}: {written['architecture']}, {several(written['dimension'], 'feature')}, as "
        f"{written['format']} in {written['out']}: {files}",
        f"  loaded again, its features differ by at most {written['difference']:.1g} of the largest",
        *([f"  {written['note']}"] if written["note"] else []),
        *([f"  uploaded to {written['hub']}"] if "hub" in written else []),
    ]
    for line in lines:
        say(line)
