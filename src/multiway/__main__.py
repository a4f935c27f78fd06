"""`python -m multiway`, which is also what `torchrun -m multiway` starts."""

import sys

from multiway.cli.main import main

sys.exit(main())
