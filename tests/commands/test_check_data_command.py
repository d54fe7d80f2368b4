"""`dense-aspp check-data`: every problem listed, a summary of each split, the exit code."""

import json
import pathlib

import layouts
import numpy as np
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.images import decode_label, encode_png
from dense_aspp_jax.label_sets import CITYSCAPES_19


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  layouts.write_labelled_folder(tmp_path / 'scenes', {'train': 6, 'validation': 2})
  return tmp_path / 'scenes'


def write(
  folder: pathlib.Path, name: str, ids: np.ndarray, image_size: tuple[int, int] | None = None
) -> None:
  files = {
    f'images/{name}.png': encode_png(np.zeros((*(image_size or ids.shape), 3), np.uint8)),
    f'labels/{name}.png': encode_png(ids.astype(np.uint8)),
  }
  layouts.write_tree(folder, files)


def test_all_problems_of_all_splits_are_listed(folder, capsys):
  (folder / 'train' / 'labels' / 'scene_000.png').unlink()
  write(folder / 'train', 'scene_001', np.full((3, 4), 7), image_size=(5, 6))  # two problems of one pair
  (folder / 'train' / 'images' / 'scene_002.png').write_bytes(b'')
  (folder / 'train' / 'images' / 'scene_003.jpg').write_bytes(b'')
  (folder / 'validation' / 'labels' / 'scene_001.png').write_bytes(b'<html>')
  (folder / 'test').mkdir()
  assert main(['check-data', f'folder:{folder}']) == 2
  out, err = capsys.readouterr()
  lines = [line for line in out.splitlines() if not line.startswith(' ')]
  train = folder / 'train'
  expected = [
    f'{train}/images/scene_003.png: same name as {train}/images/scene_003.jpg',
    f'{train}/images/scene_000.png: image without label; expected a label named scene_000',
    f'{train}/labels/scene_001.png: label of 3x4 pixels (height x width) for an image of 5x6',
    f'{train}/labels/scene_001.png: unknown label ids 7 (12 pixels); label set',
    f'{train}/images/scene_002.png: not a PNG, JPEG, TIFF, WebP, BMP or GIF (an empty file',
    f'{train}/images/scene_003.jpg: not a PNG, JPEG, TIFF, WebP, BMP or GIF (an empty file',
    f'{train}: 5 pairs, 3 bad; height x width: 2 of 16x24',
    f'{folder}/validation/labels/scene_001.png: not a PNG',
    f'{folder}/validation: 2 pairs, 1 bad; height x width: 1 of 16x24',
    f'{folder}/test: 0 pairs, 0 bad; height x width: -',
  ]
  assert len(lines) == len(expected)
  # Training does not read it.
  assert f'1 file left out: 1 incomplete split; the first is {folder}/test\n' in out
  for line, start in zip(lines, expected, strict=True):
    assert line.startswith(start)
  assert f'checking {train}: 5/5' in err
  assert err.endswith(
    f'dense-aspp check-data: folder:{folder}: cannot be used as it is: train: 2 problems; train: 3 bad '
    'pairs, at most 0 permitted (--skip-bad); validation: 1 bad pair, at most 0 permitted\n'
  )


@pytest.mark.parametrize(('skip_bad', 'code'), [(0, 2), (1, 2), (2, 0), (3, 0)])
def test_bad_training_pairs_are_permitted_up_to_a_number(skip_bad, code, folder, capsys):
  for name in ('scene_001', 'scene_002'):
    write(folder / 'train', name, np.full((3, 4), 7))
  assert main(['check-data', f'folder:{folder}', '--skip-bad', str(skip_bad)]) == code
  out, err = capsys.readouterr()
  assert out.count('unknown label ids 7 (12 pixels)') == 2
  if code == 0:
    assert 'can be used: 4 of 6 pairs of train, 2 of 2 pairs of validation' in out
  else:
    assert f'train: 2 bad pairs, at most {skip_bad} permitted' in err


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_bad_pairs_of_other_splits_are_not_permitted(split, tmp_path, capsys):
  """`train` takes no score on fewer images either."""
  layouts.write_labelled_folder(tmp_path, {'train': 2, 'validation': 2, 'test': 2})
  write(tmp_path / split, 'scene_001', np.full((3, 4), 7))
  assert main(['check-data', f'folder:{tmp_path}', '--skip-bad', '9']) == 2
  assert f'{split}: 1 bad pair, at most 0 permitted' in capsys.readouterr().err


def test_other_problems_are_never_permitted(folder, capsys):
  (folder / 'train' / 'labels' / 'scene_000.png').unlink()
  assert main(['check-data', f'folder:{folder}', '--skip-bad', '9']) == 2
  assert 'train: 1 problem\n' in capsys.readouterr().err


