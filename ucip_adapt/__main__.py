"""`python -m ucip_adapt` is `ucip-adapt`, also where scripts are not on the PATH."""

import sys

from ucip_adapt.cli import main

if __name__ == "__main__":
    sys.exit(main())
