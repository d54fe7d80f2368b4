"""The input of training: the host reads records in a reproducible order, the device gets uint8 batches.

The order is a function of (seed, step) alone, so a run resumes at any step without saved iterator state, with
any number of workers and processes. Each of several data sets has an order of its own. The examples are read
from the cache on disk through Grain, or, for small hosts that feed a fast accelerator, gathered from a split
that is kept in the memory of the device. Both give the same batches bit for bit.
"""

from __future__ import annotations

import collections
import errno
import functools
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from absl import flags

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.joined import JoinedSplit
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError, RunError, termination_signals
from dense_aspp_jax.progress import progress

_BATCHES_AHEAD = 2  # on their way to the device while it computes
_READ_THREADS = 4
_SECONDS_BETWEEN_CHECKS = 1.0
_SHARED_MEMORY = '/dev/shm'
_SEMAPHORES = 2**16  # bytes of shared memory: a page each
_GIB = 2**30


def train_indices(num_examples: int, batch_size: int, seed: int) -> grain.MapDataset:
  """The order of the training data.

  Each epoch is a fresh permutation of all examples. A batch may span two epochs, so that all have the same
  size and no example is left out.

  Returns:
    Endless random access: `[step]` gives the indices of the step's global batch, int `[batch_size]`.
  """
  return (
    grain.MapDataset.range(num_examples).seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)
  )


def batch_indices(examples: Sequence[CachedExample], batch_size: int, seed: int) -> grain.MapDataset:
  """The order of a training split as in `train_indices`, where each of several data sets has its own.

  A batch of a `JoinedSplit` has its `shares`, one data set after the other. The seed of the first is `seed`,
  that of the one at position i = 1, 2, ... the first word of `numpy.random.SeedSequence([seed, i])`.

  Args:
    examples: The split.
    batch_size: Images of a batch; of several data sets, the sum of their shares.
    seed: Of the order.
  """
  if not isinstance(examples, JoinedSplit):
    return train_indices(len(examples), batch_size, seed)
  seeds = (
    int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) if i else seed
    for i in range(len(examples.parts))
  )
  orders = [
    train_indices(len(part), share, own_seed)
    for part, share, own_seed in zip(examples.parts, examples.shares, seeds, strict=True)
  ]
  return grain.MapDataset.range(sys.maxsize).map(functools.partial(_joined_indices, orders, examples.starts))


def process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
  """The rows of every global batch that a process reads; contiguous, as the mesh places them."""
  rows = batch_size // process_count
  return slice(process_index * rows, (process_index + 1) * rows)