def test_no_good_pair_is_refused_whatever_is_permitted(folder, capsys):
  for path in (folder / 'train' / 'images').iterdir():
    path.write_bytes(b'')
  assert main(['check-data', f'folder:{folder}', '--skip-bad', '9']) == 2
  assert 'train: no good pair' in capsys.readouterr().err


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_a_split_without_a_pixel_to_learn_or_to_score_is_refused(split, folder, capsys):
  for path in (folder / split / 'labels').iterdir():
    path.write_bytes(encode_png(np.full((16, 24), 255, np.uint8)))
  assert main(['check-data', f'folder:{folder}']) == 2
  assert f': {split}: every pixel is void' in capsys.readouterr().err


def test_void_alone_is_not_scored_on_cityscapes_classes(folder, capsys):
  assert main(['check-data', f'folder:{folder}', '--label-set', 'cityscapes20']) == 2
  assert 'used as it is: validation: every pixel is void' in capsys.readouterr().err


def test_a_folder_without_validation_is_refused_as_by_train(tmp_path, capsys):
  layouts.write_labelled_folder(tmp_path, {'train': 2})
  assert main(['check-data', f'folder:{tmp_path}']) == 2
  out, err = capsys.readouterr()
  assert "no split 'validation' (it has train)" in out
  assert "config.data.validation_split = 'held_out'" in out
  assert 'validation: 1 problem' in err
  assert main(['check-data', f'folder:{tmp_path}', '--split', 'train']) == 0


def test_a_test_split_without_labels_is_left_out(folder, capsys):
  layouts.write_tree(folder / 'test', {'images/a.png': encode_png(np.zeros((2, 2, 3), np.uint8))})
  for labels in (folder / 'test' / 'labels', None):
    assert main(['check-data', f'folder:{folder}']) == 0
    assert f'1 file left out: 1 incomplete split; the first is {folder}/test\n' in capsys.readouterr().out
    if labels:
      labels.mkdir()
  assert main(['check-data', f'folder:{folder}', '--split', 'test']) == 2
  assert 'test: 1 images without any label' in capsys.readouterr().err


def test_a_mask_of_which_one_class_is_ignored_is_warned_of(folder, capsys):
  labels = json.loads((folder / 'labels.json').read_text())
  for path in (folder / 'train' / 'labels').iterdir():
    ids = decode_label(path.read_bytes(), '')
    path.write_bytes(encode_png(np.where(ids == 0, 255, 1).astype(np.uint8)))
  (folder / 'labels.json').write_text(json.dumps(labels | {'classes': labels['classes'][:2]}))
  for path in (folder / 'validation' / 'labels').iterdir():
    path.write_bytes(encode_png(np.ones((16, 24), np.uint8)))
  assert main(['check-data', f'folder:{folder}']) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert 'warning: no training pixel is of class class 0, which cannot be learned' in out
  assert 'warning: all training pixels are of class class 1 or ignored' in out


def test_the_summary_of_a_split(tmp_path, capsys):
  layouts.write_labelled_folder(tmp_path, {'validation': 1})  # for its labels.json
  for name, ids in (('a', [[0, 0, 1, 1]]), ('b', [[1], [1], [255], [255]]), ('c', [[0, 1, 1, 1]])):
    write(tmp_path / 'train', name, np.array(ids))
  layouts.write_tree(tmp_path / 'train', {'images/Thumbs.old': b'', 'notes.txt': b'', 'labels/.hidden': b''})
  assert main(['check-data', f'folder:{tmp_path}', '--split', 'train']) == 0
  assert capsys.readouterr().out == (
    f'{tmp_path}/train: 3 pairs, 0 bad; height x width: 2 of 1x4, 1 of 4x1\n'
    '  share of pixels: class 0 25.00 %, class 1 58.33 %, ignored 16.67 %\n'
    '  warning: no training pixel is of class class 2, which cannot be learned\n'
    f'  2 files left out: 1 .old, 1 .txt; the first is {tmp_path}/train/images/Thumbs.old\n'
    f'    {tmp_path}/train/notes.txt: .txt\n'
    f'folder:{tmp_path}: can be used: 3 of 3 pairs of train\n'
  )


