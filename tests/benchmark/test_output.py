import json

import pytest

from dense_aspp_jax.benchmark.output import append_result, lines, read_results
from dense_aspp_jax.errors import InputError


def test_results_are_appended_in_order(tmp_path):
  path = tmp_path / 'new' / 'results.json'
  assert read_results(path) == []
  for number in (1, 2, 3):
    append_result(path, {'number': number})
  assert json.loads(path.read_text()) == [{'number': 1}, {'number': 2}, {'number': 3}]
  assert [p.name for p in path.parent.iterdir()] == ['results.json']


@pytest.mark.parametrize('content', ['{"a": 1}', 'not JSON', None])
def test_what_is_no_list_is_refused_and_kept(content, tmp_path):
  path = tmp_path / 'results.json'
  if content is None:
    path.mkdir()
  else:
    path.write_text(content)
  with pytest.raises(InputError, match=r'results\.json: .*choose another --output'):
    append_result(path, {})
  assert content is None or path.read_text() == content


@pytest.mark.parametrize(
  ('fields', 'ending'),
  [
    (dict(implementation='fused', gpu_form='mosaic'), '; fused, dense blocks by mosaic'),
    (dict(implementation='reference', gpu_form='mosaic'), '; reference'),
    (dict(implementation='fused', gpu_form=None), '; fused'),
    ({}, ' on 2 x H200'),  # input
  ],
)
def test_the_form_that_a_gpu_runs_is_printed(fields, ending):
  result = dict(mode='memory', batch_size=8, image_size=[4, 6], num_devices=2, device='H200', forms={})
  assert next(lines({**result, **fields})).endswith(ending)
