"""The modules beside the replay are imported by their own names, also in spawned ranks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
