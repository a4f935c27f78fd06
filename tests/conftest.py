"""Shapes in signatures are checked; helpers beside the tests are imported by name, by ranks too."""

import sys
from pathlib import Path

import jaxtyping
import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "golden"), str(HERE.parent / "benchmarks")]

#: Where shapes are promised, and the tests that check them: every system's figure goes through those. In the
#: others, which train, replay and convert, the checks took twice the time of the tests.
PROMISED = ("core", "generation", "metrics", "objectives", "search", "systems", "tasks")
CHECKED = ("contract", "core", "generation", "metrics", "objectives", "search", "systems")

# an int is a float, as PEP 484 has it
jaxtyping.install_import_hook(
    [f"multiway.{package}" for package in PROMISED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture(autouse=True)
def shapes_are_checked(request: pytest.FixtureRequest) -> None:
    """By the folder of the test."""
    folder = request.path.relative_to(HERE).parts[0]
    jaxtyping.config.update("jaxtyping_disable", folder not in CHECKED)
