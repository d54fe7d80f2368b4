"""What a kernel moves and computes, declared where it is called."""

from __future__ import annotations

import contextlib

import jax


def kernel_cost(name: str, bytes_accessed: int, flops: int) -> contextlib.AbstractContextManager[None]:
  """A scope for the call of a kernel; compiled programs and profiles show it in the operation's name.

  The operands do not tell: a kernel may read some channels of a wide buffer, chosen at run time. XLA takes no
  estimate from a kernel for a GPU. Calls of one kernel at different costs are still compiled once, unless a
  function under `jax.jit` contains both the scope and the call: it is traced for the first only.

  Args:
    name: Of the kernel, of letters, digits and underscores.
    bytes_accessed: What it must read and write, each once.
    flops: Two for each multiply-add of its products.
  """
  return jax.named_scope(f'{name}[bytes={bytes_accessed},flops={flops}]')
