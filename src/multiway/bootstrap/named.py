"""What a captioner or filter may be named by on the command line."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiway.errors import UserError


def is_address(name: str) -> bool:
    """Whether it is an http(s) address."""
    return name.startswith(("http://", "https://"))


def is_function(name: str) -> bool:
    """Whether it is `module:function`, and no path."""
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name)) and not os.path.exists(name)


def function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names; modules of the current folder are found too.

    Raises:
        UserError: there is no such module or function.
    """
    module, attribute = name.split(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(f"{name}: {error}; give module:function of a module that Python finds here") from None
    except AttributeError:
        raise UserError(f"{name}: the module {module} has no {attribute}; check the name") from None
    if not callable(found):
        raise UserError(
            f"{name} is a {type(found).__name__}: name a function, or an object that can be called"
        )
    return found


def fingerprint(name: str) -> str:
    """Of a model folder or checkpoint the SHA-256 of its files; of anything else its name."""
    path = Path(name)
    if is_address(name) or is_function(name) or not path.exists():
        return name
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            digest.update(file.name.encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
