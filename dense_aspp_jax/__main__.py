"""`python -m dense_aspp_jax COMMAND ...` is `dense-aspp COMMAND ...`; both begin here."""

import sys
from collections.abc import Sequence

from dense_aspp_jax.allocator import start_again_with_huge_pages
from dense_aspp_jax.commands.interrupts import end_at_interrupt


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command, see `commands.main`."""
  end_at_interrupt()
  start_again_with_huge_pages()
  from dense_aspp_jax.commands.main import main as run  # late: an interrupt ends these imports at once

  return run(arguments)


if __name__ == '__main__':
  sys.exit(main())
