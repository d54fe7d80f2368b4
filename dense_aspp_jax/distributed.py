"""Runs of several processes, through JAX's distributed runtime."""

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
  """Connects this process to the others of its run. Call it before anything uses a device.

  Without arguments, JAX detects all three under SLURM, Open MPI, Kubernetes or on a TPU pod. Only the first
  process shows progress.

  Args:
    coordinator: 'HOST:PORT' of the first process, reachable from all.
    processes: Number of processes.
    process_id: Index of this process, 0 <= process_id < processes.
    heartbeat_timeout: Seconds after which the loss of one process ends the others.

  Raises:
    InputError: Only some of the three are given, a value is invalid, or no cluster is detected.
    RunError: The processes did not connect.
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
