"""Models by their name on the Hugging Face hub, where there is a network or they were fetched before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from memalpha_jax.errors import UserError

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json", "chat_template*"),
)
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", *TOKENIZER_FILES),
)
"""What is fetched of a repository: its other files may be large, and none of them is read."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(path: str) -> bool:
    """Whether a path may name a model there, as `Qwen/Qwen3-0.6B` does where there is no folder `Qwen`."""
    return _NAME.fullmatch(path) is not None and not Path(path).parent.exists()


def fetch(name: str) -> Path:
    """The folder of the model `name`, downloaded or from the cache.

    The config comes first, so that a model of another kind is refused before its weights are fetched.

    Raises:
      UserError: there is no network, no such model, or it may not be read.
    """
    # Slow to import, and of no use to runs that start from a folder.
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.utils import logging as hub_logging

    from memalpha_jax.policy.hugging_face_config import read_config

    wanted = "config.json"
    logging.info("fetching %s from the Hugging Face hub; without a network it is tried for half a minute", name)
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # or each of its tries is a warning or two
    try:
        read_config(Path(hf_hub_download(name, wanted)).parent)
        wanted = "the weights and tokenizer files"
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except UserError:
        raise
    except Exception as error:  # the client raises its own, the transport's and the system's errors
        raise UserError(
            f"there is no directory {name} here, and {wanted} of the Hugging Face model of that name could not be "
            f"fetched ({_first_line(error)}); check the name and the network, or fetch the model where there is one "
            "and give the path of its folder"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def fetch_files(name: str, patterns: Sequence[str], what: str, repo_type: str = "model") -> Path:
    """The folder with those files of a repository that match `patterns`, downloaded or from the cache.

    Args:
      what: the files, in words. repo_type: "model" or "dataset".

    Raises:
      UserError: there is no network, no such repository, none of the files in it, or it may not be read.
    """
    from huggingface_hub import snapshot_download  # slow to import

    try:
        folder = Path(snapshot_download(name, repo_type=repo_type, allow_patterns=list(patterns)))
    except Exception as error:  # the client raises its own, the transport's and the system's errors
        raise UserError(
            f"{what} of the Hugging Face {repo_type} {name} could not be fetched ({_first_line(error)}); check the "
            "name and the network, or fetch the files where there is one and give the path of their folder"
        ) from error
    if not any(path.is_file() for path in folder.rglob("*")):
        raise UserError(f"the Hugging Face {repo_type} {name} has none of {', '.join(patterns)}")
    return folder


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}" if lines else type(error).__name__
