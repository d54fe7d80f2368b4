"""How many training records a second the input pipeline delivers, by placement and number of workers."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.device import device_description, device_mesh
from dense_aspp_jax.benchmark.timing import measure
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.train_batches import train_batches
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.config import plain


def benchmark_input(config: ConfigDict, *, repeats: int, generate: bool = True) -> dict[str, Any]:
  """Times `train_batches` alone: nothing is computed with the batches.

  On the host it measures threads (0 workers) and powers of 2 up to the number of CPUs; then the device, if
  the split fits there.

  Args:
    config: Checked.
    repeats: See `measure`.
    generate: Whether to prepare generated data sets first, if they are not prepared.

  Raises:
    InputError: A data set is not prepared.
  """
  data, batch_size = Data(**config.data), config.training.batch_size
  if not generate:
    for part in data.parts:
      open_split(part.datasets[0], part.train_split, part.data_dir, part.held_out)
  split = data.open_train()
  powers = [2**i for i in range((os.cpu_count() or 1).bit_length())]
  rows = []
  for on_device, num_workers in [*((False, n) for n in (0, *powers)), (True, 0)]:
    try:
      batches = train_batches(
        split,
        batch_size=batch_size,
        seed=config.seed,
        start_step=0,
        sharding=NamedSharding(device_mesh(), P('data')),
        on_device=on_device,
        num_workers=num_workers,
      )
    except InputError as error:
      if not on_device:
        raise
      say(f'not measured: {error}')
      break
    with contextlib.closing(batches):  # ends reading threads and processes
      timing = measure(batches.__next__, repeats=repeats, in_flight=0)
    rows.append({'on_device': on_device, 'num_workers': num_workers, **timing.to_json(batch_size)})
  return {
    'mode': 'input',
    'batch_size': batch_size,
    'image_size': list(data.image_size),
    'dataset': plain(data.dataset),
    'records': len(split),
    **device_description(),
    'settings': rows,
  }
