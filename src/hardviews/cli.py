"""The command line: finds the verb and prints errors as one line. It imports little, so that help is quick."""

import os
import sys
from importlib import import_module
from importlib.metadata import version

from hardviews.console import complain
from hardviews.errors import InputError, RunError, StoppedError, unknown
from hardviews.launch.environment import is_started, rank
from hardviews.launch.processes import should_report

VERBS = {
    "pretrain": "pretrain a backbone without labels, on hard views",
    "evaluate": "measure a run's backbone, or any timm model's",
    "compare": "train with and without hard views, and say whether they differ",
    "embed": "write the features of every image to a Parquet file",
    "export": "write a run's backbone as timm, torchvision or ONNX read it",
    "report": "show what runs did and which views they kept, as one page",
    "recipes": "list the published runs that come with hardviews",
}

HELP = """usage: hardviews [-h] [--version] VERB ...

Pretrain vision backbones on the hardest of several random views of every image.

verbs:
{verbs}

`hardviews pretrain` without options runs a demonstration of two minutes.
`hardviews VERB --help` shows the options of a verb.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        The exit code: 0, 2 for what the user can fix (nothing was written), 1 for a run that could not continue, 128
        and a signal's number for one that was asked to stop.
    """
    argv = sys.argv[1:] if argv is None else argv
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if verb in ("-h", "--help"):
        print(HELP.format(verbs="\n".join(f"  {name:10} {text}" for name, text in VERBS.items())), end="")
        return 0
    if verb == "--version":
        print(f"hardviews {version('hardviews')}")
        return 0
    code = 0
    try:
        if verb not in VERBS:
            raise unknown("verb", verb, VERBS)
        import_module(f"hardviews.commands.{verb}").run(rest)
    except (InputError, RunError) as error:
        if should_report(error):
            who = f"process {rank()}: " if rank() else ""
            complain(f"hardviews: error: {who}{' '.join(str(error).split())}")
        code = 2 if isinstance(error, InputError) else 1
    except StoppedError as stopped:
        if should_report(stopped):
            complain(f"hardviews: {stopped}")
        code = 128 + stopped.signal
    except KeyboardInterrupt as interrupt:
        if rank() == 0:
            complain(f"hardviews: interrupted; {str(interrupt) or 'nothing was written'}")
        code = 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not is_started():
            raise
        if should_report(error):
            sys.excepthook(type(error), error, error.__traceback__)  # torch's, which names the process
        code = 1
    if code and is_started():
        # Without clean-up: the others end when this one is gone, and clean-up of what they share may hang.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
