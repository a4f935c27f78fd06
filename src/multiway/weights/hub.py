"""A hub id's files: from the cache, else from the hub, else a sentence on what to bring; and back."""

from __future__ import annotations

from pathlib import Path

from multiway.errors import UserError

#: What a model folder has one of: ours or transformers', open_clip's, adapters'.
CONFIGS = ("config.json", "open_clip_config.json", "adapter.json")
SMALL = ("*.json", "*.txt", "*.model")  # configs and tokenizers
WEIGHTS = ("*.safetensors", "*.bin")  # the second only where a model has none of the first


def fetch(name: str) -> Path:
    """The folder that holds the files of the hub id `name`, such as `Salesforce/blip-image-captioning-base`.

    Without a network the cache is enough ($HF_HOME, and $HF_HUB_OFFLINE=1, as in every tool of the hub).

    Raises:
        UserError: it is no hub id, the hub has no such model, or it is neither here nor to be had.
    """
    owner, _, model = name.partition("/")
    file = name.endswith((".pt", ".pth", ".bin", ".safetensors", ".tar", ".ckpt"))
    if not owner or not model or "/" in model or owner in (".", "..", "~") or file:
        raise UserError(
            f"{name} does not exist: give a model folder, a checkpoint file, or a hub id such as owner/name"
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*SMALL, WEIGHTS[0]]))
        if not any(folder.glob(WEIGHTS[0])):
            folder = Path(snapshot_download(name, allow_patterns=[*SMALL, WEIGHTS[1]]))
    except HFValidationError:
        raise UserError(
            f"{name} is no folder here and no hub id: give owner/name, or check the path"
        ) from None
    except LocalEntryNotFoundError:  # no network, and nothing in the cache
        raise UserError(_bring(name, f"not in the cache ({constants.HF_HUB_CACHE})")) from None
    except GatedRepoError:
        raise UserError(
            f"the hub gives {name} only to those who asked: accept its terms there, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name} is no folder here, and the hub has no such model: check the path or the id"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(_bring(name, f"it could not be downloaded ({type(error).__name__})")) from None
    if not _is_whole(folder):
        raise UserError(_bring(name, f"in the cache only in part ({folder})"))
    return folder


def _is_whole(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS) and any(
        found for pattern in WEIGHTS for found in folder.glob(pattern)
    )


def _bring(name: str, what: str) -> str:
    short = name.rpartition("/")[2]
    return (
        f"{name} is no folder here, {what}, and the hub can't be reached: where there is a network, run "
        f"`hf download {name} --local-dir {short}`, which brings config.json, model.safetensors, vocab.txt, "
        f"copy that folder here and give its path ./{short}"
    )


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a model folder as `owner/name`, made where there is none; the address.

    Raises:
        UserError: it is no model folder, or the hub refuses or can't be reached.
    """
    if not _is_whole(folder):
        raise UserError(f"{folder} is no model folder: give one that multiway.save wrote")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=[".*"])
    except HFValidationError:
        raise UserError(f"{name} is no name on the hub: give owner/name") from None
    except LocalTokenNotFoundError:
        raise UserError("the hub does not know you: run `hf auth login` first") from None
    except HfHubHTTPError.__bases__ as error:  # OSError, and all errors of the HTTP client that the hub uses
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name} was not uploaded ({reason[:120]}): check network and rights, and repeat"
        ) from None
    return str(address)
