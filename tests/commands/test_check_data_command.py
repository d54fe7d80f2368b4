"""`dense-aspp check-data`: every problem listed, a summary of each split, the exit code."""

import json
import pathlib

import layouts
import numpy as np
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.labels import CITYSCAPES_19


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
    f'{train}/images/scene_002.png: neither PNG nor JPEG (an empty file)',
    f'{train}/images/scene_003.jpg: neither PNG nor JPEG (an empty file)',
    f'{train}: 5 pairs, 3 bad; height x width: 2 of 16x24',
    f'{folder}/validation/labels/scene_001.png: not a PNG file',
    f'{folder}/validation: 2 pairs, 1 bad; height x width: 1 of 16x24',
    f"{folder}: no split 'test'",
    f'{folder}/test: 0 pairs, 0 bad; height x width: -',
  ]
  assert len(lines) == len(expected)
  for line, start in zip(lines, expected, strict=True):
    assert line.startswith(start)
  assert f'checking {train}: 5/5' in err
  assert err.endswith(
    f'dense-aspp check-data: folder:{folder}: 4 bad pairs, 3 other problems; '
    'at most 0 bad pairs (--skip-bad) are permitted\n'
  )


@pytest.mark.parametrize(('skip_bad', 'code'), [(0, 2), (1, 2), (2, 0), (3, 0)])
def test_bad_pairs_are_permitted_up_to_a_number(skip_bad, code, folder, capsys):
  for split in ('train', 'validation'):
    write(folder / split, 'scene_001', np.full((3, 4), 7))
  assert main(['check-data', f'folder:{folder}', '--skip-bad', str(skip_bad)]) == code
  out, err = capsys.readouterr()
  assert out.count('unknown label ids 7 (12 pixels)') == 2
  assert f'folder:{folder}: 2 bad pairs, 0 other problems' in (out if code == 0 else err)


def test_other_problems_are_never_permitted(folder, capsys):
  (folder / 'train' / 'labels' / 'scene_000.png').unlink()
  assert main(['check-data', f'folder:{folder}', '--skip-bad', '9']) == 2
  assert '0 bad pairs, 1 other problems' in capsys.readouterr().err


def test_the_summary_of_a_split(tmp_path, capsys):
  layouts.write_labelled_folder(tmp_path, {'validation': 1})  # for its labels.json
  for name, ids in (('a', [[0, 0, 1, 1]]), ('b', [[1], [1], [255], [255]]), ('c', [[0, 1, 1, 1]])):
    write(tmp_path / 'train', name, np.array(ids))
  layouts.write_tree(tmp_path / 'train', {'images/Thumbs.old': b'', 'notes.txt': b'', 'labels/.hidden': b''})
  assert main(['check-data', f'folder:{tmp_path}', '--split', 'train']) == 0
  assert capsys.readouterr().out == (
    f'{tmp_path}/train: 3 pairs, 0 bad; height x width: 2 of 1x4, 1 of 4x1\n'
    '  share of pixels: class 0 25.00 %, class 1 58.33 %, ignored 16.67 %\n'
    '  absent classes: class 2\n'
    f'  not read, no part of the dataset: {tmp_path}/train/images/Thumbs.old: .old\n'
    f'  not read, no part of the dataset: {tmp_path}/train/notes.txt: .txt\n'
    f'folder:{tmp_path}: 0 bad pairs, 0 other problems\n'
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
  for place in (data, source):
    assert main(['check-data', 'camvid', *place]) == 0
    outputs.append(capsys.readouterr().out)
  assert outputs[0] == outputs[1]
  assert 'camvid/train: 3 pairs, 0 bad; height x width: 3 of 12x16\n' in outputs[0]
  assert main(['check-data', 'camvid', *data, '--split', 'test']) == 2
  assert "camvid: no split 'test'; expected one of train, validation" in capsys.readouterr().err
  (tmp_path / 'CamVid' / 'valannot' / '0001TP_006690.png').unlink()
  layouts.write_tree(tmp_path / 'CamVid', {'train/stray.png': b'', 'README': b''})
  assert main(['check-data', 'camvid', *source]) == 2
  out = capsys.readouterr().out
  assert f'{tmp_path}/CamVid/valannot/0001TP_006690.png: missing, though val.txt names it in line 1' in out
  assert f'not read, no part of the dataset: {tmp_path}/CamVid/train/stray.png: .png\n' in out


def test_cityscapes_files(tmp_path, capsys):
  layouts.write_cityscapes_tree(tmp_path, {'train': 2, 'val': 2, 'test': 1})
  stem = f'{tmp_path}/gtFine/train/aachen/aachen_000000_000019_gtFine'
  pathlib.Path(f'{stem}_instanceIds.png').unlink()
  pathlib.Path(f'{stem}_labelIds.png').rename(f'{stem}_labelIds.PNG.bak')
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path)]) == 2
  out = capsys.readouterr().out
  assert 'aachen_000000_000019_leftImg8bit.png: image without label' in out
  assert f'not read, no part of the dataset: {stem}_labelIds.PNG.bak: .bak\n' in out
  assert 'cityscapes/train: 1 pairs, 0 bad; height x width: 1 of 16x32' in out
  assert 'share of pixels: void 100.00 %' in out  # the test split's labels are dummies
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path), '--split', 'validation']) == 0
  options = ['--label-set', 'cityscapes19', '--split', 'test']
  assert main(['check-data', 'cityscapes', '--source', str(tmp_path), *options]) == 0
  assert 'every pixel is ignored' in capsys.readouterr().out


def test_the_label_set_is_that_of_the_folder_or_the_one_named(folder, tmp_path, capsys):
  (tmp_path / 'other.json').write_text(json.dumps(CITYSCAPES_19.to_json()))
  assert main(['check-data', f'folder:{folder}', '--label-set', str(tmp_path / 'other.json')]) == 0
  assert 'ignored 100.00 %' in capsys.readouterr().out  # ids 0 to 2 are void in Cityscapes
  (folder / 'labels.json').unlink()
  assert main(['check-data', f'folder:{folder}']) == 2
  assert 'name one with --label-set' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('kitti',), "unknown dataset 'kitti'"),
    (('folder:/none',), '/none: no such folder'),
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
