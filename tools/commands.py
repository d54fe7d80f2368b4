"""Runs commands of `dense-aspp` one after another, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable


def run_commands(commands: Iterable[list[str]]) -> int:
  """Runs them until one fails; returns its exit code, or 0."""
  for command in commands:
    code = subprocess.run([sys.executable, '-m', 'dense_aspp_jax', *command], check=False).returncode
    if code:
      return code
  return 0
