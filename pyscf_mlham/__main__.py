"""The command line as `python -m pyscf_mlham`."""

import sys

from pyscf_mlham.cli import main

sys.exit(main())
