"""The input of training: the host reads records in a reproducible order, the device gets uint8 batches.

The order of the training data is a function of (seed, step) alone, so a run resumes at any step without
saved iterator state, with any number of workers and processes. Two placements give the same batches bit
for bit: on the host, from the cache on disk, through Grain; or on the device, where a split that fits
is kept whole, for small hosts that feed a fast accelerator.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from absl import flags

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import progress

_BATCHES_AHEAD = 2  # on their way to the device while it computes
_READ_THREADS = 4
_SECONDS_BETWEEN_LOOKS = 1.0
_GIB = 2**30


def train_indices(num_examples: int, batch_size: int, seed: int) -> grain.MapDataset:
  """The order of the training data.

  Each epoch is a fresh permutation of all examples; batches run on across the ends of epochs, so none
  is smaller and no example is left out.

  Args:
    num_examples: Examples in the split.
    batch_size: Examples in a global batch.
    seed: 0 <= seed < 2**32.

  Returns:
    Endless random access: `[step]` gives the indices of the step's global batch, int `[batch_size]`.
  """
  if batch_size < 1:
    raise InputError(f'batch_size: {batch_size}; expected at least 1')
  if not 0 <= seed < 2**32:
    raise InputError(f'seed: {seed}; expected 0 <= seed < 2**32')
  return (
    grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)
  )


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
  """The rows of every global batch that a process reads; contiguous, as the mesh places them.

  Raises:
    InputError: The batch does not divide among the processes.
  """
  if batch_size % process_count:
    raise InputError(
      f'batch_size: {batch_size} does not divide among {process_count} processes; choose a multiple'
    )
  rows = batch_size // process_count
  return slice(process_index * rows, (process_index + 1) * rows)


def host_batches(
  examples: Sequence[CachedExample],
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  process_index: int = 0,
  process_count: int = 1,
  num_workers: int = 0,
) -> grain.DatasetIterator:
  """Reads a process's rows of each training batch, endlessly.

  Args:
    examples: The split; all of one size.
    batch_size: Of the global batch.
    seed: Of the order.
    start_step: Step of the first batch.
    process_index: Which process reads.
    process_count: How many read.
    num_workers: Processes that read ahead; 0: threads of this process. Both give the same batches.

  Returns:
    An iterator of {'image': uint8 `[rows, h, w, 3]`, 'label': uint8 `[rows, h, w]`}; call its `close()`
    when done, or worker processes stay behind.

  Raises:
    InputError: The batch does not divide among the processes.
  """
  rows = process_rows(batch_size, process_index, process_count)
  batches = train_indices(len(examples), batch_size, seed)[start_step:].map(_ReadBatch(examples, rows))
  dataset = batches.to_iter_dataset(grain.ReadOptions(_READ_THREADS, prefetch_buffer_size=_READ_THREADS))
  if num_workers:
    # Grain reads its flags, which only an absl app parses (google/grain issue 1355).
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)
    dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    dataset = dataset.map(_out_of_shared_memory)
  return iter(dataset)


class DeviceSplit:
  """A whole split in the memory of every device of a mesh."""

  def __init__(self, examples: Sequence[CachedExample], sharding: jax.sharding.NamedSharding):
    """Reads all examples and places them.

    Args:
      examples: The split; all of one size.
      sharding: Of the batches.

    Raises:
      InputError: The split is larger than the free memory of a device, where that is known.
    """
    height, width = examples[0].label.shape
    _check_device_memory(len(examples) * height * width * 4, sharding)
    image = np.empty((len(examples), height, width, 3), np.uint8)
    label = np.empty((len(examples), height, width), np.uint8)

    def read(index: int) -> None:
      example = examples[index]
      image[index], label[index] = example.image, example.label

    with concurrent.futures.ThreadPoolExecutor(_READ_THREADS) as executor:
      read_all = executor.map(read, range(len(examples)))
      collections.deque(progress(read_all, 'loading the device', len(examples), 'image'), maxlen=0)
    everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    self._split = {
      name: jax.make_array_from_process_local_data(everywhere, array, array.shape)
      for name, array in (('image', image), ('label', label))
    }
    self._sharding = sharding
    self._gather = jax.jit(
      lambda split, indices: {name: array[indices] for name, array in split.items()}, out_shardings=sharding
    )

  def batch(self, indices: np.ndarray) -> dict[str, jax.Array]:
    """Gathers a global batch: row i is example `indices[i]`."""
    rows = process_rows(len(indices), jax.process_index(), jax.process_count())
    indices = np.asarray(indices, np.int32)
    placed = jax.make_array_from_process_local_data(self._sharding, indices[rows], indices.shape)
    return self._gather(self._split, placed)


def train_batches(
  examples: Sequence[CachedExample],
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  sharding: jax.sharding.NamedSharding,
  on_device: bool,
  num_workers: int,
) -> Iterator[dict[str, jax.Array]]:
  """Global training batches on the devices, endlessly, from `start_step` on.

  Args:
    examples: The training split (`CacheSplit`); all of one size.
    batch_size: Of the global batch; a multiple of the number of devices and of processes.
    seed: Of the order.
    start_step: Step of the first batch.
    sharding: Of the batch: its first axis over the mesh.
    on_device: Whether the whole split lives on the device.
    num_workers: Reading processes, 0: threads; not used where `on_device`.

  Returns:
    A generator of {'image': uint8 `[batch, h, w, 3]`, 'label': uint8 `[batch, h, w]`}; its `close()`
    ends the reading.

  Raises:
    InputError: The batch does not divide among devices and processes, or the split does not fit.
  """
  devices = sharding.mesh.size
  if batch_size % devices:
    raise InputError(f'batch_size: {batch_size} does not divide among {devices} devices; choose a multiple')
  if on_device:
    indices = train_indices(len(examples), batch_size, seed)
    return _gathered(DeviceSplit(examples, sharding), indices, start_step)
  batches = host_batches(
    examples,
    batch_size=batch_size,
    seed=seed,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_workers=num_workers,
  )
  return _placed(batches, batch_size, sharding)


@dataclasses.dataclass(frozen=True)
class _ReadBatch:
  """Reads the rows of a global batch, given its indices; goes to the worker processes."""

  examples: Sequence[CachedExample]
  rows: slice

  def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    read = [self.examples[int(index)] for index in indices[self.rows]]
    return {
      'image': np.stack([example.image for example in read]),
      'label': np.stack([example.label for example in read]),
    }


def _out_of_shared_memory(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Copies what a worker process sent, so that its shared memory does not live as long as a batch."""
  return {name: array.copy() for name, array in batch.items()}


