"""Numbered checkpoints in one directory, written in the background; the older ones are removed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dense_aspp_jax.checkpoint_io import METADATA, ReadBackError, load_checkpoint, orbax_writes, start_saving
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.progress import say

_PARAMETERS = 'params'  # in every checkpoint
_UNFINISHED = '.orbax-checkpoint-tmp'  # in the name of one that Orbax is writing
_REMOVED = '.removed'  # likewise, of one that is being deleted
_SET_ASIDE = 'set_aside'


class CheckpointSeries:
  """Checkpoints `DIRECTORY/STEP`, of which the newest `keep` stay. Every process must call every method.

  Orbax's own Checkpointer is not used: it takes any directory with a number for a checkpoint, does not
  save below the number of a damaged one, and reports a failed save at the next one, which it drops.
  """

  def __init__(self, directory: pathlib.Path, keep: int):
    """Removes what interrupted saves left in a directory, which may be missing."""
    self.directory, self._keep = directory.absolute(), keep
    self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
    if _is_first_process():
      for path in self._remove_unfinished():
        say(f'{path}: removed; a save or a deletion that was cut off had left it')
      for path in _numbered(self.directory):
        if not is_checkpoint(path):
          say(f'{path}: ignored; it is not a checkpoint')

  @property
  def steps(self) -> list[int]:
    """Those on disk, damaged ones too; and one that is being written, last."""
    steps = steps_in(self.directory)
    return sorted({*steps, self._saving[0]}) if self._saving else steps

  def save(self, step: int, items: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Begins to save; the arrays may be changed or donated when this returns.

    Raises:
      RunError: This save cannot begin, or the one before failed.
    """
    self.wait()
    with self._writing(step):
      self.directory.mkdir(parents=True, exist_ok=True)
      self._saving = step, start_saving(self.directory / str(step), items, record)

  def wait(self) -> None:
    """Waits until the save under way is on disk and was read back; then removes what is older than asked for.

    Raises:
      RunError: The save failed.
    """
    if self._saving is None:
      return
    (step, response), self._saving = self._saving, None
    with self._writing(step):
      response.result()
      if _is_first_process():
        older = [s for s in steps_in(self.directory) if s != step]
        for old in older[: max(0, len(older) + 1 - self._keep)]:
          _remove(self.directory / str(old))

  def load(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Restores a checkpoint, see `checkpoint_io.load_checkpoint`."""
    return load_checkpoint(self.directory / str(step), items)

  def set_aside_after(self, step: int) -> None:
    """Moves what has a higher number out of the way of new checkpoints, into `DIRECTORY/../set_aside`."""
    if not _is_first_process() or not self.directory.is_dir():
      return
    for path in _numbered(self.directory):
      if int(path.name) > step:
        _set_aside(path)

  @contextlib.contextmanager
  def _writing(self, step: int) -> Iterator[None]:
    """Turns what Orbax raises into a RunError, and clears away a save that failed."""
    try:
      with orbax_writes(self.directory / str(step), 'the older checkpoints are intact; is the disk full?'):
        yield
    except RunError as error:
      if _is_first_process():
        self._remove_unfinished()
        if isinstance(error.__cause__, ReadBackError) and (self.directory / str(step)).is_dir():
          _set_aside(self.directory / str(step))
      raise

  def _remove_unfinished(self) -> list[pathlib.Path]:
    if not self.directory.is_dir():
      return []
    unfinished = [p for p in self.directory.iterdir() if _UNFINISHED in p.name or p.name.endswith(_REMOVED)]
    for path in unfinished:
      shutil.rmtree(path, ignore_errors=True)
    return unfinished


def steps_in(directory: pathlib.Path) -> list[int]:
  """Steps of the checkpoints of a series, in order; what only has a number for its name is none."""
  return sorted(int(p.name) for p in _numbered(directory) if is_checkpoint(p))


def is_checkpoint(path: pathlib.Path) -> bool:
  """Whether a directory is a checkpoint, though perhaps a damaged one."""
  return (path / METADATA).exists() or (path / _PARAMETERS).exists()


def _numbered(directory: pathlib.Path) -> list[pathlib.Path]:
  return [p for p in directory.iterdir() if p.name.isdecimal()] if directory.is_dir() else []


def _set_aside(path: pathlib.Path) -> None:
  aside = path.parents[1] / _SET_ASIDE
  taken = [p.name for p in aside.iterdir()] if aside.is_dir() else []
  name = f'{path.parent.name}-{path.name}-{len(taken)}'
  aside.mkdir(exist_ok=True)
  path.rename(aside / name)
  say(f'{path}: moved to {aside / name}')


def _remove(path: pathlib.Path) -> None:
  """Deletes a checkpoint; one half deleted does not keep its name."""
  removed = path.rename(path.with_name(f'{path.name}{_REMOVED}'))
  shutil.rmtree(removed, ignore_errors=True)


def _is_first_process() -> bool:
  return jax.process_index() == 0
