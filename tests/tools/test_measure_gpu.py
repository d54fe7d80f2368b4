"""The measurement on a GPU: its records, its processes, its tables, and all of it on a CPU."""

import json
import subprocess
import sys
import textwrap
import time

import pytest
from tiny_network import OVERRIDES

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.fused.kernel_calls import Layer, calls
from tools.measure_gpu import kernels
from tools.measure_gpu.results import Results
from tools.measure_gpu.supervise import supervise
from tools.measure_gpu.tables import tables

SETTINGS = {'device': 'cpu', 'config': 'configs/default.py', 'batch': 2, 'image_size': [32, 64]}
SPEED = {'ms_per_step': 8.0, 'images_per_second': 1000.0}


def results_in(folder, settings=SETTINGS, seconds=60):
  return Results(folder / 'results.json', settings, time.time() + seconds)


class TestResults:
  def test_a_later_process_goes_on_behind_what_has_ended(self, tmp_path):
    results_in(tmp_path).measure('trace', 'train', 1, lambda: {'ms': 3.0})
    later = results_in(tmp_path)
    assert later.measure('trace', 'train', 1, lambda: pytest.fail('measured twice'))['ms'] == 3.0
    assert later.of('trace')['train']['ms'] == 3.0

  def test_an_error_is_recorded_and_not_repeated(self, tmp_path):
    def fail():
      raise ValueError('no such\nkernel')

    assert results_in(tmp_path).measure('check', 'mosaic', 1, fail) is None
    later = results_in(tmp_path)
    assert later.get('check', 'mosaic')['error'] == 'ValueError: no such kernel'
    assert later.measure('check', 'mosaic', 1, lambda: pytest.fail('measured again')) is None
    assert later.of('check') == {}

  def test_what_the_time_does_not_allow_is_left_to_a_later_call(self, tmp_path):
    assert (
      results_in(tmp_path, seconds=2).measure('flags', 'default', 30, lambda: pytest.fail('begun')) is None
    )
    assert results_in(tmp_path).measure('flags', 'default', 30, lambda: SPEED)['ms_per_step'] == 8.0

  def test_other_settings_need_another_folder(self, tmp_path):
    results_in(tmp_path).measure('environment', 'all', 1, lambda: {})
    with pytest.raises(InputError, match='choose another folder'):
      results_in(tmp_path, settings=SETTINGS | {'batch': 16})


