"""The provenance of a result: code, libraries, device, command."""

from __future__ import annotations

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import dense_aspp_jax

_LIBRARIES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'tensorflow-datasets',
  'numpy',
  'pillow',
  'matplotlib',
  'jinja2',
)


def provenance() -> dict[str, Any]:
  """Returns version, git commit, library versions, devices, command and time as plain JSON data."""
  import jax  # imported late so that `dense-aspp --help` is fast

  versions = {}
  for name in _LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
    'dense_aspp_jax': dense_aspp_jax.__version__,
    'git_commit': git_commit(),
    'python': platform.python_version(),
    'libraries': versions,
    'devices': [f'{d.platform}: {d.device_kind}' for d in jax.devices()],
    'processes': jax.process_count(),
    'command': ' '.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def git_commit(*folders: str) -> str | None:
  """Returns the commit of the checkout that contains the package.

  '+changes' follows if files are modified, or the package or one of the `folders` of the checkout has new
  ones. Without a checkout, returns the content of the package's file COMMIT, which tools/pack_offline.py adds
  to its wheel, if there is one.
  """
  package = pathlib.Path(dense_aspp_jax.__file__).parent
  checkout = package.parent
  if not (checkout / '.git').exists():
    packed = package / 'COMMIT'
    return packed.read_text(encoding='utf-8').strip() if packed.is_file() else None
  try:
    commit = _git(checkout, 'rev-parse', 'HEAD')
    modified = _git(checkout, 'status', '--porcelain', '--untracked-files=no')
    new = _git(checkout, 'ls-files', '--others', '--exclude-standard', '--', str(package), *folders)
    return f'{commit}+changes' if modified or new else commit
  except (OSError, subprocess.CalledProcessError):
    return None


def _git(checkout: pathlib.Path, *arguments: str) -> str:
  command = ['git', '-C', str(checkout), *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
