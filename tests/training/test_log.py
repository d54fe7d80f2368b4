import io
import json
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import record_writer

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.training import monitor as monitor_module
from dense_aspp_jax.training.log import RunLog
from dense_aspp_jax.training.monitor import StepMonitor


class Rows:
  """Stands for a RunLog."""

  def __init__(self):
    self.rows = []

  def scalars(self, step, kind, values):
    assert kind == 'train'
    self.rows.append((step, values))


def make_metrics(loss=1.0, gradient_norm=1.0, rate=0.1):
  values = {'loss': loss, 'pixel_accuracy': 0.5, 'gradient_norm': gradient_norm, 'learning_rate': rate}
  return {name: jnp.float32(value) for name, value in values.items()}


def test_means_are_of_all_steps_of_an_interval_and_the_last_one_may_be_short():
  log = Rows()
  monitor = StepMonitor(log, log_every=3, batch_size=4)
  monitor.start()
  for step, loss in enumerate((1, 2, 6, 4, 8), start=1):
    monitor.add(step, make_metrics(loss, 2 * loss, rate=step))
  with monitor.paused():
    assert monitor.latest['loss'] == '8.000'
  monitor.finish()
  names = ('loss', 'gradient_norm', 'pixel_accuracy', 'learning_rate')
  assert [step for step, _ in log.rows] == [3, 5]
  np.testing.assert_allclose([[v[n] for n in names] for _, v in log.rows], [[3, 6, 0.5, 3], [6, 12, 0.5, 5]])


def test_the_rate_counts_images_over_the_time_between_pauses(monkeypatch):
  clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
  monkeypatch.setattr(monitor_module, 'time', clock)
  log = Rows()
  monitor = StepMonitor(log, log_every=2, batch_size=4)
  monitor.start()
  monitor.add(1, make_metrics())
  clock.now += 1
  with monitor.paused():
    clock.now += 100
  clock.now += 3
  monitor.add(2, make_metrics())
  with monitor.paused():
    pass
  monitor.add(3, make_metrics())
  monitor.add(4, make_metrics())
  clock.now += 1
  with monitor.paused():
    pass
  assert [(step, v['images_per_second']) for step, v in log.rows] == [(2, 8 / 4), (4, 8 / 1)]


def test_the_wait_for_data_is_a_share_of_the_time_between_pauses(monkeypatch):
  clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
  monkeypatch.setattr(monitor_module, 'time', clock)
  log = Rows()
  monitor = StepMonitor(log, log_every=2, batch_size=4)
  monitor.start()
  for step, (wait, rest) in enumerate([(1, 3), (2, 2), (0, 4)], start=1):
    with monitor.waiting_for_data():
      clock.now += wait
    clock.now += rest
    monitor.add(step, make_metrics())
    with monitor.paused():
      clock.now += 100
  assert monitor.latest['data_wait'] == '37.5%'
  text = monitor.finish()
  assert [(step, v['data_wait']) for step, v in log.rows] == [(2, 3 / 8), (3, 0.0)]
  assert text == '12 images in 12 s of training, 1.0 images/s; waited for data 25.0 % of this time at most'


@pytest.mark.parametrize(('name', 'value'), [('loss', 'nan'), ('loss', 'inf'), ('gradient_norm', 'nan')])
def test_what_is_not_finite_is_noticed_two_steps_later_or_at_a_pause(name, value):
  monitor = StepMonitor(Rows(), log_every=10, batch_size=4)
  monitor.start()
  monitor.add(1, make_metrics(**{name: float(value)}))
  monitor.add(2, make_metrics())
  with pytest.raises(RunError, match=rf'step 1: {name} is {value}'):
    monitor.add(3, make_metrics())
  monitor.add(4, make_metrics(**{name: float(value)}))
  with pytest.raises(RunError, match=rf'step 4: {name} is {value}'), monitor.paused():
    pytest.fail('entered a pause')


def test_null_is_no_event_and_zero_is_one(tmp_path):
  log = RunLog(tmp_path, 0)
  log.scalars(1, 'validation', {'present': 0.0, 'absent': None})
  log.close()
  assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {
    'step': 1,
    'kind': 'validation',
    'present': 0.0,
    'absent': None,
  }
  events = EventAccumulator(str(tmp_path / 'tensorboard'))
  events.Reload()
  assert events.Tags()['scalars'] == ['validation/present']


