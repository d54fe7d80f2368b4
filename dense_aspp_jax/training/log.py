"""What a run reports: JSON lines, TensorBoard events, pictures."""

from __future__ import annotations

import contextlib
import json
import pathlib

import jax
import tensorboardX

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.evaluation.pictures import Rgb, save_png
from dense_aspp_jax.files import write_file


class RunLog:
  """Writes `WORKDIR/metrics.jsonl`, `WORKDIR/tensorboard/` and `WORKDIR/pictures/`; process 0 only."""

  def __init__(self, workdir: pathlib.Path, first_step: int, evaluated: bool = True):
    """Opens the files of a run that starts or resumes after `first_step` updates.

    Removes what an interrupted run wrote of later steps, which will be repeated; unless `evaluated`, also the
    evaluation of `first_step`.
    """
    self._enabled = jax.process_index() == 0
    if self._enabled:
      self._pictures = workdir / 'pictures'
      lines = workdir / 'metrics.jsonl'
      if lines.exists():
        _keep_lines_until(lines, first_step, evaluated)
      self._lines = lines.open('a', encoding='utf-8')
      self._events = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'), purge_step=first_step + 1)

  def scalars(self, step: int, kind: str, values: dict[str, float | None]) -> None:
    """Writes one JSON line and one event 'KIND/NAME' per value; None is null there and absent here.

    Raises:
      RunError: They cannot be written.
    """
    if not self._enabled:
      return
    try:
      self._lines.write(json.dumps({'step': step, 'kind': kind, **values}) + '\n')
      self._lines.flush()
    except OSError as error:
      raise RunError(f'{self._lines.name}: cannot be written ({error.strerror})') from error
    for name, value in values.items():
      if value is not None:
        self._events.add_scalar(f'{kind}/{name}', value, step)

  def scores(self, step: int, kind: str, scores: Scores, picture: Rgb | None) -> None:
    """Writes the scores of an evaluation; and a picture, as a PNG file and as an event, if there is one."""
    values = {name: value for name, value in scores.to_json().items() if name != 'iou'}
    self.scalars(step, kind, {**values, **{f'iou/{name}': value for name, value in scores.iou.items()}})
    if self._enabled and picture is not None:
      save_png(self._pictures / f'{kind}_step_{step:07d}.png', picture)
      self._events.add_image(kind, picture, step, dataformats='HWC')

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._enabled:
      self._lines.close()
      self._events.close()


def _keep_lines_until(path: pathlib.Path, last_step: int, evaluated: bool) -> None:
  """Drops the lines of steps after `last_step`, and those that are none, as a killed run left one."""
  kept = []
  for line in path.read_text(encoding='utf-8').splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
      found = json.loads(line)
      last = last_step if evaluated or found['kind'] == 'train' else last_step - 1
      if found['step'] <= last:
        kept.append(line + '\n')
  write_file(path, ''.join(kept).encode())
