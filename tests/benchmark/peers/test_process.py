import os

import numpy as np
import pytest

from dense_aspp_jax.benchmark.peers.peer import Task
from dense_aspp_jax.benchmark.peers.process import PeerProcess
from dense_aspp_jax.errors import RunError

TASK = Task('inference', {}, {}, (0.0,) * 3, (1.0,) * 3, {}, {}, 'cpu', threads=7)


def test_a_peer_answers_in_order_from_a_process_of_its_own_until_it_ends():
  with PeerProcess('fake_peer:FakePeer', TASK) as peer:
    peer.send('run', 2)
    peer.send('logits', {})
    assert peer.receive() == (4.0, 6.0)
    with pytest.raises(RunError, match='MemoryError: no room for the logits'):
      peer.receive()
    description = peer.call('describe')
    assert description['threads'] == 7
    assert description['process'] != os.getpid()
    with pytest.raises(RunError, match='ended with code 3'):
      peer.call('prepare', None)
  with pytest.raises(ProcessLookupError):
    os.kill(description['process'], 0)


def test_large_requests_and_answers_do_not_wait_for_each_other():
  large = np.zeros(2**22, np.uint8)  # more than a pipe holds
  with PeerProcess('fake_peer:FakePeer', TASK) as peer:
    for _ in range(3):
      peer.send('echo', large)
    assert [len(peer.receive()) for _ in range(3)] == [len(large)] * 3
