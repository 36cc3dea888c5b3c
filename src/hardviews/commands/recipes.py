"""``hardviews recipes``: lists the published runs."""

import json

from hardviews.commands.parsing import Parser, summary
from hardviews.recipes import recipes


def run(argv: list[str]) -> None:
    """Lists the recipes: runs of papers with their settings, used with hardviews pretrain --recipe NAME."""
    parser = Parser(prog="hardviews recipes", description=summary(run))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse(argv)
    lines = {name: summary(recipe) for name, recipe in recipes().items()}
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")
