"""Watches the steps of a run: the clock, the finite check, and how many updates may be skipped."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
from clu import metrics

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.log import RunLog
from dense_aspp_jax.training.train_step import StepMetrics

_STEPS_IN_FLIGHT = 2  # steps dispatched before the result of the first is waited for


# What steps measure; those of several steps merge into the figures of an interval.
IntervalMetrics = metrics.Collection.create(
  loss=metrics.Average.from_output('loss'),
  pixel_accuracy=metrics.Average.from_output('pixel_accuracy'),
  gradient_norm=metrics.Average.from_output('gradient_norm'),
  learning_rate=metrics.LastValue.from_output('learning_rate'),
)


class StepMonitor:
  """Checks and logs the metrics of each step a little later, so that the device never waits.

  It also logs `data_wait`: the share of the time that the loop waits for the next batch. The device has up to
  two steps to compute meanwhile, so it idles for lack of data for at most this share. The copy to the device,
  which starts two batches ahead, is not included.

  Attributes:
    latest: Loss, learning rate, images/s and `data_wait` of the last step known, for the progress bar.
  """

  def __init__(self, log: RunLog, log_every: int, batch_size: int, max_skipped: int = 0):
    """Logs the means over every `log_every` steps of `batch_size` images.

    At most `max_skipped` updates in a row may be skipped.
    """
    self._log, self._log_every, self._batch_size, self._max_skipped = log, log_every, batch_size, max_skipped
    self._skipped_in_a_row: list[int] = []
    self._interval_skipped = 0
    self._in_flight: deque[tuple[int, StepMetrics]] = deque()
    self._interval: list[IntervalMetrics] = []
    self._last_step, self._interval_start, self._interval_wait = 0, 0.0, 0.0
    self._total_images, self._total_seconds, self._total_wait = 0, 0.0, 0.0
    self.latest: dict[str, str] = {}

  def start(self) -> None:
    """Starts the clock of the first interval."""
    self._interval_start = time.perf_counter()

  def add(self, step: int, step_metrics: StepMetrics) -> None:
    """Takes the metrics of the update that made `step`.

    Raises:
      RunError: An update up to this one was not finite and not skipped, or too many in a row were skipped.
    """
    self._in_flight.append((step, step_metrics))
    while len(self._in_flight) > _STEPS_IN_FLIGHT:
      self._fetch()

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Counts the time inside as `data_wait`."""
    start = time.perf_counter()
    yield
    self._interval_wait += time.perf_counter() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Waits for all steps added, raising as `add` does; time inside counts for no rate."""
    while self._in_flight:
      self._fetch()
    start = time.perf_counter()
    try:
      yield
    finally:
      self._interval_start += time.perf_counter() - start

  def finish(self) -> str:
    """Logs the steps since the last full interval, after the last step's `paused`; a summary of all steps."""
    if self._interval or self._interval_skipped:
      self._log_interval()
    if not self._total_images:
      return 'no step was made'
    return (
      f'{self._total_images} images in {self._total_seconds:.0f} s of training, '
      f'{self._total_images / self._total_seconds:.1f} images/s; '
      f'waited for data {100 * self._total_wait / self._total_seconds:.1f} % of this time at most'
    )

  def _fetch(self) -> None:
    step, step_metrics = self._in_flight.popleft()
    values = {name: np.asarray(x.addressable_data(0)) for name, x in step_metrics.items()}  # waits
    self._last_step = step
    if values.pop('skipped', False):
      self._skip(step, values)
    else:
      self._skipped_in_a_row = []
      for name in ('loss', 'gradient_norm'):
        if not np.isfinite(values[name]):
          raise RunError(
            f'step {step}: {name} is {float(values[name])}. The run is stopped and no checkpoint of this '
            'or a later step is written. Try a lower optimizer.learning_rate, or optimizer.warmup_steps'
          )
      self.latest['loss'] = f'{float(values["loss"]):.3f}'
      self.latest['lr'] = f'{float(values["learning_rate"]):.1e}'
      self._interval.append(IntervalMetrics.single_from_model_output(**values))
    if step % self._log_every == 0:
      self._log_interval()

  def _skip(self, step: int, values: dict[str, np.ndarray]) -> None:
    """Counts a skipped update, which is in no mean."""
    self._interval_skipped += 1
    self._skipped_in_a_row.append(step)
    count = len(self._skipped_in_a_row)
    found = f'loss {float(values["loss"])}, gradient_norm {float(values["gradient_norm"])}'
    if count > self._max_skipped:
      raise RunError(
        f'steps {self._skipped_in_a_row[0]} to {step}: {count} updates in a row are not finite ({found}), '
        f'more than training.max_skipped_steps = {self._max_skipped}. The run is stopped; none of them '
        'changed anything. Try a lower optimizer.learning_rate, or optimizer.warmup_steps'
      )
    say(f'step {step}: the update is not finite ({found}) and left out, {count} in a row')

  def _log_interval(self) -> None:
    now = time.perf_counter()
    steps = len(self._interval) + self._interval_skipped
    images, elapsed = steps * self._batch_size, now - self._interval_start
    rate, data_wait = images / elapsed, self._interval_wait / elapsed
    self._total_images += images
    self._total_seconds += elapsed
    self._total_wait += self._interval_wait
    values = {'images_per_second': rate, 'data_wait': data_wait}
    if self._interval:
      merged = functools.reduce(lambda x, y: x.merge(y), self._interval)
      values = {**{name: float(value) for name, value in merged.compute().items()}, **values}
    if self._interval_skipped:
      values['skipped_steps'] = self._interval_skipped
    self._log.scalars(self._last_step, 'train', values)
    self.latest['images/s'] = f'{rate:.1f}'
    self.latest['data_wait'] = f'{100 * data_wait:.1f}%'
    self._interval, self._interval_start, self._interval_wait = [], now, 0.0
    self._interval_skipped = 0
