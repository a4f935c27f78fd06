"""The systems, by name. Each entry's functions import inside their bodies, so that listing is instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One system: its paper, and functions that give its config class and its network class."""

    paper: str
    config: Callable[[], type]
    network: Callable[[], type]


def _albef_config() -> type:
    from multiway.systems.albef import ALBEFConfig

    return ALBEFConfig


def _albef() -> type:
    from multiway.systems.albef import ALBEF

    return ALBEF


def _clip_config() -> type:
    from multiway.systems.clip import CLIPConfig

    return CLIPConfig


def _clip() -> type:
    from multiway.systems.clip import CLIP

    return CLIP


SYSTEMS: dict[str, Entry] = {
    "albef": Entry("Li et al. 2021, arXiv:2107.07651", _albef_config, _albef),
    "clip": Entry("Radford et al. 2021, arXiv:2103.00020", _clip_config, _clip),
}


def profile(name: str) -> dict[str, dict[str, float]]:
    """Parameters and FLOPs of a system's vision, text and interaction: see `systems.profile.profile`."""
    from multiway.systems.profile import profile

    return profile(name)