class TestSupervise:
  @pytest.fixture
  def command(self, tmp_path):
    """Makes a process that measures three units, the second of which ends it, or does not end."""

    def make(second, limit=0.5):
      script = tmp_path / 'measure.py'
      script.write_text(
        textwrap.dedent(f"""
          import os, pathlib, time
          from tools.measure_gpu.results import Results
          results = Results(pathlib.Path({str(tmp_path / 'results.json')!r}), {SETTINGS!r}, time.time() + 60)
          results.measure('a', 'first', 9, lambda: {{'process': os.getpid()}})
          results.measure('a', 'second', {limit}, lambda: {second})
          results.measure('a', 'third', 9, lambda: {{'process': os.getpid()}})
        """)
      )
      return [sys.executable, str(script)]

    return make

  @pytest.mark.parametrize(
    ('second', 'limit', 'reason'),
    [('os._exit(7)', 30, 'code 7'), ('time.sleep(60)', 0.5, 'longer than 0 s')],
  )
  def test_another_process_goes_on_behind_a_unit_that_ends_one(
    self, tmp_path, command, monkeypatch, second, limit, reason
  ):
    monkeypatch.setenv('PYTHONPATH', ':'.join(sys.path))
    supervise(tmp_path / 'results.json', SETTINGS, time.time() + 60, command(second, limit))
    records = json.loads((tmp_path / 'results.json').read_text())['stages']['a']
    assert reason in records['second']['error']
    assert records['first']['process'] != records['third']['process']

  def test_the_unit_that_runs_when_the_time_is_up_is_measured_later(self, tmp_path, command, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', ':'.join(sys.path))
    supervise(tmp_path / 'results.json', SETTINGS, time.time() + 3, command('time.sleep(60)', 90))
    assert set(json.loads((tmp_path / 'results.json').read_text())['stages']['a']) == {'first'}

  def test_a_process_that_ends_outside_of_a_unit_is_an_error(self, tmp_path):
    command = [sys.executable, '-c', 'raise SystemExit(5)']
    with pytest.raises(RunError, match='code 5'):
      supervise(tmp_path / 'results.json', SETTINGS, time.time() + 60, command)


class TestKernels:
  LAYER = Layer((2, 6, 8), 64, 32, 16, 16, masked=True)

  def test_a_form_is_compared_with_the_xla_form(self, monkeypatch):
    monkeypatch.setattr(kernels, 'TINY', {'tiny': self.LAYER})
    record = kernels.check('xla', 'cpu')
    assert record['passed']
    assert set(record['differences'].values()) == {0.0}

  def test_a_form_that_computes_something_else_does_not_pass(self, monkeypatch):
    monkeypatch.setattr(kernels, 'differences', lambda *_, **__: {'a': 0.001, 'b': 0.5})
    assert kernels.check('mosaic', 'cpu') == {'differences': {'a': 0.001, 'b': 0.5}, 'passed': False}

  def test_an_operation_moves_at_least_what_it_reads_and_writes(self):
    operations = {call.operation: call for call in calls(self.LAYER, 'xla')}
    assert operations['bn_relu_dot'].num_bytes == 2 * 6 * 8 * (32 + 16) * 2
    assert operations['bn_relu_dot_backward x4'].flops == 4 * operations['bn_relu_dot_backward'].flops


def test_tables_show_what_was_measured_and_what_failed():
  peer = {**SPEED, 'our_speed_over_theirs': 2.5, 'our_speed_over_theirs_range': [2.25, 2.75]}
  data = {
    'settings': SETTINGS,
    'stages': {
      'environment': {'all': {'device': 'NVIDIA H200', 'versions': {'jax': '0.12.0'}}},
      'check': {'mosaic': {'differences': {'aspp bn_relu_dot': 0.004}, 'passed': True}},
      'ratio': {'train': {'ours': SPEED, 'peers': {'compile': peer | {'peak_bytes_allocated': 2**34}}}},
      'memory': {'train': {'peak_bytes_in_use': 2**32}},
      'flags': {'default': {'started': 1.0, 'limit': 2.0}, 'no CUDA graphs': {'error': 'no such option'}},
    },
  }
  text = tables(data)
  assert 'NVIDIA H200' in text
  assert '2.50x (2.25 to 2.75)' in text
  assert '16.00 GiB' in text
  assert '4.00 GiB' in text
  assert '4.0e-03' in text
  assert 'no such option' in text
  assert '### Larger batch' not in text


@pytest.mark.slow
def test_everything_runs_on_a_cpu(tmp_path):
  arguments = [*('--device', 'cpu', '--batch', '1', '--image-size', '32', '64', '--repeats', '1'), *OVERRIDES]
  command = [
    sys.executable,
    '-m',
    'tools.measure_gpu',
    'run',
    str(tmp_path),
    *arguments,
    '--modes',
    'inference',
  ]
  subprocess.run(command, check=True)
  results = tmp_path / 'results.json'
  stages = json.loads(results.read_text())['stages']
  failed = [record for records in stages.values() for record in records.values() if 'error' in record]
  assert not failed
  assert {'check', 'ratio', 'trace', 'forms', 'kernels', 'flags', 'larger batch', 'memory'} < set(stages)
  shown = subprocess.run(
    [*command[:3], 'tables', str(results)], check=True, capture_output=True, text=True
  ).stdout
  assert 'bn_relu_dot' in shown
