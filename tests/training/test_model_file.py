"""A trained network as one file: the same predictions anywhere, and nothing but a whole file is taken."""

import json
import shutil
import struct

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

import dense_aspp_jax
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import write_json
from dense_aspp_jax.results.packed_model import pack_run
from dense_aspp_jax.training.model_file import read_model_file, write_model_file
from dense_aspp_jax.training.run import load_model, load_run, model_label_set


@pytest.fixture(scope='module', autouse=True)
def _on_one_device(one_device):
  pass


@pytest.fixture(scope='module')
def packed(tiny_run, tmp_path_factory):
  path = tmp_path_factory.mktemp('packed') / 'tiny.safetensors'
  pack_run(load_run(tiny_run), path)
  return path


@pytest.fixture
def image():
  return np.random.default_rng(0).integers(0, 256, (40, 72, 3), np.uint8)


def content_of(path):
  with safetensors.safe_open(path, 'np') as file:
    return json.loads(file.metadata()['dense_aspp_jax'])


def rewritten(path, target, tensors=None, **content):
  """A copy of a model file with other tensors, or other entries of its JSON; None: without the entry."""
  arrays = safetensors.numpy.load_file(path) | (tensors or {})
  entries = {key: value for key, value in (content_of(path) | content).items() if value is not None}
  arrays = {name: array for name, array in arrays.items() if array is not None}
  safetensors.numpy.save_file(arrays, target, {'dense_aspp_jax': json.dumps(entries)})
  return target


def test_kernels_are_rounded_once_and_all_else_is_exact(tiny_run, packed):
  there, here = (flatten_dict(load(p).variables) for load, p in ((load_run, tiny_run), (load_model, packed)))
  assert there.keys() == here.keys()
  for path, array in there.items():
    array = np.asarray(array)
    expected = array.astype(np.float16).astype(np.float32) if array.ndim > 1 else array
    np.testing.assert_array_equal(here[path], expected, strict=True)
  kinds = {array.dtype.name for array in safetensors.numpy.load_file(packed).values()}
  assert kinds == {'float16', 'float32'}


def test_in_float32_predictions_and_probabilities_are_those_of_the_run(tiny_run, tmp_path, image):
  path = tmp_path / 'tiny.safetensors'
  run = load_run(tiny_run)
  pack_run(run, path, 'float32')
  model = load_model(path)
  for outputs in ('classes', 'probabilities'):
    np.testing.assert_array_equal(model.predict(image, outputs), run.predict(image, outputs))
  assert [x.shape for x in model.predict_many([image, image])] == [(40, 72)] * 2
  assert (model.step, model.weights, model.bn, model.checkpoint) == (run.step, 'raw', 'running', 'best')
  assert model.label_set == model_label_set(path) == model_label_set(tiny_run) == run.label_set
  assert model.describe()['workdir'] == str(path)


def test_the_same_run_gives_the_same_bytes(tiny_run, packed, tmp_path):
  pack_run(load_run(tiny_run), tmp_path / 'again.safetensors')
  assert (tmp_path / 'again.safetensors').read_bytes() == packed.read_bytes()


def test_the_file_says_where_it_comes_from_without_a_path_of_the_machine(tiny_run, tmp_path):
  workdir = shutil.copytree(tiny_run, tmp_path / 'secret_home' / 'work')
  config = json.loads((workdir / 'config.json').read_text())
  config['data'].update(dataset=f'folder:{tmp_path}/secret_home/mine', data_dir=f'{tmp_path}/secret_home')
  write_json(workdir / 'config.json', config)
  start = {'step': 0, 'git_commit': 'abc', 'command': f'train.py --workdir={tmp_path}/secret_home/work'}
  write_json(workdir / 'provenance.json', [start])
  write_json(workdir / 'data.json', {'train': {'name': 'mine/train', 'fingerprint': 'f'}})
  path = tmp_path / 'mine.safetensors'
  record = pack_run(load_run(workdir), path)
  assert b'secret_home' not in path.read_bytes()
  assert record.config['data']['dataset'] == 'folder:mine'
  model = load_model(path)
  assert model.starts == [start | {'command': 'train.py --workdir=work'}]
  assert model.record.data == {'train': {'name': 'mine/train', 'fingerprint': 'f'}}
  assert list(model.record.terms) == ['folder:mine']


