"""Several processes as one run, by JAX's distributed runtime."""

from __future__ import annotations

import jax

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import be_silent


def initialize(
  coordinator: str | None = None,
  processes: int | None = None,
  process_id: int | None = None,
  heartbeat_timeout: int = 100,
) -> None:
  """Joins this process with the others of its run; called before anything uses a device.

  Without arguments JAX asks SLURM, Open MPI, Kubernetes or the TPU pod for all three. Only the first
  process shows progress.

  Args:
    coordinator: 'HOST:PORT' of the first process, reachable from all.
    processes: How many there are.
    process_id: Which one this is, 0 <= process_id < processes.
    heartbeat_timeout: Seconds after which a process that is gone ends the others.

  Raises:
    InputError: Only some of the three, or impossible values; or there is nothing to detect.
    RunError: The others did not come.
  """
  if heartbeat_timeout < 1:
    raise InputError(f'--heartbeat-timeout {heartbeat_timeout}: expected at least 1 second')
  given = (coordinator, processes, process_id)
  if any(x is not None for x in given):
    if any(x is None for x in given):
      raise InputError('--coordinator, --processes and --process-id: expected all three, or none of them')
    if not coordinator.rpartition(':')[2].isdecimal():
      raise InputError(f'--coordinator {coordinator}: expected HOST:PORT, such as host0:12345')
    if not 0 <= process_id < processes:
      raise InputError(
        f'--process-id {process_id} of --processes {processes}: expected 0 <= process id < processes'
      )
  try:
    jax.distributed.initialize(
      coordinator, processes, process_id, heartbeat_timeout_seconds=heartbeat_timeout
    )
  except ValueError as error:
    raise InputError(
      f'this is no cluster that JAX knows ({error}); give --coordinator, --processes and --process-id'
    ) from error
  except RuntimeError as error:
    raise RunError(f'the processes of the run did not find each other ({error})') from error
  if jax.process_index() > 0:
    be_silent()
