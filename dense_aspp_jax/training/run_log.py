"""What a run reports: JSON lines, TensorBoard events, pictures."""

from __future__ import annotations

import json
import math
import pathlib
from collections import deque
from typing import Any

import jax
import numpy as np
import tensorboardX

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.training.train_step import StepMetrics

_STEPS_IN_FLIGHT = 2  # steps dispatched before the result of the first is waited for


class RunLog:
  """Writes `WORKDIR/metrics.jsonl`, `WORKDIR/tensorboard/` and `WORKDIR/pictures/`; process 0 only."""

  def __init__(self, workdir: pathlib.Path):
    self._enabled = jax.process_index() == 0
    if self._enabled:
      self._pictures = workdir / 'pictures'
      self._lines = (workdir / 'metrics.jsonl').open('a', encoding='utf-8')
      self._events = tensorboardX.SummaryWriter(str(workdir / 'tensorboard'))

  def scalars(self, step: int, kind: str, values: dict[str, float | None]) -> None:
    """Writes one JSON line and one event per value; None is null there and absent here.

    Args:
      step: Updates made.
      kind: 'train' or 'validation', prefix of the event names.
      values: By name.
    """
    if not self._enabled:
      return
    self._lines.write(json.dumps({'step': step, 'kind': kind, **values}) + '\n')
    self._lines.flush()
    for name, value in values.items():
      if value is not None:
        self._events.add_scalar(f'{kind}/{name}', value, step)

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes an RGB picture, uint8 `[h, w, 3]`, as a PNG file and as an event."""
    if self._enabled:
      save_png(self._pictures / f'{name}_step_{step:07d}.png', image)
      self._events.add_image(name, image, step, dataformats='HWC')

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._enabled:
      self._lines.close()
      self._events.close()


class StepMonitor:
  """Fetches the metrics of each step a little later, so that the device never waits, and checks them."""

  def __init__(self):
    self._in_flight: deque[tuple[int, StepMetrics]] = deque()
    self._interval: StepMetrics | None = None
    self.loss = math.nan

  def add(self, step: int, metrics: StepMetrics) -> None:
    """Takes the metrics of the update that made `step`.

    Raises:
      RunError: An earlier step's loss or gradient was not finite.
    """
    self._in_flight.append((step, metrics))
    while len(self._in_flight) > _STEPS_IN_FLIGHT:
      self._fetch()

  def drain(self) -> None:
    """Waits for all steps added, and checks them; raises as `add`."""
    while self._in_flight:
      self._fetch()

  def interval(self) -> dict[str, float]:
    """Means over the steps since the last call."""
    self.drain()
    values: dict[str, Any] = self._interval.compute() if self._interval is not None else {}
    self._interval = None
    return {name: float(value) for name, value in values.items()}

  def _fetch(self) -> None:
    step, metrics = self._in_flight.popleft()
    metrics = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), metrics)
    values = metrics.compute()
    self.loss = float(values['loss'])
    for name in ('loss', 'gradient_norm'):
      if not np.isfinite(values[name]):
        raise RunError(
          f'step {step}: {name} is {float(values[name])}. The run is stopped and no checkpoint of this '
          'or a later step is written. Try a lower optimizer.learning_rate, or optimizer.warmup_steps'
        )
    self._interval = metrics if self._interval is None else self._interval.merge(metrics)
