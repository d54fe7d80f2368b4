"""What writers that were killed left behind."""

from __future__ import annotations

import pathlib
import shutil
import time

ABANDONED_AFTER_SECONDS = 3600  # a writer that wrote nothing for so long was killed


def remove_abandoned(folder: pathlib.Path, pattern: str) -> None:
  """Removes the folders in `folder` that fit `pattern` and in which nobody has written for an hour."""
  for unfinished in folder.glob(pattern):
    try:
      last_write = max(path.stat().st_mtime for path in (unfinished, *unfinished.rglob('*')))
    except FileNotFoundError:  # its writer has just finished
      continue
    if last_write < time.time() - ABANDONED_AFTER_SECONDS:
      shutil.rmtree(unfinished, ignore_errors=True)
