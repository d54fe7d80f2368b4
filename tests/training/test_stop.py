import os
import signal

import pytest

from dense_aspp_jax.errors import Stopped
from dense_aspp_jax.training.stop import StopSignals


@pytest.fixture
def hang_up_handler():
  """Puts the handler of SIGHUP back."""
  before = signal.getsignal(signal.SIGHUP)
  yield
  signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
)
def test_a_signal_is_noted_and_ends_the_run_where_it_asks(number):
  before = signal.getsignal(number)
  stop = StopSignals()
  stop.__enter__()
  assert not stop.due(1)
  os.kill(os.getpid(), number)
  assert stop.due(1)
  with pytest.raises(Stopped) as stopped:
    stop.check()
  stop.__exit__(Stopped, stopped.value)
  assert stopped.value.signal == number
  assert signal.getsignal(number) == before


@pytest.mark.usefixtures('hang_up_handler')
def test_a_hang_up_that_is_ignored_stays_ignored():
  """As below nohup."""
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.due(1)
  assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
