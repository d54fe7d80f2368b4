"""`dense-aspp prepare`: what it prints, what it leaves behind."""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import absl.logging
import layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds

from dense_aspp_jax.commands import prepare as command
from dense_aspp_jax.datasets import prepare as prepare_lib
from dense_aspp_jax.datasets.examples import Example
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.street_scenes.builder import STREET_SCENES, generate
from dense_aspp_jax.errors import InputError, RunError


def run(*arguments: str) -> int:
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  return command.run(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture
def camvid(tmp_path: pathlib.Path) -> pathlib.Path:
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 5, 'validation': 3})
  return tmp_path / 'CamVid'


def test_camvid_then_again(camvid: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  arguments = ('camvid', '--source', camvid, '--data-dir', tmp_path / 'data')
  logger, bar = absl.logging.get_absl_logger(), tfds.core.utils.tqdm
  level = logger.level
  assert run(*arguments, '--allow-partial') == 0
  assert (logger.level, tfds.core.utils.tqdm) == (level, bar)  # silenced for that time only
  out, err = capsys.readouterr()
  folder = tmp_path / 'data' / 'camvid' / '1.0.0'
  assert out == f'camvid is prepared: train 5, validation 3, in {folder}\n'
  prefixes = ('warning: ', 'Preparing camvid/', 'Writing: ')
  assert all(line.startswith(prefixes) for line in err.splitlines()), err
  assert 'Preparing camvid/train: 5/5' in err
  times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
  assert run(*arguments) == 0
  out, err = capsys.readouterr()
  assert (out, err) == (f'camvid was prepared already: train 5, validation 3, in {folder}\n', '')
  assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times


def test_cityscapes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  layouts.write_cityscapes_zips(tmp_path / 'zips', {'train': 2, 'val': 1, 'test': 1})
  assert run('cityscapes', '--source', tmp_path / 'zips', '--data-dir', tmp_path, '--allow-partial') == 0
  assert capsys.readouterr().out == (
    'cityscapes is prepared: train 2, validation 1, test 1, in '
    f'{tmp_path}/cityscapes/semantic_segmentation/1.0.0\n'
  )


def test_street_scenes(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
  tiny = dataclasses.replace(
    STREET_SCENES,
    counts={'train': 2, 'validation': 1},
    generate=functools.partial(generate, size=(64, 128)),
  )
  monkeypatch.setitem(prepare_lib.DATASETS, 'street_scenes', tiny)
  assert run('street_scenes', '--data-dir', tmp_path) == 0
  out, err = capsys.readouterr()
  assert (
    out == f'street_scenes is prepared: train 2, validation 1, in {tmp_path}/street_scenes/default/2.0.0\n'
  )
  assert 'Preparing street_scenes/train: 2/2' in err
  assert len(open_split('street_scenes', 'train', str(tmp_path))) == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('street_scenes', '--source', '.'), 'is generated and has no source'),
    (('street_scenes', '--download'), '--download is for camvid'),
    (('cityscapes', '--download'), '--download is for camvid'),
    (('camvid',), 'either --source FOLDER'),
    (('cityscapes', '--source', '/none'), 'https://www.cityscapes-dataset.com'),
  ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str, tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=message):
    run(*arguments, '--data-dir', tmp_path / 'data')
  assert not (tmp_path / 'data').exists()


def test_unknown_name(capsys: pytest.CaptureFixture):
  with pytest.raises(SystemExit) as error:
    run('kitti')
  assert error.value.code == 2
  assert 'cityscapes' in capsys.readouterr().err


@pytest.mark.parametrize('interruption', [KeyboardInterrupt, MemoryError])
def test_interruption_leaves_nothing_behind(
  camvid: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  interruption: type[BaseException],
):
  calls = []

  def check_pair(*arguments, **options):
    calls.append(arguments)
    if len(calls) == 7:  # the first split is written by then
      raise interruption
    return original(*arguments, **options)

  original = prepare_lib.check_pair
  monkeypatch.setattr(prepare_lib, 'check_pair', check_pair)
  arguments = ('camvid', '--source', camvid, '--data-dir', tmp_path / 'data', '--allow-partial')
  with pytest.raises(interruption):
    run(*arguments)
  assert not list((tmp_path / 'data' / 'camvid').iterdir())
  monkeypatch.undo()
  assert run(*arguments) == 0
  assert len(open_split('camvid', 'train', str(tmp_path / 'data'))) == 5


def test_what_a_killed_process_left_is_removed_an_hour_later(
  camvid: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
  arguments = ['camvid', '--source', str(camvid), '--data-dir', str(tmp_path / 'data'), '--allow-partial']
  program = (
    'import os, signal\n'
    'from dense_aspp_jax.commands.main import main\n'
    'from dense_aspp_jax.datasets import prepare\n'
    'calls, check_pair = [], prepare.check_pair\n'
    'def killed(*pair, **options):\n'
    '  calls.append(pair)\n'
    '  return os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 7 else check_pair(*pair, **options)\n'
    'prepare.check_pair = killed\n'
    f'main(["prepare", *{arguments!r}])'
  )
  assert subprocess.run([sys.executable, '-c', program], check=False).returncode == -signal.SIGKILL
  (left,) = (tmp_path / 'data' / 'camvid').glob('incomplete.*')
  assert list(left.glob('*.array_record*'))  # the training split was written
  alive = left.with_name('incomplete.ALIVE0_1.0.0')
  shutil.copytree(left, alive)
  (tmp_path / 'data' / 'camvid_download_old').mkdir()
  for path in (*left.iterdir(), left, *alive.iterdir(), alive, tmp_path / 'data' / 'camvid_download_old'):
    os.utime(path, (time.time() - 3700,) * 2)
  next(alive.iterdir()).touch()
  assert run(*arguments) == 0
  assert {path.name for path in (tmp_path / 'data' / 'camvid').iterdir()} == {'1.0.0', alive.name}
  assert not (tmp_path / 'data' / 'camvid_download_old').exists()
  os.utime(next(alive.iterdir()), (time.time() - 3700,) * 2)
  assert run(*arguments) == 0  # also where the dataset is there already
  assert {path.name for path in (tmp_path / 'data' / 'camvid').iterdir()} == {'1.0.0'}
  assert len(open_split('camvid', 'train', str(tmp_path / 'data'))) == 5


def test_place_that_cannot_be_written(camvid: pathlib.Path, tmp_path: pathlib.Path):
  (tmp_path / 'file').write_bytes(b'')
  with pytest.raises(RunError, match='camvid cannot be written'):
    run('camvid', '--source', camvid, '--data-dir', tmp_path / 'file', '--allow-partial')


def test_a_full_disk_is_no_traceback(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  resource = pytest.importorskip('resource')  # not on Windows
  noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
  example = Example('a', encode_png(noise), encode_png(noise[..., 0] % 34))
  large = dataclasses.replace(STREET_SCENES, counts={'train': 1}, generate=lambda split, count: [example])
  monkeypatch.setitem(prepare_lib.DATASETS, 'street_scenes', large)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))  # bytes a file
  try:
    with pytest.raises(RunError, match=r'street_scenes cannot be written .*File too large'):
      run('street_scenes', '--data-dir', tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not list((tmp_path / 'street_scenes').rglob('*.array_record*'))
