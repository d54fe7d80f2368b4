"""A process for PyTorch, seen from the side that has JAX."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any


class PeerProcess:
  """A `pytorch_peer.Peer` in a process of its own: no library is shared, and it compiles while ours does."""

  def __init__(self, options: dict[str, Any]):
    context = multiprocessing.get_context('spawn')
    self._connection, other = context.Pipe()
    self._process = context.Process(target=_serve, args=(other, options), daemon=True)
    self._process.start()
    other.close()

  def send(self, method: str, *arguments: Any) -> None:
    """Calls a method; `receive` gets what it returns."""
    self._connection.send((method, arguments))

  def receive(self) -> Any:
    """What the method that was called first returned."""
    try:
      error, result = self._connection.recv()
    except EOFError:
      sys.exit('the process of PyTorch ended')
    if error:
      sys.exit(f'PyTorch: {error}')
    return result

  def call(self, method: str, *arguments: Any) -> Any:
    """Calls a method and waits for what it returns."""
    self.send(method, *arguments)
    return self.receive()


def _serve(connection: Any, options: dict[str, Any]) -> None:
  from pytorch_peer import serve

  serve(connection, **options)
