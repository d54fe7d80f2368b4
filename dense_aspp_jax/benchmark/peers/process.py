"""A peer in a process of its own, apart from our libraries and the other peers'; so is its CPU time."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from dense_aspp_jax.benchmark.peers.peer import Task
from dense_aspp_jax.errors import RunError

_SECONDS_TO_END = 3.0


class PeerProcess:
  """Calls the methods of a `Peer`; a context manager, which ends the process."""

  def __init__(self, peer: str, task: Task):
    """Starts it.

    Args:
      peer: Module and name of the class, 'module:Class'.
      task: What it is given.
    """
    context = multiprocessing.get_context('spawn')  # a fork would have threads of ours that do not run
    self._connection, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, peer, task))
    self._process.start()
    theirs.close()  # so that its end is seen

  def __enter__(self) -> PeerProcess:
    return self

  def __exit__(self, *_: object) -> None:
    self._connection.close()  # which ends it, unless it is busy
    self._process.join(_SECONDS_TO_END)
    self._process.terminate()
    self._process.join()

  def send(self, method: str, *arguments: Any) -> None:
    """Calls a method after those that were called before, without waiting for it."""
    with contextlib.suppress(OSError):  # it has ended: the next `receive` says so
      self._connection.send((method, arguments))

  def receive(self) -> Any:
    """Waits for what the oldest call returned that was not received yet.

    Raises:
      RunError: The peer failed; its message is the other library's.
    """
    try:
      value, error = self._connection.recv()
    except (EOFError, OSError):
      self._process.join()
      raise RunError(f'its process ended with code {self._process.exitcode}') from None
    if error is not None:
      raise RunError(error)
    return value

  def call(self, method: str, *arguments: Any) -> Any:
    """Calls a method and waits for what it returns."""
    self.send(method, *arguments)
    return self.receive()


def _serve(connection: Connection, name: str, task: Task) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # ours ends it
  if task.cores and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, task.cores)
  module, _, cls = name.partition(':')
  peer, requests = None, queue.SimpleQueue()
  # Read at once: while an answer waits to be read by us, we may wait for the next request to be read.
  threading.Thread(target=_read, args=(connection, requests), daemon=True).start()
  for method, arguments in iter(requests.get, None):
    try:
      if peer is None:
        peer = getattr(importlib.import_module(module), cls)(task)
      answer = getattr(peer, method)(*arguments), None
    except Exception as error:  # whatever the library raises; not all of it can be pickled
      text = ' '.join(str(error).split())
      answer = None, f'{type(error).__name__}: {text[:500]}'
    connection.send(answer)


def _read(connection: Connection, requests: queue.SimpleQueue) -> None:
  with contextlib.suppress(EOFError, OSError):
    while True:
      requests.put(connection.recv())
  requests.put(None)
