"""What was measured so far: one file, written again after every unit of work."""

from __future__ import annotations

import pathlib
import time
import traceback
from collections.abc import Callable
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json, write_json

Record = dict[str, Any]


class Results:
  """Records of units, by stage and name, in a file that a later process goes on with.

  A record has the unit's figures and its 'seconds'; or an 'error'; or, while it runs, 'started' and the
  'limit' of its seconds, by which another process sees where this one has stopped.
  """

  def __init__(self, path: pathlib.Path, settings: dict[str, Any], deadline: float):
    """Reads what there is.

    Args:
      path: The file.
      settings: What is measured; must be that of the file.
      deadline: No unit is started that is to end later, in seconds since the epoch.

    Raises:
      InputError: The file has other settings, or cannot be read.
    """
    self.path, self.deadline = path, deadline
    new = {'settings': settings, 'stages': {}}
    self.data = read_json(path, 'choose another folder', default=new)
    if self.data.get('settings') != settings:
      raise InputError(
        f'{path}: measured with {self.data.get("settings")}; found {settings}: choose another folder'
      )

  @property
  def left(self) -> float:
    """Seconds until the deadline."""
    return self.deadline - time.time()

  def get(self, stage: str, name: str) -> Record | None:
    """The record of a unit that has ended."""
    record = self.data['stages'].get(stage, {}).get(name)
    return None if record is None or 'started' in record else record

  def of(self, stage: str) -> dict[str, Record]:
    """All units of a stage that ended without an error."""
    records = self.data['stages'].get(stage, {})
    return {name: r for name, r in records.items() if 'started' not in r and 'error' not in r}

  def measure(self, stage: str, name: str, limit: float, unit: Callable[[], Record]) -> Record | None:
    """Runs a unit unless it has ended before, and records what it returns or raises.

    Args:
      stage: Of the unit.
      name: Within the stage.
      limit: Seconds that it may take.
      unit: Returns its figures, as plain JSON data.

    Returns:
      Its figures; None: an error, or too little time is left, and a later call may run it.
    """
    record = self.get(stage, name)
    if record is None:
      if self.left < limit / 2:
        say(f'{stage} {name}: left out, {self.left:.0f} s left')
        return None
      begin = time.time()
      self._put(stage, name, {'started': begin, 'limit': limit})
      try:
        record = {**unit(), 'seconds': round(time.time() - begin, 1)}
      except (Exception, SystemExit) as error:  # of any library; the others go on
        message = ' '.join(f'{type(error).__name__}: {error}'.split())
        record = {'error': message[:500], 'trace': traceback.format_exc()[-2000:]}
      self._put(stage, name, record)
      say(f'{stage} {name}: {record.get("error") or str(record["seconds"]) + " s"}')
    return None if 'error' in record else record

  def running(self) -> tuple[str, str, Record] | None:
    """Stage, name and record of the unit that runs, or in which a process has ended."""
    for stage, records in self.data['stages'].items():
      for name, record in records.items():
        if 'started' in record:
          return stage, name, record
    return None

  def end_running(self, error: str | None) -> None:
    """Records that the unit that runs has failed; None: it is to run again."""
    if found := self.running():
      stage, name, _ = found
      del self.data['stages'][stage][name]
      if error:
        self._put(stage, name, {'error': error})
      else:
        write_json(self.path, self.data)

  def _put(self, stage: str, name: str, record: Record) -> None:
    self.data['stages'].setdefault(stage, {})[name] = record
    write_json(self.path, self.data)


def say(text: str) -> None:
  """Prints a line with the time."""
  print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)
