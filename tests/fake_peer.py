"""A peer without another library, for tests of the process that it runs in."""

import os

from dense_aspp_jax.benchmark.peers.peer import Peer


class FakePeer(Peer):
  def __init__(self, task):
    self.task = task

  def logits(self, weights):
    raise MemoryError('no room\nfor the logits')

  def prepare(self, weights):
    os._exit(3)

  def run(self, steps):
    return 2.0 * steps, 3.0 * steps

  def describe(self):
    return {'threads': self.task.threads, 'process': os.getpid()}

  def echo(self, x):
    return x
