import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
  '--config=configs/default.py',
  '--config.model.extractor=densenet_tiny',
  '--config.model.dilation_rates=(1, 3)',
  '--config.model.growth_rate=4',
  '--config.model.bottleneck_width=8',
  '--image-size',
  '50',
  '70',
]


def compare(*arguments):
  command = [sys.executable, 'tools/compare_pytorch.py', *TINY, '--device=cpu', '--batch=8', '--repeats=2']
  return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='torch is an extra')
@pytest.mark.parametrize(
  'fields',
  [
    (),
    (
      '--config.model.fourth_transition=True',
      '--config.model.output_stride=16',
      '--config.model.first_norm=False',
      '--config.model.final_norm=True',
      '--config.model.use_bias=True',
      '--config.model.rectify_features=True',
      '--config.model.bottleneck_width=0',
    ),
  ],
  ids=['default', 'everything else'],
)
def test_both_compute_the_same_and_are_timed_interleaved(fields, tmp_path):
  output = tmp_path / 'results.json'
  done = compare(*fields, f'--output={output}')
  assert done.returncode == 0, done.stderr
  record = json.loads(done.stdout.splitlines()[-1])
  assert json.loads(output.read_text()) == [record]
  assert record['logits_difference'] < 1e-5
  assert [result['mode'] for result in record['results']] == ['inference', 'train']
  for result in record['results']:
    low, high = result['eager']['our_speed_over_theirs_range']
    assert 0 < low <= result['eager']['our_speed_over_theirs'] <= high
    assert result['ours']['images_per_second'] == pytest.approx(8e3 / result['ours']['ms_per_step'])


def test_a_network_that_is_no_densenet_is_refused():
  done = compare('--config.model.extractor=mobilenet_v3_small')
  assert done.returncode == 1
  assert 'choose such a configuration' in done.stderr
