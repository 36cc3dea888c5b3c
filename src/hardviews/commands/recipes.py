"""``hardviews recipes``: lists the published runs."""

import json
import shutil
import sys

from hardviews.commands.parsing import Parser, summary
from hardviews.console import wrapped
from hardviews.recipes import recipes


def run(argv: list[str]) -> None:
    """Lists the recipes: settings of papers and for small sets, used with hardviews pretrain --recipe NAME."""
    parser = Parser(prog="hardviews recipes", description=summary(run))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse(argv)
    lines = {name: summary(recipe) for name, recipe in recipes().items()}
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    width = max(map(len, lines))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a pipe gets a line a recipe
    for name, line in lines.items():
        print(wrapped(f"{name:{width}}  {line.replace('``', '')}", columns, indent=width + 2))
