"""``python -m sbc_kernels.cli``."""

from . import main

main()
