"""XLA's compilations, kept on disk between runs, so that the second start of a network is quick."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import platformdirs

_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def use_compilation_cache() -> None:
  """Tells JAX to keep compilations in the user's cache directory; call it before anything is compiled.

  JAX's own settings come first: JAX_COMPILATION_CACHE_DIR (empty: no cache) or, in a program that set it,
  `jax.config.jax_compilation_cache_dir`. JAX keeps what took longer than a second to compile. JAX itself is
  not imported. Without a directory that can be written there is no cache, and a line says so.
  """
  jax = sys.modules.get('jax')
  if _VARIABLE in os.environ or (jax and jax.config.jax_compilation_cache_dir is not None):
    return
  try:
    directory = platformdirs.user_cache_path('dense_aspp_jax', appauthor=False) / 'xla'
    # For the user alone: whoever writes into it can make the user's processes run code.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    reason = None if os.access(directory, os.W_OK | os.X_OK) else f'{directory}: it cannot be written'
  except RuntimeError:
    reason = 'no home directory'
  except OSError as error:
    reason = f'{directory}: {error.strerror}'
  if reason:
    print(f'{reason}; compilations are not kept (set {_VARIABLE} to keep them)', file=sys.stderr)
  elif jax:
    jax.config.update('jax_compilation_cache_dir', str(directory))
  else:
    os.environ[_VARIABLE] = str(directory)


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
  """Inside, everything is compiled anew and nothing is kept, in all threads."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  directory = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_compilation_cache_dir', directory)
    compilation_cache.reset_cache()