def _begin_worker(index: int, count: int) -> None:
  """Leaves signals that reach a whole group of processes to the parent, and ends when the parent is gone."""
  del index, count
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
  while os.getppid() == parent:
    time.sleep(_SECONDS_BETWEEN_LOOKS)
  os._exit(1)


def _gathered(
  split: DeviceSplit, indices: grain.MapDataset, start_step: int
) -> Iterator[dict[str, jax.Array]]:
  step = start_step
  while True:
    yield split.batch(indices[step])
    step += 1


def _placed(
  batches: grain.DatasetIterator, batch_size: int, sharding: jax.sharding.NamedSharding
) -> Iterator[dict[str, jax.Array]]:
  """Sends batches on their way before they are asked for, so that the transfer overlaps computation."""
  on_their_way = collections.deque()
  try:
    for batch in _explained(batches):
      on_their_way.append(
        {
          name: jax.make_array_from_process_local_data(sharding, array, (batch_size, *array.shape[1:]))
          for name, array in batch.items()
        }
      )
      if len(on_their_way) > _BATCHES_AHEAD:
        yield on_their_way.popleft()
  finally:
    batches.close()


def _explained(batches: grain.DatasetIterator) -> Iterator[dict[str, np.ndarray]]:
  """Says what to do where a reading process was killed."""
  try:
    yield from batches
  except RuntimeError as error:
    if 'terminated unexpectedly' not in str(error):
      raise
    raise RunError(
      f'a process that reads the data was killed ({str(error).splitlines()[0]}); the checkpoints are intact. '
      'See whether the memory is full, choose fewer data.num_workers, and start again to resume'
    ) from error


def _check_device_memory(num_bytes: int, sharding: jax.sharding.NamedSharding) -> None:
  for device in sharding.addressable_devices:
    stats = device.memory_stats()  # None on a CPU
    if not stats or 'bytes_limit' not in stats:
      continue
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0)
    if num_bytes > free:
      raise InputError(
        f'data.on_device: the split takes {num_bytes / _GIB:.2f} GiB, {device} has {free / _GIB:.2f} GiB '
        'free; set it to False, or choose a smaller image size'
      )
