"""Helpers beside the tests are imported by their own names, also in spawned ranks."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "golden"), str(HERE.parent / "benchmarks")]
