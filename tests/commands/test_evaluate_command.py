"""`dense-aspp evaluate`: the ways to score a checkpoint, and what a result says of them."""

import argparse
import json

import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.commands.run_arguments import averaging_predictor
from dense_aspp_jax.evaluation.batch_norm import BatchStatisticsPredictor
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.metrics import format_table
from dense_aspp_jax.evaluation.tta import AveragingPredictor
from dense_aspp_jax.training.run import load_run

SCORES = ('mean_iou_19', 'mean_iou_20', 'pixel_accuracy', 'iou')


def run(*arguments):
  return main(['evaluate', *map(str, arguments)])


def scores_of(predictor, loaded, batch_size=8):
  split = loaded.load_split('validation')
  return evaluate(predictor, split, loaded.label_set, batch_size=batch_size).scores()


def test_averaged_scores_stand_apart_from_the_plain_ones(scene_run, tmp_path, capsys):
  output = tmp_path / 'scores.json'
  options = ('--flip', '--scales', 0.5, '--window', '--output', output, '--record')
  assert run('--workdir', scene_run, *options) == 0
  result = json.loads(output.read_text())
  loaded = load_run(scene_run)
  plain = scores_of(loaded.predictor, loaded)
  assert {name: result[name] for name in SCORES} == plain.to_json()
  averaging = AveragingPredictor(loaded.predictor, flip=True, scales=(0.5,), window=(32, 64))
  averaged = scores_of(averaging, loaded)
  assert averaged.to_json() != plain.to_json()
  assert result['test_time'] == {
    'flip': True,
    'scales': [0.5],
    'window': [32, 64],  # of the training images: they are not cropped
    'scores': averaged.to_json(),
  }
  assert (result['weights'], result['bn'], result['bn_batch_size']) == ('raw', 'running', None)
  recorded = scene_run / 'evaluations' / 'validation_best_0_raw_running_flip_scales0.5_window32x64.json'
  assert json.loads(recorded.read_text()) == result
  assert [p.name for p in recorded.parent.iterdir()] == [recorded.name]
  printed = capsys.readouterr()
  assert f'recorded in {recorded}\n' in printed.err
  assert printed.out == (
    f'plain, at one scale:\n{format_table(plain)}\n\n'
    f'averaged, scales 0.5; mirrored images; windows of 32 x 64:\n{format_table(averaged)}\n'
    f'5 images; report in {output}\n'
  )


@pytest.mark.parametrize(
  ('crop_size', 'given', 'window'),
  [(None, [], (32, 64)), ((24, 40), [], (24, 40)), ((24, 40), [16, 48], (16, 48)), (None, None, None)],
)
def test_the_window_is_as_given_or_what_the_network_was_trained_on(tiny_run, crop_size, given, window):
  loaded = load_run(tiny_run)
  loaded.config['augmentation']['crop_size'] = crop_size
  args = argparse.Namespace(flip=False, scales=[1, 2], window=given)
  averaging = averaging_predictor(args, loaded)
  assert (averaging.flip, averaging.scales, averaging.window) == (False, (1, 2), window)


def test_batch_statistics_belong_to_a_batch_size(scene_run, capsys):
  found = {}
  for options, batch_size in (((), 8), (('--batch-size', 1), 1)):  # that of the configuration is 8
    assert run('--workdir', scene_run, '--bn', 'batch', '--record', *options) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    loaded = load_run(scene_run)
    predictor = BatchStatisticsPredictor(loaded.model, loaded.variables, loaded.predictor.preprocessing)
    expected = scores_of(predictor, loaded, batch_size)
    assert {name: result[name] for name in SCORES} == expected.to_json()
    assert printed.startswith(format_table(expected))
    assert (result['bn'], result['bn_batch_size'], result['test_time']) == ('batch', batch_size, None)
    found[batch_size] = result['iou']
  assert found[8] != found[1]
  names = {p.name for p in (scene_run / 'evaluations').iterdir()}  # neither in the place of the other
  assert names == {f'validation_best_0_raw_batch{size}.json' for size in (1, 8)}


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--scales', 1, 0), '--scales [1.0, 0.0]: expected one or more numbers above 0'),
    (('--scales', 'inf'), '--scales [inf]: expected one or more numbers'),
    (('--window', 32), '--window [32]: expected height and width in pixels'),
    (('--window', 32, 0), '--window [32, 0]: expected height'),
    (('--bn', 'batch', '--flip'), '--bn batch with --flip, --scales or --window'),
    (('--bn', 'batch', '--scales', 2), 'leave either out'),
    (('--weights', 'ema'), 'no moving averages of the weights'),
    (
      ('--bn', 'recalibrated', '--checkpoint', '0'),
      'no recalibrated statistics of the raw weights of step 0',
    ),
  ],
)
def test_bad_options_are_named(scene_run, options, message, capsys):
  assert run('--workdir', scene_run, *options) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1
