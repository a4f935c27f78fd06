"""The fixtures of tests/train, for training that is killed."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "train_fixtures", Path(__file__).parents[1] / "train" / "conftest.py"
)
_module = importlib.util.module_from_spec(_spec)
sys.modules["train_fixtures"] = _module
_spec.loader.exec_module(_module)

fake, start, finish = _module.fake, _module.start, _module.finish
