"""Options from typed dataclasses and signatures, with errors of one line. Imports no torch."""

import argparse
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from hardviews.commands.help import Formatter, with_default, written
from hardviews.errors import InputError
from hardviews.options.groups import GROUPS, RARE, group_of

# Help of the argument that names a backbone.
MODEL_HELP = (
    "a run folder; a timm model's name; torchvision:resnet50; hf:USER/NAME or hf:FOLDER (transformers); "
    "package.module:function, which returns an nn.Module"
)


class Parser(ArgumentParser):
    """A jsonargparse parser whose options are spelt with dashes, in groups, and whose errors are one line."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(
            exit_on_error=False, default_env=False, allow_abbrev=False, formatter_class=Formatter, **keywords
        )
        self._wanted: dict[str, str] = {}  # what every option takes, in words
        self._groups = {name: self.add_argument_group(name) for name in GROUPS}
        self.rare: list[tuple[argparse.Action, str]] = []  # options that --help leaves out, with their help
        self.add_argument("--help-all", action=HelpAll, help="show the options that few need too, and exit")

    def format_help(self, *arguments: Any, **keywords: Any) -> str:
        return super().format_help(*arguments, **keywords) + (
            f"\n{len(self.rare)} more options: --help-all\n" if self.rare else ""
        )

    def add_options(self, options: type[Any], prefix: str = "", skip: Iterable[str] = ()) -> None:
        """An option for every field of a dataclass; help comes from its docstring."""
        helps = descriptions(options)
        hints = typing.get_type_hints(options)
        for field in dataclasses.fields(options):
            if field.name not in skip:
                default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
                default = None if default is dataclasses.MISSING else default
                self._add(prefix + field.name, hints[field.name], default, helps.get(field.name))

    def add_signature(self, function: Callable[..., Any], prefix: str, skip: Iterable[str]) -> None:
        """An option ``--prefix.name`` for every argument of a function or class but those in ``skip``."""
        made = function
        if isinstance(function, type):  # the constructor may be that of a class it derives from
            function = next(owner for owner in function.__mro__ if "__init__" in vars(owner))
            made = vars(function)["__init__"]
        helps, hints = descriptions(function), typing.get_type_hints(made)
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in skip and parameter.kind is not parameter.VAR_KEYWORD:
                default = None if parameter.default is parameter.empty else parameter.default
                self._add(f"{prefix}.{name}", hints[name], default, helps.get(name))

    def add_to(self, group: str, option: str, **keywords: Any) -> None:
        """An option that no dataclass has."""
        self._groups[group].add_argument(option, **keywords)

    def _add(self, name: str, hint: Any, default: Any, help: str | None) -> None:
        keywords: dict[str, Any] = {} if default is None else {"default": default}
        kind = group_of(name) or name.partition(".")[0]  # of a protocol
        if kind not in self._groups:
            self._groups[kind] = self.add_argument_group(kind)
        text = with_default(help or "", default).replace("%", "%%")
        action = self._groups[kind].add_argument(self.spelt(name), dest=name, type=hint, help=text, **keywords)
        action.metavar = written(name, hint)
        if name in RARE:
            action.help = argparse.SUPPRESS
            self.rare.append((action, text))
        # jsonargparse gives lists a second option that appends, which help would show too.
        action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        self._wanted[name] = _type_text(hint)

    def tell_defaults(self, whose: str, values: dict[str, Any]) -> None:
        """Puts a method's values into the help that calls them the method's."""

        def told(action: argparse.Action, text: str | None) -> str:
            value = values.get(action.dest)
            return (text or "").replace("the method's", f"{whose}'s" + ("" if value is None else f", {value}"), 1)

        for action in self._actions:
            if action.dest in values and action.help != argparse.SUPPRESS:
                action.help = told(action, action.help)
        self.rare = [(action, told(action, text) if action.dest in values else text) for action, text in self.rare]

    def parse(self, argv: list[str], given: dict[str, Any] | None = None) -> Namespace:
        """Parses a command line on top of given settings.

        Raises:
            InputError: of one line, naming the option and what to do.
        """
        try:
            return self.parse_args(
                [_normal(argument) for argument in argv], self.parse_object(given) if given else None
            )
        except ArgumentError as error:
            raise InputError(self._one_line(str(error))) from error

    def _one_line(self, message: str) -> str:
        message = " ".join(message.split())
        unknown = re.search(r"[Uu]nrecognized arguments: (\S+)", message)
        if unknown:
            if not unknown[1].startswith("--"):
                return f"{unknown[1]!r} belongs to no option; see --help"
            name = unknown[1].partition("=")[0]
            return f"unknown option {name}{self._nearest(name)}"
        wrong = re.match(r'Parser key "([^"]+)": (.*?)(?:Got value|Given value): (.*)', message)
        if wrong:
            return f"{self.spelt(wrong[1])}: {wrong[3]!r} is not {self._wanted.get(wrong[1], 'a value it takes')}"
        setting = re.search(r"Option '([\w.]+)' is not accepted", message)
        if setting:
            return f"unknown setting {setting[1]}{self._nearest(self.spelt(setting[1]))}"
        return message[:300]

    @staticmethod
    def spelt(dest: str) -> str:
        """A setting as it is spelt on the command line."""
        return f"--{dest.replace('_', '-')}"

    def _nearest(self, option: str) -> str:
        options = [spelling for action in self._actions for spelling in action.option_strings]
        close = get_close_matches(option.replace("_", "-"), options, n=1, cutoff=0.6)
        return f"; did you mean {close[0]}?" if close else "; see --help"


class HelpAll(argparse.Action):
    """``--help`` with the rare options."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        for action, text in parser.rare:
            action.help = text
        parser.rare.clear()
        parser.print_help()
        parser.exit()


