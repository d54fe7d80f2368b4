import importlib.util

import pytest

from dense_aspp_jax.benchmark.peers.installed import PEERS, installed_peers, named_peers
from dense_aspp_jax.errors import InputError

ON_CPU = dict(modes=('inference', 'train'), device='cpu', compute_dtype='float32')


@pytest.fixture
def missing(monkeypatch):
  """The packages that are not installed, to be filled; all others are."""
  names = set()
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in names else object())
  return names


def test_all_that_are_installed_are_compared_and_the_others_are_said(missing, capsys):
  assert installed_peers(**ON_CPU) == list(PEERS)
  assert capsys.readouterr().err == ''
  missing.add('openvino')
  assert installed_peers(**ON_CPU) == ['eager', 'compile', 'onnxruntime']
  said = capsys.readouterr().err
  assert 'not compared: openvino' in said
  assert 'dense_aspp_jax[peers]' in said
  assert said.count('\n') == 1


@pytest.mark.parametrize(
  'where',
  [{'device': 'cuda'}, {'compute_dtype': 'bfloat16'}, {'modes': ('train',)}],
  ids=['gpu', 'bfloat16', 'training'],
)
def test_onnx_is_inference_in_float32_on_a_cpu(where, missing, capsys):
  assert installed_peers(**ON_CPU | where) == ['eager', 'compile']
  assert capsys.readouterr().err == ''
  with pytest.raises(InputError, match='--peers openvino: compares only with'):
    named_peers(['eager', 'openvino'], **ON_CPU | where)


def test_a_peer_that_was_named_must_be_installed(missing):
  assert named_peers(['compile', 'eager', 'compile'], **ON_CPU) == ['compile', 'eager']
  missing.add('torch')
  with pytest.raises(InputError, match=r'--peers eager: not installed: torch; pip install .*\[peers\]'):
    named_peers(['eager'], **ON_CPU)
  with pytest.raises(InputError, match=r'not installed: torch .*exports'):
    named_peers(['onnxruntime'], **ON_CPU)
