"""Scores of a network on label maps with the classes of another data set, against NumPy."""

import numpy as np
import pytest

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.evaluate import evaluate, predict_split
from dense_aspp_jax.evaluation.metrics import class_counts, protocol, scored_classes
from dense_aspp_jax.evaluation.pictures import predictions_gallery
from dense_aspp_jax.label_mapping import map_label_set
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet

FIVE = LabelSet(  # without an ignored id, and with ids from 3 on
  'five', tuple(LabelClass(n, (3 + i,), (i, 0, 0)) for i, n in enumerate(('road', 'car', 'sky', 'tree', 'x')))
)
PAIRS = tuple((n, 'ignore') for n in CAMVID_11.class_names if n not in ('road', 'car', 'sky', 'tree'))


class RedPredictor:
  """Predicts the class that the red channel names."""

  takes_padding = True

  def predict_resized(self, images, output_size):
    assert output_size == images.shape[1:3]
    return images[..., 0]


def examples(num_classes):
  """CamVid's label ids, and predictions of any class of the run, mostly right in none."""
  rng = np.random.default_rng(0)
  for i in range(4):
    image = rng.integers(0, num_classes, (6, 8, 3), np.uint8)
    yield CachedExample(str(i), image, rng.integers(0, 12, (6, 8), np.uint8))


def reference(split, mapped):
  """IoU by class: None where the data set has no such class; and the share of right pixels."""
  counterpart = dict(mapped.counterparts)
  names = [counterpart.get(n) for n in (*CAMVID_11.class_names, None)]  # by label id; 11 is void
  truth = np.concatenate([np.array(names, object)[e.label].ravel() for e in split])
  predicted = np.concatenate([np.array(mapped.class_names)[e.image[..., 0]].ravel() for e in split])
  valid = (truth != 'ignore') & (truth != None)  # noqa: E711 (of each element)
  truth, predicted = truth[valid], predicted[valid]
  iou = {}
  for name in mapped.class_names:
    union = ((truth == name) | (predicted == name)).sum()
    has = name in counterpart.values()
    iou[name] = ((truth == name) & (predicted == name)).sum() / union if has and union else None
  return iou, (truth == predicted).mean()


@pytest.mark.parametrize(
  ('run', 'pairs'),
  [(CITYSCAPES_20, ()), (CITYSCAPES_19, ()), (FIVE, PAIRS)],
  ids=lambda x: getattr(x, 'name', ''),
)
def test_the_scores_are_those_of_the_classes_that_the_data_set_has(run, pairs):
  mapped = map_label_set([CAMVID_11], run, pairs, 'camvid')
  split = list(examples(run.num_classes))
  confusion = evaluate(RedPredictor(), split, mapped, batch_size=3)
  iou, accuracy = reference(split, mapped)
  scores = confusion.scores()
  assert scores.iou == {name: None if v is None else pytest.approx(v, rel=1e-12) for name, v in iou.items()}
  assert sum(v is not None for v in iou.values()) == (4 if run is FIVE else 9)
  mean = np.mean([v for v in iou.values() if v is not None])
  assert scores.mean_iou == pytest.approx(mean, rel=1e-12)
  assert scores.pixel_accuracy == pytest.approx(accuracy, rel=1e-12)
  assert list(scores.means) == (['mean_iou'] if run is FIVE else ['mean_iou_19', 'mean_iou_20'])
  if run is CITYSCAPES_20:
    assert scores.means['mean_iou_20'] == pytest.approx(mean, rel=1e-12)
  counts = class_counts(confusion.counts, mapped)
  assert counts.shape == (run.num_classes,) * 2
  assert counts.trace() == round(accuracy * counts.sum())
  assert confusion.counts.sum() == 4 * 6 * 8
  assert "label set 'camvid11', mapped to these classes" in protocol(mapped)
  assert "'camvid11'" not in protocol(run)
  assert scored_classes(mapped) == scored_classes(run)


def test_a_split_that_is_all_ignored_is_refused():
  mapped = map_label_set([CAMVID_11], FIVE, PAIRS, 'camvid')
  split = [e._replace(label=np.full_like(e.label, 11)) for e in examples(5)]
  with pytest.raises(InputError, match='all 48 pixels of the ground truth are void'):
    evaluate(RedPredictor(), split[:1], mapped, batch_size=1)


def test_a_gallery_shows_the_ground_truth_in_the_classes_of_the_run():
  mapped = map_label_set([CAMVID_11], CITYSCAPES_19, (), 'camvid')
  split = list(examples(19))[:2]
  decoded = [e._replace(label=CITYSCAPES_19.decode(mapped.encode(e.label, ''))) for e in split]
  pictures = [
    predictions_gallery(predict_split(RedPredictor(), images, 1), label_set)
    for images, label_set in ((split, mapped), (decoded, CITYSCAPES_19))
  ]
  np.testing.assert_array_equal(*pictures)
