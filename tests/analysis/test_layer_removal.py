"""Zeroed rows against networks really built without the layers."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference
from patch_network import MEAN, STD, PatchExtractor, make_split, patch_model
from PIL import Image

from dense_aspp_jax.analysis.figures import save_figure
from dense_aspp_jax.analysis.layer_removal import (
  analyse_layer_removal,
  curves_figure,
  draw_predictions,
  format_removal_table,
  large_and_small,
  lost_first,
  removal_settings,
  remove_layers,
)
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.dense_layers import DenseLayer
from dense_aspp_jax.models.layers import BatchNorm

RATES, GROWTH, FEATURES = (1, 2, 3, 1), 3, 6
IMAGE = np.random.default_rng(1).normal(size=(2, 32, 48, 3)).astype(np.float32)


MODELS = {
  '1x1': dict(bottleneck_width=4),
  'no 1x1': dict(bottleneck_width=0),
  'as model 5': dict(bottleneck_width=4, first_norm=False, final_norm=True),
  'as the paper': dict(bottleneck_width=4, first_norm=False, use_bias=True, rectify_features=True),
}


class WithoutTheFirst(nn.Module):
  """A cascade whose first layer is gone: every layer left has the leading norm that it was trained with."""

  dilation_rates: tuple[int, ...]
  fields: dict[str, int | bool]

  @nn.compact
  def __call__(self, x, train=False):
    if self.fields.get('rectify_features'):
      x = nn.relu(x)
    for index, dilation in enumerate(self.dilation_rates, start=1):
      layer = DenseLayer(
        growth_rate=GROWTH,
        bottleneck_width=self.fields['bottleneck_width'],
        dilation=dilation,
        leading_norm=True,
        use_bias=self.fields.get('use_bias', False),
        dropout_rate=0.0,
        dtype=jnp.float32,
        name=f'layer{index}',
      )
      x = jnp.concatenate([x, layer([x], train)], axis=-1)
    return BatchNorm(name='norm')(x, train) if self.fields.get('final_norm') else x


@functools.cache
def build(name):
  """A network of `MODELS` with its variables."""
  model = patch_model(DenseASPP(RATES, GROWTH, **MODELS[name]), CAMVID_11.num_classes)
  return model, reference.random_variables(model, IMAGE)


def really_without(name, removed):
  """The network built without some layers, and its variables: what read their channels is cut out."""
  _, variables = build(name)
  left = [number for number in range(1, len(RATES) + 1) if number not in removed]
  rates = tuple(RATES[number - 1] for number in left)
  cascade = WithoutTheFirst(rates, MODELS[name]) if 1 in removed else DenseASPP(rates, GROWTH, **MODELS[name])
  # The layer that each channel of the concatenation comes from; 0: the features.
  origin = np.array([0] * FEATURES + [n for n in range(1, len(RATES) + 1) for _ in range(GROWTH)])
  kept = np.flatnonzero(~np.isin(origin, removed))

  def cut(entries, axis):
    """Takes the removed channels out of the parameters of a norm (axis 0) or a kernel (axis 2)."""
    return {
      key: np.take(x, kept[kept < x.shape[axis]], axis) if x.ndim > axis else x for key, x in entries.items()
    }

  axes = {'norm1': 0, 'conv1' if MODELS[name]['bottleneck_width'] else 'conv2': 2}
  trees = {}
  for collection, tree in variables.items():
    old, new = tree['dense_aspp'], {}
    for index, number in enumerate(left, start=1):
      if layer := old.get(f'layer{number}'):
        new[f'layer{index}'] = {k: cut(v, axes[k]) if k in axes else v for k, v in layer.items()}
    if 'norm' in old:
      new['norm'] = cut(old['norm'], 0)
    trees[collection] = {**tree, 'dense_aspp': new}
  trees['params']['head'] = cut(variables['params']['head'], 2)
  return patch_model(cascade, CAMVID_11.num_classes), trees


@functools.cache
def forward(name):
  """The network with all layers and with some removed: one program."""
  return jax.jit(build(name)[0].apply)


@pytest.mark.parametrize(
  ('name', 'removed'),
  [('1x1', removed) for removed in ((4,), (2,), (1,), (2, 3, 4), (1, 3), (1, 2, 3, 4))]
  + [(name, removed) for name in list(MODELS)[1:] for removed in ((2,), (1, 3))],
  ids=str,
)
def test_logits_equal_those_of_a_network_built_without_the_layers(name, removed):
  _, variables = build(name)
  smaller, smaller_variables = really_without(name, removed)
  full, logits = (forward(name)(v, IMAGE).main for v in (variables, remove_layers(variables, removed)))
  expected = jax.jit(smaller.apply)(smaller_variables, IMAGE).main
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  assert np.abs(logits - full).max() > 0.1


def test_the_variables_given_stay_as_they_are():
  _, variables = build('1x1')
  copy = jax.tree.map(np.copy, variables)
  removed = remove_layers(variables, (2,))
  same = jax.tree.map(np.array_equal, remove_layers(variables, ()), dict(variables))
  assert all(jax.tree.leaves(same))
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, variables, copy)))
  assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, removed, copy)))


def test_layers_that_do_not_exist_are_refused():
  with pytest.raises(ValueError, match=r'\[0, 5\]'):
    remove_layers(build('1x1')[1], (5, 0))


def test_settings():
  assert removal_settings(3) == [
    ('none', ()),
    ('top', (3,)),
    ('top', (2, 3)),
    ('top', (1, 2, 3)),
    ('single', (1,)),
    ('single', (2,)),
    ('single', (3,)),
  ]


@pytest.fixture(scope='module')
def analysis(tmp_path_factory):
  output = tmp_path_factory.mktemp('removal')
  model, variables = build('1x1')
  split = make_split([(32, 48)] * 5, 9)
  for example in split:
    example.label[example.label == 8] = 11  # ignored; classes 8, 9 and 10 are absent
  predictor = Predictor(model, variables, Preprocessing((32, 48), MEAN, STD))
  arguments = dict(batch_size=9, num_pictures=2, output=output)
  PatchExtractor.traces.clear()
  evaluate(predictor, split, CAMVID_11, batch_size=9)
  traces_of_one_compilation = list(PatchExtractor.traces)
  result = analyse_layer_removal(predictor, split, CAMVID_11, **arguments)
  assert traces_of_one_compilation
  assert traces_of_one_compilation == PatchExtractor.traces  # all settings are that one program
  return result, split, output, predictor


@pytest.mark.parametrize('removed', [(), (4,), (2, 3, 4), (2,)], ids=str)
def test_scores_are_those_of_the_network_built_without_the_layers(analysis, removed):
  result, split, _, _ = analysis
  model, variables = really_without('1x1', removed)
  predictor = Predictor(model, variables, Preprocessing((32, 48), MEAN, STD))
  expected = evaluate(predictor, split, CAMVID_11, batch_size=3).scores().to_json()
  found = [s['scores'] for s in result['settings'] if s['removed'] == list(removed)]
  assert len(found) == (2 if removed == (4,) else 1)  # the last layer: as a top one and alone
  for scores in found:
    assert scores['mean_iou'] == pytest.approx(expected['mean_iou'], abs=1e-3)
    assert scores['iou'] == pytest.approx(expected['iou'], abs=1e-3)


def test_what_is_written_and_reported(analysis):
  result, split, output, predictor = analysis
  assert json.loads(json.dumps(result, allow_nan=False)) == result
  assert [layer['name'] for layer in result['layers']] == ['layer1', 'layer2', 'layer3', 'layer4']
  assert [layer['dilation'] for layer in result['layers']] == list(RATES)
  assert [(s['kind'], tuple(s['removed'])) for s in result['settings']] == removal_settings(4)
  assert len({s['scores']['mean_iou'] for s in result['settings']}) == 8
  occurring = list(CAMVID_11.class_names[:8])
  assert sorted(result['large'] + result['small']) == sorted(occurring)
  assert result['images'] == 5
  # By hand: shares of each image's pixels over the images with the class, the larger half above the median.
  shares = {
    name: np.mean([np.mean(e.label == index) for e in split if (e.label == index).any()])
    for index, name in enumerate(occurring)
  }
  median = np.median(list(shares.values()))
  assert result['large'] == [name for name in occurring if shares[name] > median]
  assert result['small'] == [name for name in occurring if shares[name] <= median]
  top = [s['scores']['iou'] for s in result['settings'] if s['kind'] != 'single']
  assert result['lost_first'] == lost_first(top)
  means = [s['scores']['mean_iou'] for s in result['settings'] if s['kind'] != 'single']
  curves = [Scores({'mean_iou': mean}, 0.0, iou) for mean, iou in zip(means, top, strict=True)]
  save_figure(output / 'expected.png', curves_figure(curves, {g: result[g] for g in ('large', 'small')}))
  assert (output / 'curves.png').read_bytes() == (output / 'expected.png').read_bytes()
  (output / 'expected.png').unlink()
  assert result['pictures'] == ['removal_1_town_0.png', 'removal_2_town_1.png']
  assert sorted(p.name for p in output.iterdir()) == ['curves.png', *result['pictures']]
  # The predictor is again that of the whole network.
  whole = evaluate(predictor, split, CAMVID_11, batch_size=3).scores()
  assert whole.to_json() == result['settings'][0]['scores']


def test_the_picture_shows_image_truth_and_each_count(analysis):
  _, split, output, predictor = analysis
  _, variables = build('1x1')
  predictions = []
  for removed in ((), (4,), (3, 4), (2, 3, 4), (1, 2, 3, 4)):
    predictor.update(remove_layers(variables, removed))
    predictions.append(predictor.predict_resized(split[1].image[None], split[1].label.shape)[0])
  predictor.update(variables)
  labels = CAMVID_11.encode(split[1].label, '')
  with Image.open(output / 'removal_2_town_1.png') as picture:
    found = np.asarray(picture)
  np.testing.assert_array_equal(found, draw_predictions(split[1].image, labels, predictions, CAMVID_11))
  # Seven panels of 480x320 in rows of three, 4 pixels apart, each row below a line of text.
  height = 24 + 320 + 4
  for index, shown in enumerate((labels, *predictions), start=1):
    row, column = divmod(index, 3)
    top, left = row * height + 24, column * 484
    centers = found[top + 2 : top + 320 : 5, left + 2 : left + 480 : 5]  # of the label's pixels
    np.testing.assert_array_equal(centers, CAMVID_11.colors[shown])


def scores(mean, **iou):
  return Scores({'mean_iou': mean}, 0.75, iou)


def test_curves_have_a_line_a_class_and_the_mean():
  top = [scores(0.5, sky=0.9, car=0.1), scores(0.4, sky=0.8, car=0.0), scores(0.1, sky=0.2, car=None)]
  large, small = curves_figure(top, {'large': ['sky'], 'small': ['car']}).axes
  for axes, name, values in ((large, 'sky', [90, 80, 20]), (small, 'car', [10, 0, 0])):
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [name, 'mean IoU']
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), [50, 40, 10])
    assert [label.get_text() for label in axes.get_xticklabels()] == ['none', '1', 'all']
  assert [axes.get_title() for axes in (large, small)] == ['large objects', 'small objects']


def test_lines_stay_apart_when_colours_repeat():
  names = [f'class {index}' for index in range(25)]
  axes, _ = curves_figure([scores(0.5, **dict.fromkeys(names, 0.5))] * 2, {'large': names, 'small': []}).axes
  looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
  assert len(looks) == 26


@pytest.mark.parametrize(
  ('labels', 'large', 'small'),
  [
    # Means over the images with the class; 11 is ignored: sky 3/4, building (1/4 + 1/2) / 2, pole 1.
    ([[0, 0, 0, 1], [11, 11, 1, 1], [2, 2, 2, 2]], ['pole'], ['sky', 'building']),
    ([[0, 1, 1, 1, 1, 2, 2, 2, 3, 3]], ['building', 'pole'], ['sky', 'road']),
    ([[0, 11]], [], ['sky']),
  ],
)
def test_large_classes_cover_more_than_the_median_share(labels, large, small):
  split = [
    CachedExample(str(i), np.zeros((1, len(row), 3), np.uint8), np.array([row], np.uint8))
    for i, row in enumerate(labels)
  ]
  assert large_and_small(split, CAMVID_11) == (large, small)


def test_classes_that_lose_half_are_ordered_by_when_and_how_much():
  top_iou = [
    {'holds': 0.8, 'late': 0.6, 'early': 0.9, 'half': 0.4, 'earlier': 0.2, 'rare': 0.04, 'absent': None},
    {
      'holds': 0.7,
      'late': 0.4,
      'early': 0.45 - 0.09,
      'half': 0.2,
      'earlier': 0.0,
      'rare': 0.0,
      'absent': None,
    },
    {'holds': 0.5, 'late': 0.15, 'early': 0.8, 'half': 0.3, 'earlier': None, 'rare': 0.0, 'absent': None},
  ]
  found = lost_first(top_iou)
  assert [(entry['class'], entry['layers_removed']) for entry in found] == [
    ('earlier', 1),
    ('early', 1),
    ('late', 2),
  ]
  assert [entry['kept'] for entry in found] == pytest.approx([0, 0.4, 0.25])
  assert lost_first(top_iou[:1]) == []


def test_the_curves_of_all_groups_share_an_axis_and_name_every_class():
  top = [scores(0.5, _sky=0.9, car=0.1)] * 2
  figure = curves_figure(top, {'large': ['_sky'], 'small': ['car']})
  large, small = figure.axes
  assert large.get_ylim() == small.get_ylim()
  assert [text.get_text() for text in large.get_legend().get_texts()] == ['_sky', 'mean IoU']


def test_table():
  settings = [
    {'kind': 'none', 'removed': [], 'scores': scores(0.5, sky=0.9, car=0.1).to_json()},
    {'kind': 'top', 'removed': [2, 3], 'scores': scores(0.4, sky=0.8, car=None).to_json()},
    {'kind': 'single', 'removed': [2], 'scores': scores(0.3, sky=1.0, car=0.05).to_json()},
  ]
  lines = format_removal_table(settings).splitlines()
  assert [line.split() for line in lines if '---' not in line][:-1] == [
    ['IoU', 'in', '%', 'full', 'top', '2', 'no', '2'],
    ['sky', '90.0', '80.0', '100.0'],
    ['car', '10.0', '-', '5.0'],
    ['mean_iou', '50.0', '40.0', '30.0'],
    ['pixel_accuracy', '75.0', '75.0', '75.0'],
  ]