@pytest.mark.parametrize('buffering', [0, -1])
def test_events_that_cannot_be_written_are_given_up_and_the_run_goes_on(
  tmp_path, monkeypatch, capsys, buffering
):
  """More of them than any queue holds."""
  with pathlib.Path('/dev/full').open('wb', buffering=0) as full:
    file = full if buffering == 0 else io.BufferedWriter(full)
    monkeypatch.setattr(record_writer, 'open_file', lambda path: file)
    log = RunLog(tmp_path, 0)
    for step in range(300):
      log.scalars(step, 'train', {'loss': 1.0, 'rate': 2.0})
    log.close()
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 300
  (warning,) = capsys.readouterr().err.splitlines()
  assert f'{tmp_path}/tensorboard: cannot be written (No space left on device)' in warning


def test_a_folder_of_events_that_cannot_be_made_is_a_warning(tmp_path, capsys):
  (tmp_path / 'tensorboard').write_text('')
  log = RunLog(tmp_path, 0)
  log.scalars(1, 'train', {'loss': 1.0})
  log.close()
  assert 'no more events' in capsys.readouterr().err
  assert (tmp_path / 'metrics.jsonl').exists()


def test_a_full_disk_in_the_lines_is_one_error_and_closing_is_none(tmp_path, monkeypatch):
  open_path = pathlib.Path.open

  def open_full(self, *args, **options):
    return open_path(pathlib.Path('/dev/full') if self.suffix == '.jsonl' else self, *args, **options)

  monkeypatch.setattr(pathlib.Path, 'open', open_full)
  log = RunLog(tmp_path, 0)
  with pytest.raises(RunError, match=r'metrics.jsonl: cannot be written \(No space left on device\)'):
    log.scalars(1, 'train', {'loss': 1.0})
  log.close()


def test_lines_that_are_no_lines_of_a_run_are_dropped_on_resume(tmp_path):
  lines = [
    b'{"step": 1, "kind": "train"}',
    b'3',
    b'{"kind": "train"}',
    b'\xff\x00',
    b'{"step": 2, "kind": "tr',
  ]
  (tmp_path / 'metrics.jsonl').write_bytes(b'\n'.join(lines))
  RunLog(tmp_path, 2).close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == lines[0] + b'\n'


def test_repeated_steps_are_forgotten_by_tensorboard(tmp_path):
  for first, value in ((0, 1.0), (2, 3.0)):
    (tmp_path / str(first)).mkdir()
    log = RunLog(tmp_path / str(first), first)
    for step in range(first + 1, 5):
      log.scalars(step, 'train', {'loss': value})
    log.close()
    (path,) = (tmp_path / str(first) / 'tensorboard').iterdir()
    (tmp_path / f'events.out.tfevents.{first}').write_bytes(path.read_bytes())
  events = EventAccumulator(str(tmp_path))
  events.Reload()
  found = [(event.step, event.value) for event in events.Scalars('train/loss')]
  assert found == [(1, 1.0), (2, 1.0), (3, 3.0), (4, 3.0)]


def skipped(loss='nan'):
  return {**make_metrics(float(loss)), 'skipped': jnp.bool_(True)}


def test_updates_left_out_are_counted_and_in_no_mean(capsys):
  log = Rows()
  monitor = StepMonitor(log, log_every=3, batch_size=4, max_skipped=2)
  monitor.start()
  kept = {**make_metrics(3.0), 'skipped': jnp.bool_(False)}
  for step, metrics in enumerate((kept, skipped(), skipped('inf'), kept, kept, skipped()), start=1):
    monitor.add(step, metrics)
  with monitor.paused():
    pass
  rows = [(step, values['loss'], values['skipped_steps']) for step, values in log.rows]
  assert rows == [(3, 3, 2), (6, 3, 1)]
  said = [line for line in capsys.readouterr().err.splitlines() if 'left out' in line]
  assert [line.split(':')[0] for line in said] == ['step 2', 'step 3', 'step 6']
  assert [line.split(', ')[-1] for line in said] == ['1 in a row', '2 in a row', '1 in a row']


def test_more_in_a_row_than_allowed_end_the_run():
  monitor = StepMonitor(Rows(), log_every=10, batch_size=4, max_skipped=2)
  monitor.start()
  for step in (5, 6):
    monitor.add(step, skipped())
  monitor.add(7, skipped())
  with pytest.raises(RunError, match=r'steps 5 to 7: 3 updates'), monitor.paused():
    pytest.fail('entered a pause')
