import json

import numpy as np
import pytest
from report_example import THREE

from dense_aspp_jax.analysis.report_content import (
  predict_examples,
  read_analysis,
  read_metrics,
  run_analysis,
)
from dense_aspp_jax.datasets.examples import CachedExample

SUBJECT = {'checkpoint': 'best', 'step': 4, 'split': 'validation', 'layer': 'dense_aspp', 'data_dir': None}


class Predictor:
  """Says the red of the first pixel, everywhere; remembers the shapes of its batches."""

  takes_padding = True

  def __init__(self):
    self.shapes = []

  def predict_batch(self, images, output_size):
    self.shapes.append((images.shape, output_size))
    return np.broadcast_to(images[:, :1, :1, 0], (len(images), *output_size)).astype(np.uint8)


def split_of(count):
  return [
    CachedExample(
      f'image {i}', np.full((4, 8, 3), i, np.uint8), np.full((2, 4), 255 if i % 2 else 1, np.uint8)
    )
    for i in range(count)
  ]


@pytest.mark.parametrize(
  ('count', 'images', 'chosen'),
  [(3, 12, [2, 6, 10]), (1, 5, [2]), (5, 5, [0, 1, 2, 3, 4]), (9, 4, [0, 1, 2, 3])],
)
def test_examples_are_spread_over_the_split_and_predicted_in_batches_of_one_shape(count, images, chosen):
  predictor = Predictor()
  examples = predict_examples(predictor, split_of(images), THREE, count, batch_size=2)
  assert [e.image_id for e in examples] == [f'image {i}' for i in chosen]
  for example, index in zip(examples, chosen, strict=True):
    assert (example.image == index).all()
    assert (example.label == (255 if index % 2 else 1)).all()
    assert example.prediction.tolist() == [[index] * 4] * 2
  assert set(predictor.shapes) == {((2, 4, 8, 3), (2, 4))}


def store(folder, **changes):
  folder.mkdir(exist_ok=True)
  data = {**SUBJECT, 'matrix_picture': 'm.png', 'pictures': ['a.png'], **changes}
  (folder / f'{folder.name}.json').write_text(json.dumps(data))
  (folder / 'm.png').write_bytes(b'matrix')
  (folder / 'a.png').write_bytes(b'picture')
  return data


def test_a_stored_analysis_is_read_with_its_pictures(tmp_path):
  data = store(tmp_path / 'similarity')
  analysis = read_analysis(tmp_path / 'similarity', SUBJECT)
  assert analysis.data == data
  assert analysis.pictures == {'m.png': b'matrix', 'a.png': b'picture'}


@pytest.mark.parametrize(
  'change',
  [{'step': 5}, {'checkpoint': 'latest'}, {'split': 'train'}, {'layer': 'layer1'}, {'data_dir': 'moved'}],
)
def test_an_analysis_of_something_else_is_not_taken(tmp_path, change):
  store(tmp_path / 'similarity', **change)
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None


def test_an_analysis_that_is_missing_or_lacks_a_picture_is_not_taken(tmp_path):
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None
  store(tmp_path / 'similarity')
  (tmp_path / 'similarity' / 'a.png').unlink()
  assert read_analysis(tmp_path / 'similarity', SUBJECT) is None


def test_an_analysis_run_here_leaves_no_file(tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))

  def analyse(output):
    return store(output / 'x') and {'curves_picture': 'x/m.png', 'pictures': ['x/a.png']}

  assert run_analysis(analyse).pictures == {'x/m.png': b'matrix', 'x/a.png': b'picture'}
  assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_killed_run_cut_off_is_left_out(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n{"st')
  assert read_metrics(path) == [{'step': 1}, {'step': 2}]
  assert read_metrics(tmp_path / 'missing.jsonl') == []
