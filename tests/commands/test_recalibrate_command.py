import json

import jax
import numpy as np

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.evaluation.batch_norm import precise_bn_statistics
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.training.run import load_run


def test_statistics_are_of_the_training_split_and_evaluate_takes_them(scene_run, capsys):
  config = json.loads((scene_run / 'config.json').read_text())
  config['training']['batch_size'] = 3
  config['data']['held_out'] = ['1']  # images 1 and 10 to 15 of 16
  (scene_run / 'config.json').write_text(json.dumps(config))
  before = load_run(scene_run)
  assert main(['recalibrate', '--workdir', str(scene_run), '--checkpoint', '0']) == 0
  printed = capsys.readouterr()
  assert 'recalibrating: 9/9' in printed.err
  folder = scene_run / 'recalibrated' / '0_raw'
  record = json.loads((folder / 'recalibration.json').read_text())
  assert (record['split'], record['images'], record['batch_size']) == ('train', 9, 3)
  assert (record['step'], record['weights'], record['checkpoint']) == (0, 'raw', '0')
  assert record['config'] == config
  assert record['provenance']['libraries']['jax']
  run = load_run(scene_run, bn='recalibrated')
  stored = run.config['data']
  data = Data(dataset=stored['dataset'], label_set=run.label_set.name, image_size=(32, 64), held_out=('1',))
  split = data.open_train(label_set=run.label_set, cached=False)
  expected = precise_bn_statistics(
    run.model, before.variables, split, run.predictor.preprocessing, batch_size=3
  )
  jax.tree.map(np.testing.assert_array_equal, run.variables['batch_stats'], expected)

  mean, variance = record['largest_changes']['mean'], record['largest_changes']['variance']
  *parents, layer = mean['layer'].split('/')
  old, new = before.variables['batch_stats'], expected
  for name in (*parents, layer):
    old, new = old[name], new[name]
  change = np.abs(new['mean'] - old['mean']) / np.sqrt(old['var'] + 1e-5)
  np.testing.assert_allclose(mean['deviations'], change.max(), rtol=1e-5)
  text = f'largest changes: a mean by {mean["deviations"]:.3g} of its standard deviations ({mean["layer"]}), '
  text += f'a variance by a factor of {variance["factor"]:.3g} ({variance["layer"]})\n'
  assert printed.out == (
    f'{text}9 images in batches of 3; statistics in {folder}; --bn recalibrated takes them\n'
  )

  assert main(['evaluate', '--workdir', str(scene_run), '--bn', 'recalibrated', '--record']) == 0
  recorded = scene_run / 'evaluations' / 'validation_best_0_raw_recalibrated.json'
  result = json.loads(recorded.read_text())
  split = run.load_split('validation')
  scores = evaluate(run.predictor, split, run.label_set, batch_size=8).scores().to_json()
  assert {name: result[name] for name in scores} == scores
  assert scores != evaluate(before.predictor, split, run.label_set, batch_size=8).scores().to_json()
  assert (result['bn'], result['weights']) == ('recalibrated', 'raw')


def test_bad_input_is_named_and_nothing_written(scene_run, tmp_path, capsys):
  for options, message in (
    (['--batch-size', '0'], '--batch-size 0: expected at least 1'),
    (['--checkpoint', '7'], "no checkpoint '7'"),
    (['--weights', 'ema'], 'no moving averages of the weights'),
  ):
    assert main(['recalibrate', '--workdir', str(scene_run), *options]) == 2
    assert message in capsys.readouterr().err
  config = json.loads((scene_run / 'config.json').read_text())
  del config['training']
  (scene_run / 'config.json').write_text(json.dumps(config))
  assert main(['recalibrate', '--workdir', str(scene_run)]) == 2
  assert 'give --batch-size' in capsys.readouterr().err
  assert not (scene_run / 'recalibrated').exists()
