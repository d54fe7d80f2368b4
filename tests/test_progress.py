import io
import sys

from dense_aspp_jax import progress as progress_module
from dense_aspp_jax.progress import progress, progress_bar, say


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_items_pass_through_and_lines_are_plain_where_there_is_no_terminal(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  monkeypatch.setattr(progress_module, 'SECONDS_BETWEEN_LINES', 0)
  assert list(progress([1, 2, 3], 'counting', unit='sheep')) == [1, 2, 3]
  lines = stream.getvalue().splitlines()
  assert '\r' not in stream.getvalue()
  assert '\x1b' not in stream.getvalue()
  assert lines[-1].startswith('counting: 3/3 [')
  assert 'sheep/s' in lines[-1]


def test_a_resumed_run_goes_on_counting_where_there_is_no_terminal(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  with progress_bar(4, 'training', 'step', initial=3) as bar:
    bar.update()
  assert stream.getvalue().splitlines()[-1].startswith('training: 4/4 [')


def test_lines_come_at_most_every_ten_seconds(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  list(progress(range(1000), 'counting'))
  assert len(stream.getvalue().splitlines()) <= 3


def test_a_bar_with_rate_eta_and_loss_on_a_terminal(monkeypatch):
  stream = Terminal()
  monkeypatch.setattr(sys, 'stderr', stream)
  with progress_bar(4, 'training', 'step', initial=1) as bar:
    bar.set_postfix(loss='1.500')
    bar.update(3)
    bar.refresh()
  assert '4/4' in stream.getvalue()
  assert 'loss=1.500' in stream.getvalue()
  assert '\r' in stream.getvalue()


def test_say_writes_a_line(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stderr', stream)
  say('hello')
  assert stream.getvalue() == 'hello\n'
