import dataclasses
import json
import math

import pytest
from results_example import add_evaluation, make_config, make_run, make_scores, make_test_time

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.results.summary import Spread, read_results, summarize


def rows_of(root, means, **config):
  """Runs of seeds 0, 1, ..."""
  rows = []
  for seed, mean in enumerate(means):
    rows += read_run(make_run(root / f'camvid_s{seed}', mean, config=make_config(seed, **config)))
  return rows


def test_mean_and_sample_deviation_over_seeds(tmp_path):
  rows = rows_of(tmp_path, (0.70, 0.72, 0.77))
  (group,) = summarize(rows[::-1]).groups
  assert (group.name, group.rows) == ('camvid', tuple(rows))
  # Mean 2.19 / 3 = 0.73; squares 0.03^2 + 0.01^2 + 0.04^2 = 0.0026, by n - 1 = 2.
  std = math.sqrt(0.0026 / 2)
  assert group.summary['mean_iou'] == Spread(pytest.approx(0.73), pytest.approx(std))
  assert group.summary['iou']['bicyclist'] == Spread(pytest.approx(0.63), pytest.approx(std))
  assert group.summary['pixel_accuracy'] == Spread(pytest.approx(0.9), pytest.approx(0, abs=1e-12))


def test_one_seed_has_no_deviation_and_a_class_that_is_not_there_no_mean(tmp_path):
  scores = make_scores(0.5)
  scores['iou']['pole'] = None
  (row,) = read_run(make_run(tmp_path / 'a_s5', config=make_config(5), **scores))
  (group,) = summarize([row]).groups
  assert group.name == 'a_s5'
  assert group.summary['mean_iou'] == Spread(0.5, None)
  assert group.summary['iou']['pole'] == Spread(None, None)


def test_configurations_protocols_and_weights_are_kept_apart(tmp_path):
  rows = rows_of(tmp_path / 'one', (0.70, 0.72))
  rows += rows_of(tmp_path / 'other', (0.60,), **{'optimizer.learning_rate': 0.1})
  workdir = make_run(tmp_path / 'two' / 'camvid_s2', 0.74, config=make_config(2), ema=make_scores(0.75))
  add_evaluation(workdir, 'test', 0.64, test_time=make_test_time(0.66))
  rows += read_run(workdir)
  groups = summarize(rows).groups
  assert [
    (g.protocol.split, g.rows[0].weights, [row.seed for row in g.rows], g.protocol.differences)
    for g in groups
  ] == [
    ('test', 'raw', [2], []),
    ('test', 'raw', [2], ['flip and scales 0.75, 1, 1.25']),
    ('validation', 'ema', [2], ['validation split']),
    ('validation', 'raw', [0, 1, 2], ['validation split']),
    ('validation', 'raw', [0], ['validation split']),
  ]


def test_runs_without_a_common_name_are_all_named(tmp_path):
  rows = [
    *read_run(make_run(tmp_path / 'first', config=make_config(0))),
    *read_run(make_run(tmp_path / 'camvid-seed-1', config=make_config(1))),
    *read_run(make_run(tmp_path / 'camvid_2', config=make_config(2))),
  ]
  assert summarize(rows).groups[0].name == 'first, camvid'


def test_the_same_run_twice_is_refused(tmp_path):
  rows = rows_of(tmp_path / 'one', (0.7,)) + rows_of(tmp_path / 'two', (0.71,))
  with pytest.raises(InputError, match='camvid_s0 and camvid_s0'):
    summarize(rows)


def test_published_scores_stand_beside_those_of_the_same_data_alone(tmp_path):
  (row,) = rows_of(tmp_path, (0.7,))
  camvid = summarize([row])
  assert len(camvid.published) == 73
  assert list(camvid.standards) == ['camvid']
  means = [row.mean_iou or 0 for row in camvid.published]
  assert means == sorted(means, reverse=True)
  enet = next(row for row in camvid.to_json({})['published'] if row['model'] == 'ENet')
  assert enet['not_comparable_because'] == []
  protocol = dataclasses.replace(row.protocol, dataset='street_scenes', label_set='cityscapes20')
  other = summarize([dataclasses.replace(row, protocol=protocol)])
  assert (other.published, other.standards) == ((), {})
  assert other.groups[0].protocol.differences is None


def test_what_was_written_is_read_back(tmp_path):
  rows = rows_of(tmp_path, (0.7, 0.72))
  result = summarize(rows).to_json({'command': 'results /home/x/a'})
  assert result['provenance'] == {'command': 'results a'}
  (tmp_path / 'results.json').write_text(json.dumps(result))
  assert read_results(tmp_path / 'results.json') == rows


@pytest.mark.parametrize('content', [None, '{', '[]', '{}', '{"ours": [{"rows": [{"run": "a"}]}]}'])
def test_another_file_is_refused(content, tmp_path):
  path = tmp_path / 'results.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(InputError, match=r'results\.json: .*dense-aspp results'):
    read_results(path)
