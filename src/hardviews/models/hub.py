"""Uploads an exported folder to the Hugging Face Hub."""

import re
from pathlib import Path

from hardviews.errors import InputError, RunError


def check_hub(name: str) -> None:
    """Asks the hub who the user is, before anything is exported.

    Raises:
        InputError: the name is not USER/NAME, or the hub takes no uploads of this user.
        RunError: the hub can't be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"push-to-hub: {name!r} is not USER/NAME, such as me/resnet18-simclr")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise InputError("push-to-hub: you are not logged in; run `hf auth login`, or set HF_TOKEN")
    try:
        HfApi().whoami()
    except HfHubHTTPError as error:
        raise InputError(
            f"push-to-hub: the hub does not accept this token: {_line(error)}; run `hf auth login`"
        ) from error
    except Exception as error:  # by its version, huggingface_hub raises those of requests, httpx or others
        raise RunError(f"push-to-hub: the hub can't be reached: {_line(error)}") from error


def push(folder: Path, name: str, private: bool) -> str:
    """Uploads the files of a folder to a repository of the hub, which is made if there is none.

    Args:
        folder: what ``export`` wrote.
        name: USER/NAME.
        private: whether a repository that is made is private.

    Returns:
        Its address.

    Raises:
        RunError: the upload failed; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        address = str(hub.create_repo(name, private=private, exist_ok=True))
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Backbone exported by hardviews")
    except Exception as error:
        raise RunError(
            f"push-to-hub: {_line(error)}; the export lies in {folder}, and `hf upload {name} {folder}` tries again"
        ) from error
    return address


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
