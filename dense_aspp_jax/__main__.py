"""`python -m dense_aspp_jax COMMAND ...` is `dense-aspp COMMAND ...`."""

import sys

from dense_aspp_jax.commands.main import main

if __name__ == '__main__':
  sys.exit(main())
