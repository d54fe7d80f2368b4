import json
import pathlib

import flax
import jax
import numpy as np
import pytest
from drawn_weights import draw_classifier
from small_extractors import SMALL_EXTRACTORS
from torch_files import write_pth

from dense_aspp_jax import checkpoint_io
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.extractors import EXTRACTORS, create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.weights.convert import ForeignWeights, read_classifier_weights
from dense_aspp_jax.weights.store import load_extractor_weights, merge_extractor, save_extractor_weights

TINY = dict(extractor='densenet_tiny', num_classes=4, dilation_rates=(1,), growth_rate=4, bottleneck_width=4)


@pytest.fixture(scope='module')
def foreign(tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'tiny.pth'
  write_pth(path, draw_classifier())
  return read_classifier_weights('densenet_tiny', path)


@pytest.fixture
def stored(foreign, tmp_path):
  save_extractor_weights(tmp_path / 'out[1]', foreign)
  return tmp_path / 'out[1]'


def variables_of(**changes):
  model = create_model(**{**TINY, **changes})
  rng = np.random.default_rng(0)
  shapes = abstract_variables(model)
  return model, jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes)


def flat(tree):
  return flax.traverse_util.flatten_dict(tree)


def test_what_is_written_is_read_back_and_the_classifier_is_left_out(foreign, stored):
  weights = load_extractor_weights(stored)
  for collection in ('params', 'batch_stats'):
    expected = flat(foreign.variables[collection]['extractor'])
    found = flat(weights.variables[collection])
    assert found.keys() == expected.keys()
    assert all((found[path] == expected[path]).all() for path in found)
  assert (weights.mean, weights.std) == (foreign.mean, foreign.std)
  description = json.loads((stored / 'weights.json').read_text())
  assert description['sha256'] == foreign.sha256
  assert description['source'] == 'torchvision'
  assert description['provenance']['libraries']['jax']


def test_networks_without_statistics_are_stored_too(tmp_path, monkeypatch):
  """ConvNeXt has no batch normalization."""
  monkeypatch.setitem(EXTRACTORS, 'convnext_tiny', SMALL_EXTRACTORS['small_convnext'])
  shapes = abstract_variables(create_classifier(create_extractor('convnext_tiny')))
  params = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes['params'])
  weights = ForeignWeights(
    'convnext_tiny', 'torchvision', {'params': params}, (0.5,) * 3, (0.5,) * 3, 'f.pth', 'a', 'b'
  )
  save_extractor_weights(tmp_path / 'out', weights)
  loaded = load_extractor_weights(tmp_path / 'out')
  assert set(loaded.variables) == {'params'}
  assert (loaded.variables['params']['stem_norm']['scale'] == 0.5).all()


def test_merging_replaces_the_extractor_and_nothing_else(foreign, stored):
  model, initial = variables_of()
  merged = flat(merge_extractor(initial, model.extractor, load_extractor_weights(stored)))
  initial, given = flat(initial), flat(foreign.variables)
  assert merged.keys() == initial.keys()
  for path, array in merged.items():
    expected = given[path] if path[1] == 'extractor' else initial[path]
    np.testing.assert_array_equal(array, expected)


def test_a_cut_extractor_takes_what_it_has(foreign, stored):
  model, initial = variables_of(last_layer='denseblock2')
  merged = flat(merge_extractor(initial, model.extractor, load_extractor_weights(stored)))
  paths = [path for path in merged if path[1] == 'extractor']
  assert not any('denseblock3' in path for path in paths)
  assert all((merged[path] == flat(foreign.variables)[path]).all() for path in paths)


def test_a_fourth_transition_and_the_norm_behind_it_stay_as_drawn(foreign, stored):
  model, initial = variables_of(fourth_transition=True)
  merged = flat(merge_extractor(initial, model.extractor, load_extractor_weights(stored)))
  new = {path[2] for path in merged if path[1] == 'extractor' and path not in flat(foreign.variables)}
  assert new == {'transition4'}
  np.testing.assert_array_equal(
    merged['params', 'extractor', 'norm5', 'scale'], flat(initial)['params', 'extractor', 'norm5', 'scale']
  )


def test_weights_that_may_not_be_read_are_not_called_other_files(stored, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'read_text', refuse)
  with pytest.raises(InputError, match=r'weights\.json: cannot be read \(Permission denied\)'):
    load_extractor_weights(stored)


def test_another_extractor_does_not_fit(stored):
  model, initial = variables_of(extractor='densenet_small')
  with pytest.raises(InputError, match=r'densenet_tiny do not fit .*denselayer1/norm1/mean \(32,\): \(8,\)'):
    merge_extractor(initial, model.extractor, load_extractor_weights(stored))


def test_an_output_that_holds_something_is_refused(foreign, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'mine.txt').write_text('precious')
  with pytest.raises(InputError, match='new or an empty folder'):
    save_extractor_weights(tmp_path / 'out', foreign)
  assert [p.name for p in tmp_path.rglob('*')] == ['out', 'mine.txt']


def test_an_output_that_cannot_be_written_leaves_nothing(foreign, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(RunError, match='cannot be written'):
    save_extractor_weights(tmp_path / 'file' / 'out', foreign)
  assert [p.name for p in tmp_path.rglob('*')] == ['file']


def test_a_checkpoint_that_orbax_cannot_write_leaves_nothing(foreign, tmp_path, monkeypatch):
  def fail(*_):
    raise ValueError('No space left on device\nmore')

  monkeypatch.setattr(checkpoint_io, 'start_saving', fail)
  with pytest.raises(RunError, match=r'out could not be written \(ValueError: No space left on device\)'):
    save_extractor_weights(tmp_path / 'out', foreign)
  assert not list(tmp_path.iterdir())


def damage_checkpoint(directory):
  for path in (directory / 'checkpoint').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (
      lambda d: (d / 'weights.json').write_text(
        (d / 'weights.json').read_text().replace('densenet_tiny', 'vgg16')
      ),
      'not converted weights .*vgg16',
    ),
    (lambda d: (d / 'weights.json').write_text('{"architecture": []}'), 'not converted weights'),
    (lambda d: (d / 'weights.json').unlink(), 'not converted weights'),
    (lambda d: (d / 'weights.json').write_text('{}'), 'not converted weights'),
    (damage_checkpoint, 'this checkpoint cannot be read'),
    (
      lambda d: (d / 'weights.json').write_text(
        (d / 'weights.json').read_text().replace('densenet_tiny', 'densenet_small')
      ),
      'this checkpoint cannot be read',
    ),
  ],
)
def test_damaged_weights_are_one_message(stored, damage, message):
  damage(stored)
  with pytest.raises(InputError, match=message) as caught:
    load_extractor_weights(stored)
  assert str(stored) in str(caught.value)
  assert '\n' not in str(caught.value)