def test_a_packed_network_is_found_by_the_name_that_the_package_exports(packed, image):
  assert dense_aspp_jax.load_model(str(packed)).predict(image).shape == (40, 72)


def test_a_directory_is_loaded_with_what_was_asked_for_and_a_file_has_one_of_each(tiny_run, packed):
  assert load_model(tiny_run, 'best', 'raw').step == 0
  assert load_model(packed, 'best', 'raw', 'running').step == 0
  for asked in (dict(checkpoint='latest'), dict(weights='ema'), dict(bn='recalibrated')):
    with pytest.raises(InputError, match=f'tiny.safetensors: a model file with {next(iter(asked))} '):
      load_model(packed, **asked)
  for nothing in (None, 7, 'missing'):
    with pytest.raises(InputError, match=r'model|missing'):
      load_model(nothing)


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    (dict(format=2), 'format 2; this version .* reads format 1'),
    (dict(format=None), 'format None'),
    (dict(config=None), 'missing config'),
    (dict(config=7), 'sections of a configuration'),
    (dict(config={'model': {'extractor': 'densenet121'}}), 'missing|expected'),
    (dict(label_set={'classes': ['a', 'b']}), r'2 classes, but config.model.num_classes = 20'),
    (dict(label_set=[]), 'label_set'),
    (dict(step=-1), 'step'),
    (dict(step='1'), 'step'),
    (dict(starts=[1]), 'starts'),
    (dict(weights=3), 'weights'),
    (dict(sha256='0' * 64), 'changed since it was written'),
    (dict(tensors={'params/head/kernel': None}), 'params/head/kernel: missing'),
    (dict(tensors={'params/new': np.ones(2, np.float32)}), 'params/new: unknown'),
    (
      dict(tensors={'params/head/kernel': np.ones((1, 2), np.float16)}),
      r'params/head/kernel: .*\(1, 2\), not',
    ),
    (dict(tensors={'params/head/bias': np.ones(20, np.int32)}), 'params/head/bias: int32'),
    (dict(tensors={'params/head/bias': np.full(20, np.nan, np.float32)}), 'params/head/bias: not finite'),
  ],
)
def test_what_is_not_exactly_a_model_file_is_one_message(packed, tmp_path, changes, named):
  path = rewritten(packed, tmp_path / 'changed.safetensors', **changes)
  with pytest.raises(InputError, match=f'changed.safetensors: .*{named}') as caught:
    read_model_file(path)
  assert '\n' not in str(caught.value)
  assert 'again' in str(caught.value) or 'Update it' in str(caught.value)


@pytest.mark.parametrize(
  ('data', 'named'),
  [
    (b'', 'an empty file'),
    (b'PK\x03\x04' + bytes(60), 'not a model file'),
    (b'\x80\x02' + bytes(60), 'not a model file'),
    (b'<!DOCTYPE html><html>', 'a web page'),
    (b'version https://git-lfs.github.com/spec/v1', 'Git LFS'),
    (struct.pack('<Q', 2**60) + b'{', 'damaged'),
    (struct.pack('<Q', 2) + b'{}', 'of another program'),
  ],
)
def test_another_file_is_named_for_what_it_is(tmp_path, data, named):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(data)
  with pytest.raises(InputError, match=named):
    load_model(path)


def test_every_truncation_and_flipped_bit_is_found(packed, tmp_path):
  whole, path = packed.read_bytes(), tmp_path / 'x.safetensors'
  rng = np.random.default_rng(1)
  for length in (1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(InputError):
      read_model_file(path)
  header = 8 + struct.unpack('<Q', whole[:8])[0]
  for position in rng.integers(header, len(whole), 20):
    flipped = bytearray(whole)
    flipped[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(flipped)
    with pytest.raises(InputError, match=r'SHA-256|not finite'):
      read_model_file(path)


def test_weights_beyond_float16_are_refused_before_anything_is_written(tiny_run, packed, tmp_path):
  record, variables = read_model_file(packed)
  variables['params']['head']['kernel'] = np.full_like(variables['params']['head']['kernel'], 1e6)
  path = tmp_path / 'large.safetensors'
  with pytest.raises(InputError, match=r'params/head/kernel: values up to 1e\+06 .*--dtype float32'):
    write_model_file(path, variables, record)
  assert not path.exists()
  write_model_file(path, variables, record, 'float32')
  jax.tree.map(np.testing.assert_array_equal, read_model_file(path)[1], variables)
