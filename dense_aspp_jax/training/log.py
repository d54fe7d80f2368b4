"""What a run reports: JSON lines, TensorBoard events, pictures."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.evaluation.pictures import Rgb, save_png
from dense_aspp_jax.files import write_file
from dense_aspp_jax.progress import say

_SECONDS_BETWEEN_FLUSHES = 120.0  # of the events


class RunLog:
  """Writes `WORKDIR/metrics.jsonl`, `WORKDIR/tensorboard/` and `WORKDIR/pictures/`; process 0 only.

  Events that cannot be written are given up with a warning: metrics.jsonl holds the same values.
  """

  def __init__(self, workdir: pathlib.Path, first_step: int, evaluated: bool = True):
    """Opens the files of a run that starts or resumes after `first_step` updates.

    Removes what an interrupted run wrote of later steps, which will be repeated; unless `evaluated`, also the
    evaluation of `first_step`.

    Raises:
      RunError: metrics.jsonl cannot be read or written.
    """
    self._enabled = jax.process_index() == 0
    if self._enabled:
      self._pictures, self._path = workdir / 'pictures', workdir / 'metrics.jsonl'
      with self._explained():
        if self._path.exists():
          _keep_lines_until(self._path, first_step, evaluated)
        self._lines = self._path.open('ab', buffering=0)  # closing it cannot fail for want of space
      self._events = _Events(workdir / 'tensorboard', first_step)

  def scalars(self, step: int, kind: str, values: dict[str, float | None]) -> None:
    """Writes one JSON line and one event 'KIND/NAME' per value; None is null there and absent here.

    Raises:
      RunError: The line cannot be written.
    """
    if not self._enabled:
      return
    line = (json.dumps({'step': step, 'kind': kind, **values}) + '\n').encode()
    with self._explained():
      while line:
        line = line[self._lines.write(line) :]
    for name, value in values.items():
      if value is not None:
        self._events.add(summary.scalar(f'{kind}/{name}', value), step)

  def scores(self, step: int, kind: str, scores: Scores, picture: Rgb | None) -> None:
    """Writes the scores of an evaluation; and a picture, as a PNG file and as an event, if there is one."""
    values = {name: value for name, value in scores.to_json().items() if name != 'iou'}
    self.scalars(step, kind, {**values, **{f'iou/{name}': value for name, value in scores.iou.items()}})
    if self._enabled and picture is not None:
      save_png(self._pictures / f'{kind}_step_{step:07d}.png', picture)
      self._events.add(summary.image(kind, picture, dataformats='HWC'), step)

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._enabled:
      self._lines.close()
      self._events.close()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise RunError(
        f'{self._path}: cannot be written ({error.strerror}); the checkpoints are intact'
      ) from error


class _Events:
  """An event file of TensorBoard.

  tensorboardX's SummaryWriter leaves the file to a thread. If the disk is full, that thread ends, and the run
  waits for it for ever.
  """

  def __init__(self, folder: pathlib.Path, first_step: int):
    self._folder, self._flushed, self._writer = folder, 0.0, None
    with self._given_up_on_error():
      folder.mkdir(parents=True, exist_ok=True)
      self._writer = EventsWriter(str(folder.absolute() / 'events'))
    start = SessionLog(status=SessionLog.START)
    self._write(Event(step=first_step + 1, session_log=start))  # TensorBoard forgets the steps from here on

  def add(self, values: Summary, step: int) -> None:
    self._write(Event(summary=values, step=step, wall_time=time.time()))

  def close(self) -> None:
    with self._given_up_on_error():
      if self._writer is not None:
        self._writer.close()

  def _write(self, event: Event) -> None:
    with self._given_up_on_error():
      if self._writer is None:
        return
      self._writer.write_event(event)
      if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
        self._writer.flush()
        self._flushed = time.monotonic()

  @contextlib.contextmanager
  def _given_up_on_error(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      writer, self._writer = self._writer, None
      say(f'warning: {self._folder}: cannot be written ({error.strerror}); no more events for TensorBoard')
      if writer is not None:
        with contextlib.suppress(OSError):
          writer.close()


def _keep_lines_until(path: pathlib.Path, last_step: int, evaluated: bool) -> None:
  """Drops the lines of steps after `last_step`, and those that are none, as a killed run left one."""
  kept = []
  for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
      found = json.loads(line)
      last = last_step if evaluated or found['kind'] == 'train' else last_step - 1
      if found['step'] <= last:
        kept.append(line + '\n')
  write_file(path, ''.join(kept).encode())
