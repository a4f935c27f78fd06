"""Dotted flags over a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from multiway.cli.overrides import override


@dataclass(frozen=True)
class Part:
    clip_stem: bool = False
    name: str = "vit"


@dataclass(frozen=True)
class Whole:
    system: Part = field(default_factory=Part)


@pytest.mark.parametrize("said", ["true", "True"])
@pytest.mark.parametrize("flag", ["--system.clip-stem", "--system.clip_stem", "--clip-stem"])
@pytest.mark.parametrize("joined", [True, False])
def test_truth_values_may_be_lower_case(said: str, flag: str, joined: bool) -> None:
    argv = [f"{flag}={said}"] if joined else [flag, said]
    assert override(Whole(), argv, prog="it", group="system").system.clip_stem


def test_a_text_stays_as_it_is_written() -> None:
    assert override(Whole(), ["--system.name", "true"], prog="it").system.name == "true"