def test_prepared_data_and_their_files(tmp_path, capsys):
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 3, 'validation': 2})
  data = ['--data-dir', str(tmp_path / 'data')]
  source = ['--source', str(tmp_path / 'CamVid')]
  assert main(['check-data', 'camvid', *data]) == 2
  assert "dataset 'camvid' is not prepared" in capsys.readouterr().err
  assert main(['prepare', 'camvid', *source, *data, '--allow-partial']) == 0
  capsys.readouterr()
  outputs = []
  for place in (data, [*source, '--allow-partial']):
    assert main(['check-data', 'camvid', *place]) == 0
    lines = capsys.readouterr().out.splitlines(keepends=True)
    outputs.append(''.join(line for line in lines if not line.startswith('warning: ')))
  assert outputs[0] == outputs[1]
  assert 'camvid/train: 3 pairs, 0 bad; height x width: 3 of 12x16\n' in outputs[0]
  assert main(['check-data', 'camvid', *data, '--split', 'test']) == 2
  assert "camvid: no split 'test'; expected one of train, validation" in capsys.readouterr().err
  (tmp_path / 'CamVid' / 'valannot' / '0001TP_006690.png').unlink()
  layouts.write_tree(tmp_path / 'CamVid', {'train/stray.png': b'', 'README': b''})
  assert main(['check-data', 'camvid', *source]) == 2
  out = capsys.readouterr().out
  assert f'{tmp_path}/CamVid/valannot/0001TP_006690.png: missing, though val.txt names it in line 1' in out
  assert 'left out: 1 ' in out
  assert f'{tmp_path}/CamVid/train/stray.png' in out


def test_cityscapes_files(tmp_path, capsys):
  layouts.write_cityscapes_tree(tmp_path, {'train': 2, 'val': 2, 'test': 1})
  stem = f'{tmp_path}/gtFine/train/aachen/aachen_000000_000019_gtFine'
  pathlib.Path(f'{stem}_instanceIds.png').unlink()
  pathlib.Path(f'{stem}_labelIds.png').rename(f'{stem}_labelIds.PNG.bak')
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path)]) == 2
  out = capsys.readouterr().out
  assert 'aachen_000000_000019_leftImg8bit.png: image without label' in out
  assert f'1 file left out: 1 .bak; the first is {stem}_labelIds.PNG.bak\n' in out
  assert 'cityscapes/train: 1 pairs, 0 bad; height x width: 1 of 16x32' in out
  assert 'share of pixels: void 100.00 %' in out  # the test split's labels are dummies
  options = ['--allow-partial', '--split', 'validation']
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path), *options]) == 0
  options = ['--label-set', 'cityscapes19', '--allow-partial', '--split', 'test']
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path), *options]) == 0
  assert 'every pixel is ignored' in capsys.readouterr().out


def test_the_label_set_is_that_of_the_folder_or_the_one_named(folder, tmp_path, capsys):
  (tmp_path / 'other.json').write_text(json.dumps(CITYSCAPES_19.to_json()))
  assert main(['check-data', f'folder:{folder}', '--label-set', str(tmp_path / 'other.json')]) == 2
  assert 'ignored 100.00 %' in capsys.readouterr().out  # ids 0 to 2 are void in Cityscapes
  (folder / 'labels.json').unlink()
  assert main(['check-data', f'folder:{folder}']) == 2
  assert 'name one with --label-set' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('kitti',), "unknown dataset 'kitti'"),
    (('folder:/none',), '/none: no such folder'),
    (('folder:~nobody-here/x',), 'there is no such home directory'),
    (('folder:gs://bucket/x',), 'gs://bucket/x: a URL; expected a path of this machine'),
    (('street_scenes', '--source', '.'), "dataset 'street_scenes' has no source"),
    (('camvid', '--source', '/none'), '/none: cannot be listed (No such file or directory); check'),
    (('cityscapes', '--source', '/none'), 'needs leftImg8bit_trainvaltest.zip and gtFine'),
  ],
)
def test_what_cannot_be_opened_is_named(arguments, message, tmp_path, capsys):
  assert main(['check-data', *arguments, '--data-dir', str(tmp_path)]) == 2
  assert message in capsys.readouterr().err


def test_a_negative_number_is_refused(capsys):
  with pytest.raises(SystemExit) as error:
    main(['check-data', 'camvid', '--skip-bad', '-1'])
  assert error.value.code == 2
  assert 'expected at least 0' in capsys.readouterr().err


def test_a_split_without_files_is_not_the_right_folder(tmp_path, capsys):
  (tmp_path / 'leftImg8bit').mkdir()
  (tmp_path / 'gtFine').mkdir()
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path)]) == 2
  assert 'no images with labels found' in capsys.readouterr().err


@pytest.mark.parametrize(
  'arguments', [('folder:{}',), ('camvid', '--source', '{}'), ('camvid', '--data-dir', '{}')]
)
def test_a_path_that_the_system_refuses_is_named(arguments, capsys):
  long = f'/{"a" * 300}/b'  # as without permission to search a folder, which a test that is root has
  assert main(['check-data', *(argument.format(long) for argument in arguments)]) in (1, 2)
  assert 'File name too long' in capsys.readouterr().err