def asks_for_help(argv: list[str]) -> bool:
    return any(argument in ("-h", "--help", "--help-all") for argument in argv)


def value_before_parsing(argv: list[str], option: str) -> str | None:
    """The value of an option before anything is parsed; the last where it is given twice, as parsers take it."""
    found = None
    for place, argument in enumerate(argv):
        if argument == option and place + 1 < len(argv):
            found = argv[place + 1]
        if argument.startswith(f"{option}="):
            found = argument.partition("=")[2]
    return found


def _normal(argument: str) -> str:
    """``--method.hidden-dim`` is ``--method.hidden_dim``, and ``2,2,16`` is ``[2,2,16]``."""
    name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if re.fullmatch(r"-?[\d.e-]+(,-?[\d.e-]+)+", value):
        value = f"[{value}]"
    # Arguments of timm keep their underscores.
    name = name.replace("-", "_").replace("__", "--", 1) if ".keywords." in name else name.replace("_", "-")
    return name + equals + value


def _type_text(hint: Any) -> str:
    """A type in words: ``a whole number``, ``one of auto, on, off``."""
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in simple:
        return simple[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if origin in (list, tuple):
        return "numbers such as 0.1,0.2,0.3" if float in arguments else "numbers such as 2,2,16"
    if origin is dict:
        return "settings such as '{key: value}'"
    return " or ".join(_type_text(argument) for argument in arguments if argument is not type(None))


def descriptions(documented: Any) -> dict[str, str]:
    """What a Google-style docstring's Args section says of every argument, also of those that share a line."""
    parsed = docstring_parser.parse(inspect.getdoc(documented) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {
        name.strip(): " ".join((entry.description or "").split())
        for entry in parsed.params
        for name in entry.arg_name.split(",")
    }


def summary(documented: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def read_yaml(path: str) -> dict[str, Any]:
    """A configuration file.

    Raises:
        InputError: it can't be read or is no mapping.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"config: {path} can't be read: {getattr(error, 'strerror', None) or 'not a text file'}"
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"config: {path} holds no settings")
    return {str(key): value for key, value in loaded.items()}
