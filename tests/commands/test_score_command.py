"""`dense-aspp score`."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

import dense_aspp_jax
from dense_aspp_jax.commands import score
from dense_aspp_jax.errors import InputError


@pytest.fixture
def folders(tmp_path):
  name = 'ulm_000000_000019'
  for folder, file, ids in (
    ('labels', f'{name}_gtFine_labelIds.png', [[7, 7, 8, 0]]),
    ('predictions', f'{name}_leftImg8bit.png', [[7, 8, 8, 8]]),
  ):
    (tmp_path / folder).mkdir()
    Image.fromarray(np.array(ids, np.uint8)).save(tmp_path / folder / file)
  return ['--labels', str(tmp_path / 'labels'), '--predictions', str(tmp_path / 'predictions')]


def run(arguments):
  parser = argparse.ArgumentParser()
  score.add_arguments(parser)
  return score.run(parser.parse_args(arguments))


def test_prints_table_and_json(folders, capsys):
  assert run(folders) == 0
  *table, report = capsys.readouterr().out.splitlines()
  cells = [line.split() for line in table]
  assert cells[0] == ['class', 'IoU', 'in', '%']
  assert ['road', '50.00'] in cells
  assert ['wall', '-'] in cells
  report = json.loads(report)
  protocol, iou = report.pop('protocol'), report.pop('iou')
  assert 'official Cityscapes definition' in protocol
  assert iou['road'] == iou['sidewalk'] == 0.5
  assert iou['void'] == 0.0
  assert len(iou) == 20
  assert report == {
    'mean_iou_19': 0.5,
    'mean_iou_20': (1 / 2 + 1 / 3 + 0) / 3,
    'pixel_accuracy': 2 / 3,
    'command': 'score',
    'labels': folders[1],
    'predictions': folders[3],
    'images': 1,
    'left': 0,
    'ids': {'labels': 'label', 'predictions': 'label'},
    'label_set': 'cityscapes20',
    'version': dense_aspp_jax.__version__,
  }


def test_writes_the_report(folders, tmp_path, capsys):
  output = tmp_path / 'new' / 'scores.json'
  assert run([*folders, '--label-set', 'cityscapes19', '--output', str(output)]) == 0
  report = json.loads(output.read_text(encoding='utf-8'))
  assert (report['mean_iou_19'], report['mean_iou_20'], report['label_set']) == (0.5, None, 'cityscapes19')
  assert 'void' not in report['iou']
  assert capsys.readouterr().out.splitlines()[-1] == f'1 images; report in {output}'


def test_output_that_is_a_folder_is_refused_at_once(folders, tmp_path):
  with pytest.raises(InputError, match='--output expects the name of a JSON file'):
    run([*folders, '--output', str(tmp_path)])


def test_report_that_cannot_be_written(folders, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(InputError, match=r'file is not a directory that can be written'):
    run([*folders, '--output', str(tmp_path / 'file' / 'scores.json')])


def test_split_of_void_is_an_error(folders, tmp_path):
  (label,) = (tmp_path / 'labels').iterdir()
  Image.fromarray(np.zeros((1, 4), np.uint8)).save(label)
  output = tmp_path / 'scores.json'
  with pytest.raises(InputError, match='void'):
    run([*folders, '--output', str(output)])
  assert not output.exists()


def save(path, ids):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.array(ids, np.uint8)).save(path)


def test_train_ids_are_suspected_and_read_on_request(folders, tmp_path, capsys):
  truth, guess = 'ulm_000000_000019_gtFine_labelIds.png', 'ulm_000000_000019_leftImg8bit.png'
  save(tmp_path / 'labels' / truth, [[7, 8, 21, 23]])
  save(tmp_path / 'predictions' / guess, [[0, 1, 8, 10]])  # the same classes
  assert run(folders) == 0
  assert 'as train ids they score 100.00% instead of 0.00%' in capsys.readouterr().err
  assert run([*folders, '--ids', 'train']) == 0
  printed = capsys.readouterr()
  report = json.loads(printed.out.splitlines()[-1])
  assert (report['mean_iou_19'], report['ids']['predictions']) == (1.0, 'train')
  assert '--ids' not in printed.err


def test_what_is_left_out_is_counted_and_named(folders, tmp_path, capsys):
  save(tmp_path / 'predictions' / 'ulm_000001_000019.png', [[7]])
  (tmp_path / 'predictions' / 'times.csv').touch()
  (tmp_path / 'predictions' / '.ipynb_checkpoints').mkdir()
  save(tmp_path / 'predictions' / '.ipynb_checkpoints' / 'ulm_000000_000019.png', [[7]])
  (tmp_path / 'labels' / 'ulm_000000_000019_gtFine_polygons.json').touch()  # belongs to what is scored
  assert run(folders) == 0
  printed = capsys.readouterr()
  assert '2 files left out: 1 without ground truth, 1 .csv' in printed.err
  assert f'{tmp_path}/predictions/ulm_000001_000019.png' in printed.err
  assert json.loads(printed.out.splitlines()[-1])['left'] == 2