def host_batches(
  examples: Sequence[CachedExample], indices: grain.MapDataset, rows: slice, num_workers: int = 0
) -> grain.DatasetIterator:
  """Reads a process's rows of each training batch, endlessly.

  Args:
    examples: The split; all of one size.
    indices: Those of the global batches to come (`batch_indices`).
    rows: The process's rows of a batch (`process_rows`).
    num_workers: Processes that read ahead; 0: threads of this process. Both give the same batches.

  Returns:
    An iterator of {'image': uint8 `[rows, h, w, 3]`, 'label': uint8 `[rows, h, w]`}; call its `close()`
    when done, or worker processes stay behind.
  """
  batches = indices.map(functools.partial(_read_batch, examples, rows))
  dataset = batches.to_iter_dataset(grain.ReadOptions(_READ_THREADS, prefetch_buffer_size=_READ_THREADS))
  if num_workers:
    # Grain reads its flags, which only an absl app parses (google/grain issue 1355).
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)
    dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    # A copy frees the shared memory of the worker, which would live as long as the batch.
    dataset = dataset.map(lambda batch: {name: array.copy() for name, array in batch.items()})
  return iter(dataset)


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
    examples: The training split (`CacheSplit` or `JoinedSplit`); all of one size.
    batch_size: Of the global batch; a multiple of the number of devices.
    seed: Of the order.
    start_step: Step of the first batch.
    sharding: Of the batch: its first axis over the mesh.
    on_device: Whether to keep the whole split in the memory of the device.
    num_workers: Reading processes, 0: threads; not used where `on_device`.

  Returns:
    A generator of {'image': uint8 `[batch, h, w, 3]`, 'label': uint8 `[batch, h, w]`}; its `close()`
    ends the reading.

  Raises:
    InputError: The split does not fit in the memory of a device.
    RunError: The reading processes would have too little shared memory.
  """
  rows = process_rows(batch_size, jax.process_index(), jax.process_count())
  indices = batch_indices(examples, batch_size, seed)[start_step:]
  if on_device:
    split = _load_split(examples, sharding)
    return _gathered(split, indices, rows, sharding)
  if num_workers:
    _check_shared_memory(examples[0], rows, num_workers)
  return _placed(host_batches(examples, indices, rows, num_workers), batch_size, sharding)


def _joined_indices(orders: Sequence[grain.MapDataset], starts: Sequence[int], step: int) -> np.ndarray:
  return np.concatenate([order[step] + start for order, start in zip(orders, starts, strict=True)])


def _read_batch(examples: Sequence[CachedExample], rows: slice, indices: np.ndarray) -> dict[str, np.ndarray]:
  _, images, labels = zip(*(examples[int(index)] for index in indices[rows]), strict=True)
  return {'image': np.stack(images), 'label': np.stack(labels)}


def _begin_worker(index: int, count: int) -> None:
  """Leaves signals to the process group to the parent, and ends when the parent is gone."""
  del index, count
  for number in (signal.SIGINT, *termination_signals()):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
  while os.getppid() == parent:
    time.sleep(_SECONDS_BETWEEN_CHECKS)
  os._exit(1)


def _placed(
  batches: grain.DatasetIterator, batch_size: int, sharding: jax.sharding.NamedSharding
) -> Iterator[dict[str, jax.Array]]:
  """Transfers batches before they are asked for, while the device computes."""
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
  """Adds what to do to the errors for a killed reading process, a full /dev/shm and too many open files."""
  try:
    yield from batches
  except (RuntimeError, OSError) as error:
    reason = f'{error}'.splitlines()[0] if str(error) else type(error).__name__
    # Who writes into shared memory that has no room gets SIGBUS; nothing else that reads data needs space.
    no_space = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if no_space or f'terminated unexpectedly with exit code {-signal.SIGBUS}.' in str(error):
      raise _too_little_shared_memory(reason) from error
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
      limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
      raise RunError(
        f'the processes that read the data need more open files than the limit of {limit} ({reason}); the '
        'checkpoints are intact. Raise it (ulimit -n 4096), or choose fewer data.num_workers, and start '
        'again to resume'
      ) from error
    if 'terminated unexpectedly' not in str(error):
      raise
    raise RunError(
      f'a process that reads the data was killed ({reason}); the checkpoints are intact. '
      'See whether the memory is full, choose fewer data.num_workers, and start again to resume'
    ) from error


def _check_shared_memory(example: CachedExample, rows: slice, num_workers: int) -> None:
  """Raises RunError where not even one batch of each process fits: SIGBUS may then end this one, too."""
  try:
    space = os.statvfs(_SHARED_MEMORY)
  except OSError:  # a system without it
    return
  free = space.f_bavail * space.f_frsize
  batch = (rows.stop - rows.start) * (example.image.nbytes + example.label.nbytes)
  if free < (needed := num_workers * batch + _SEMAPHORES):
    raise _too_little_shared_memory(f'{free:,} bytes are free, {num_workers} batches need {needed:,}')


def _too_little_shared_memory(reason: str) -> RunError:
  return RunError(
    f'the processes that read the data have too little shared memory, {_SHARED_MEMORY} ({reason}); the '
    'checkpoints are intact. Give them more (docker run --shm-size=8g), or set data.num_workers=0, and start '
    'again to resume'
  )


def _load_split(
  examples: Sequence[CachedExample], sharding: jax.sharding.NamedSharding
) -> dict[str, jax.Array]:
  """The whole split in the memory of every device, where the free memory is enough or not known."""
  height, width = examples[0].label.shape
  needed = len(examples) * height * width * 4 / _GIB
  for device in sharding.addressable_devices:
    stats = device.memory_stats() or {}  # None on a CPU
    free = (stats.get('bytes_limit', np.inf) - stats.get('bytes_in_use', 0)) / _GIB
    if needed > free:
      raise InputError(
        f'data.on_device: the split takes {needed:.2f} GiB, {device} has {free:.2f} GiB free; set it to '
        'False, or choose a smaller image size'
      )
  split = {
    'image': np.empty((len(examples), height, width, 3), np.uint8),
    'label': np.empty((len(examples), height, width), np.uint8),
  }

  def read(index: int) -> None:
    _, split['image'][index], split['label'][index] = examples[index]

  read_all = map_in_threads(read, range(len(examples)))
  collections.deque(progress(read_all, 'loading the device', len(examples), 'image'), maxlen=0)
  everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return {
    name: jax.make_array_from_process_local_data(everywhere, array, array.shape)
    for name, array in split.items()
  }


def _gathered(
  split: dict[str, jax.Array], indices: grain.MapDataset, rows: slice, sharding: jax.sharding.NamedSharding
) -> Iterator[dict[str, jax.Array]]:
  """Takes global batches out of a split on the devices."""
  gather = jax.jit(
    lambda split, indices: {name: array[indices] for name, array in split.items()}, out_shardings=sharding
  )
  for batch in map(indices.__getitem__, itertools.count()):
    batch = np.asarray(batch, np.int32)
    yield gather(split, jax.make_array_from_process_local_data(sharding, batch[rows], batch.shape))
