"""How many training records a second the input pipeline gives, by placement and number of workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from jax.sharding import NamedSharding

from dense_aspp_jax.benchmark.timing import measure
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.train_batches import train_batches
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import say


def input_speeds(
  examples: Sequence[CachedExample],
  *,
  batch_size: int,
  seed: int,
  sharding: NamedSharding,
  repeats: int,
  worker_counts: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
  """Measures `train_batches` alone: nothing is computed with the batches.

  Args:
    examples: The training split at the network's size.
    batch_size: Of the global batch.
    seed: Of the order.
    sharding: Of the batches.
    repeats: Of each measurement.
    worker_counts: Reading processes, 0: threads; None: 0 and the powers of 2 up to the number of CPUs.

  Returns:
    One row a setting: 'on_device' and 'num_workers' as the fields of `config.data`, and the figures of
    `Timing.to_json`. Without a row for the device where the split does not fit.
  """
  if worker_counts is None:
    worker_counts = [0, *(2**i for i in range((os.cpu_count() or 1).bit_length()))]

  def row(on_device: bool, num_workers: int) -> dict[str, Any]:
    batches = train_batches(
      examples,
      batch_size=batch_size,
      seed=seed,
      start_step=0,
      sharding=sharding,
      on_device=on_device,
      num_workers=num_workers,
    )
    with contextlib.closing(batches):  # ends reading threads and processes
      timing = measure(lambda: next(batches), repeats=repeats, in_flight=0)
    return {'on_device': on_device, 'num_workers': num_workers, **timing.to_json(batch_size)}

  rows = [row(False, count) for count in worker_counts]
  try:
    rows.append(row(True, 0))
  except InputError as error:
    say(f'not measured: {error}')
  return rows
