import json
import os
import pathlib
import subprocess
import sys

import pytest
from tiny_network import SHALLOW
from xla_flags import xla_flags

from dense_aspp_jax.benchmark import timing
from dense_aspp_jax.commands.main import main

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
  f'--config={ROOT}/configs/default.py',
  *(f'--config.model.{name}={value}' for name, value in SHALLOW.items()),
  '--config.seed=3',
  '--repeats=1',
]


def test_training_and_inference_need_neither_tfds_nor_grain_nor_clu(tmp_path):
  """Where these are missing everything is measured but the input, and written twice."""
  output = tmp_path / 'results.json'
  arguments = [*TINY, '--batch=8', '--image-size', '32', '64', f'--output={output}']
  arguments += ['--device=cpu', '--threads=1']
  code = f"""
import sys
for name in ('tensorflow', 'tensorflow_datasets', 'grain', 'array_record', 'clu', 'torch', 'onnx'):
  sys.modules[name] = None  # importing it fails
from dense_aspp_jax.benchmark import timing
from dense_aspp_jax.commands.main import main
timing.REPEAT_SECONDS = 0.01
sys.exit(main(['benchmark', *{arguments!r}]))
"""
  environment = {**os.environ, 'XLA_FLAGS': xla_flags(1)}
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
  )
  assert done.returncode == 0, done.stderr
  assert 'input is not measured' in done.stderr
  assert 'not compared: eager, compile, onnxruntime, openvino; not installed: torch, onnx' in done.stderr
  *text, last = done.stdout.splitlines()
  record = json.loads(last)
  assert json.loads(output.read_text()) == [record]
  assert [result['mode'] for result in record['results']] == ['inference', 'train']
  inference, train = record['results']
  assert train['flops_per_step'] == 3 * inference['flops_per_step']
  for result in record['results']:
    assert (result['batch_size'], result['image_size']) == (8, [32, 64])
    assert (result['device'], result['num_devices'], result['compute_dtype']) == ('cpu', 1, 'float32')
    assert 0 < result['share_of_peak_flops'] < 1
    assert result['cpu_ms_per_step'] > 0
  assert record['config']['data']['image_size'] == [32, 64]
  assert record['seed'] == 3
  assert record['provenance']['libraries']['jax']
  assert [line for line in text if not line.startswith(' ')] == [
    'inference: 8 images of 32x64, float32, on 1 x cpu, 1 thread; fused',
    'train: 8 images of 32x64, float32, on 1 x cpu, 1 thread; fused',
  ]


def test_the_input_of_a_prepared_data_set_is_measured(scene_folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(timing, 'REPEAT_SECONDS', 0.01)
  monkeypatch.setattr('os.cpu_count', lambda: 1)
  arguments = [f'--config.data.dataset=folder:{scene_folder}', f'--config.data.data_dir={tmp_path}']
  assert main(['benchmark', *TINY, *arguments, '--mode=input', '--image-size', '32', '64']) == 0
  out = capsys.readouterr().out.splitlines()
  (result,) = json.loads(out[-1])['results']
  assert result['records'] == 16
  assert len(result['settings']) == 3
  assert [line.split()[0].rstrip(',') for line in out[2:-1]] == ['host', 'host', 'device']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--mode=input', '--config.data.data_dir=/nowhere'], "dataset 'cityscapes' is not prepared in /nowhere"),
    (['--repeats=0'], '--repeats 0: expected at least 1'),
    (['--batch=0'], 'config.training.batch_size = 0: expected an integer of at least 1'),
    (['--batch=12'], 'config.training.batch_size = 12: expected a multiple of 8'),
    (['--image-size', '0', '64'], 'config.data.image_size = (0, 64)'),
    (['--output=/'], '/: cannot be read'),
    (['--threads=0'], '--threads 0: expected 1 to'),
    (['--threads=4096'], '--threads 4096: expected 1 to'),
    (['--peers', 'all', 'eager'], "'all' and 'none' stand alone"),
    (['--peers', 'eager', '--mode=memory'], 'only train and inference are compared'),
    (['--peers', 'openvino', '--mode=train'], '--peers openvino: '),
    ([f'--trace={__file__}'], 'is not a directory that can be written; choose another --trace'),
  ],
)
def test_bad_input_is_said_before_anything_is_measured(arguments, message, capsys):
  assert main(['benchmark', *TINY, *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1
