"""`dense-aspp check-data NAME --source`: what `prepare` would take, leave and refuse, and its exit code."""

import dataclasses
import pathlib

import layouts
import numpy as np
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.cityscapes import CITYSCAPES
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.prepare import DATASETS

COUNTS = {'train': 4, 'val': 2, 'test': 1}
IMAGE = 'leftImg8bit/{0}/{1}_leftImg8bit.png'
LABEL = 'gtFine/{0}/{1}_gtFine_labelIds.png'
TRAIN, VALIDATION = ('train/aachen', 'aachen_000000_000019'), ('val/frankfurt', 'frankfurt_000000_000019')


@pytest.fixture
def source(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  counts = {'train': 4, 'validation': 2, 'test': 1}
  monkeypatch.setitem(
    DATASETS, 'cityscapes', dataclasses.replace(CITYSCAPES, counts=counts, image_size=(16, 32))
  )
  files = layouts.cityscapes_files(COUNTS)
  kept = {
    name: data
    for x in files
    for name, data in x.items()
    if name.endswith(('leftImg8bit.png', 'labelIds.png'))
  }
  layouts.write_tree(tmp_path / 'source', kept)
  return tmp_path / 'source'


def remove(*names: str):
  return lambda source: [(source / name).unlink() for name in names]


def other_size(source: pathlib.Path) -> None:
  pair = {IMAGE: np.zeros((8, 16, 3), np.uint8), LABEL: np.zeros((8, 16), np.uint8)}
  layouts.write_tree(source, {name.format(*TRAIN): encode_png(array) for name, array in pair.items()})


def truncate(name: str):
  return lambda source: (source / name).write_bytes((source / name).read_bytes()[:-20])


CASES = {
  'complete': (lambda source: None, (), 0),
  'no test labels': (remove(LABEL.format('test/berlin', 'berlin_000000_000019')), (), 0),
  'fewer images': (remove(IMAGE.format(*TRAIN), LABEL.format(*TRAIN)), (), 2),
  'fewer images, permitted': (remove(IMAGE.format(*TRAIN), LABEL.format(*TRAIN)), ('--allow-partial',), 0),
  'other size': (other_size, (), 2),
  'other size, permitted': (other_size, ('--allow-partial',), 0),
  'no label': (remove(LABEL.format(*TRAIN)), ('--allow-partial', '--skip-bad=9'), 2),
  'bad label': (truncate(LABEL.format(*TRAIN)), (), 2),
  'bad label, permitted': (truncate(LABEL.format(*TRAIN)), ('--skip-bad=1',), 0),
  'bad validation label': (truncate(LABEL.format(*VALIDATION)), ('--skip-bad=1',), 2),
  'stray file': (lambda source: layouts.write_tree(source, {'train/notes.txt': b''}), (), 0),
}


@pytest.mark.parametrize(('change', 'options', 'code'), CASES.values(), ids=CASES)
def test_the_exit_code_is_that_of_prepare(
  change, options, code, source: pathlib.Path, tmp_path: pathlib.Path
):
  change(source)
  arguments = ['cityscapes', '--source', str(source), *options]
  assert main(['check-data', *arguments]) == code
  assert main(['prepare', *arguments, '--data-dir', str(tmp_path / 'data')]) == code


def test_what_is_taken_left_and_refused_is_said(source: pathlib.Path, capsys: pytest.CaptureFixture):
  remove(IMAGE.format(*TRAIN), LABEL.format(*TRAIN), LABEL.format('test/berlin', 'berlin_000000_000019'))(
    source
  )
  layouts.write_tree(source, {'train/notes.txt': b''})
  assert main(['check-data', 'cityscapes', '--source', str(source)]) == 2
  out, err = capsys.readouterr()
  assert 'split test left out: it has 1 images, but no labels\n' in out
  assert f'1 file left out: 1 .txt; the first is {source}/train/notes.txt\n' in out
  counts = 'number of images: train 3 (published: 4), validation 2 (published: 2)'
  assert f'warning: {counts}\n' in out
  assert counts in err
  assert main(['check-data', 'cityscapes', '--source', str(source), '--split', 'validation']) == 0
  assert 'can be used: 2 of 2 pairs of validation' in capsys.readouterr().out


def test_without_a_split_that_training_reads_nothing_can_be_used(
  source: pathlib.Path, capsys: pytest.CaptureFixture
):
  for path in source.glob('*/val/**/*.png'):
    path.unlink()
  assert main(['check-data', 'cityscapes', '--source', str(source), '--allow-partial']) == 2
  assert 'no split validation' in capsys.readouterr().err
  options = ['--allow-partial', '--split', 'train']
  assert main(['check-data', 'cityscapes', '--source', str(source), *options]) == 0


@pytest.mark.parametrize('command', ['check-data', 'prepare'])
@pytest.mark.parametrize('option', ['--source', '--data-dir'])
def test_urls_are_refused(command: str, option: str, tmp_path: pathlib.Path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert main([command, 'camvid', option, 'gs://bucket/data']) == 2
  assert 'gs://bucket/data: a URL; expected a path of this machine' in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []
