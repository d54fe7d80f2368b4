"""`dense-aspp predict`: what it refuses, when, and what becomes of the rest."""

import json
import os
import pathlib
import shutil
import struct

import jax
import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.commands.predict import find_images
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.tta import AveragingPredictor
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training.run import load_run

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def predict(workdir: pathlib.Path, output: pathlib.Path, *arguments: pathlib.Path | str) -> int:
  return main(['predict', '--workdir', str(workdir), '--output', str(output), *map(str, arguments)])


@pytest.fixture
def nothing_is_loaded(monkeypatch):
  def fail(*_):
    raise AssertionError('a network was loaded')

  monkeypatch.setattr('dense_aspp_jax.commands.predict.load_model', fail)


@pytest.fixture
def folder(tmp_path):
  """Two good images; one cut off behind its header; one that is none."""
  folder = tmp_path / 'in'
  folder.mkdir()
  data = encode_png(PIXELS)
  (folder / 'a_cut.png').write_bytes(data[: len(data) // 2])
  (folder / 'b_good.png').write_bytes(data)
  (folder / 'c_page.jpg').write_text('<html>not found</html>')
  (folder / 'd_good.png').write_bytes(encode_png(PIXELS[::-1]))
  return folder


def test_bad_images_are_listed_and_the_others_predicted(tiny_run, folder, tmp_path, capsys):
  output = tmp_path / 'out'
  assert predict(tiny_run, output, folder) == 2
  printed = capsys.readouterr()
  assert '2 images predicted' in printed.out
  cut, page = folder / 'a_cut.png', folder / 'c_page.jpg'
  refused = {
    'a_cut': f'{cut}: truncated PNG of {cut.stat().st_size} bytes; get the file again',
    'c_page': f'{page}: not a PNG, JPEG, TIFF, WebP, BMP or GIF (a web page, it begins with '
    "b'<html>not found<'; get the file again)",
  }
  listed = '\n  '.join(refused.values())
  assert printed.err.endswith(f'dense-aspp predict: 2 of 4 images could not be predicted:\n  {listed}\n')
  assert printed.err.index(f'warning: {refused["c_page"]}') < printed.err.index('predicting')
  predictor = load_run(tiny_run).predictor
  for name, pixels in (('b_good', PIXELS), ('d_good', PIXELS[::-1])):
    with Image.open(output / 'label_ids' / f'{name}.png') as label_ids:
      expected = CITYSCAPES_20.decode(predictor.predict(pixels))
      np.testing.assert_array_equal(np.asarray(label_ids), expected)
  assert len(np.unique(expected)) > 3  # so that a wrong image would show
  for kind in ('label_ids', 'color', 'overlay'):
    assert sorted(p.name for p in (output / kind).iterdir()) == ['b_good.png', 'd_good.png']
  written = json.loads((output / 'predictions.json').read_text())
  assert (written['images'], written['refused'], written['as_stored']) == (2, refused, False)
  assert (written['weights'], written['bn'], written['test_time']) == ('raw', 'running', None)


def test_averaging_and_the_variables_are_recorded(tiny_run, tmp_path):
  (tmp_path / 'a.png').write_bytes(encode_png(PIXELS))
  workdir = shutil.copytree(tiny_run, tmp_path / 'run')
  run = load_run(workdir)
  statistics = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), run.variables['batch_stats'])
  run.save_statistics(statistics, {})
  options = ('--bn', 'recalibrated', '--scales', '0.5', '--window', '16', '24', '--flip')
  assert predict(workdir, tmp_path / 'out', *options, tmp_path / 'a.png') == 0
  written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert (written['weights'], written['bn']) == ('raw', 'recalibrated')
  assert written['test_time'] == {'flip': True, 'scales': [0.5], 'window': [16, 24]}
  run.predictor.update({**run.variables, 'batch_stats': statistics})
  averaging = AveragingPredictor(run.predictor, flip=True, scales=(0.5,), window=(16, 24))
  with Image.open(tmp_path / 'out' / 'label_ids' / 'a.png') as label_ids:
    np.testing.assert_array_equal(np.asarray(label_ids), CITYSCAPES_20.decode(averaging.predict(PIXELS)))


def test_options_out_of_range_are_found_first(nothing_is_loaded, folder, tmp_path, capsys):
  assert predict(tmp_path, tmp_path / 'out', folder, '--scales', '-1') == 2
  assert '--scales [-1.0]: expected one or more numbers above 0' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_a_network_is_not_loaded_for_bad_images_alone(nothing_is_loaded, folder, tmp_path, capsys):
  bad = [folder / 'a_cut.png', folder / 'c_page.jpg']
  for images in ([bad[0]], [bad[1]], bad):
    assert predict(tmp_path / 'no run', tmp_path / 'out', *images) == 2
    assert f'{len(images)} of {len(images)} images could not be predicted' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_headers_of_jpeg_files_are_checked_too(nothing_is_loaded, tmp_path, capsys):
  Image.fromarray(PIXELS).save(tmp_path / 'a.jpg')
  data = bytearray((tmp_path / 'a.jpg').read_bytes())
  struct.pack_into('>HH', data, data.index(b'\xff\xc0') + 5, 20000, 30000)  # height, width of the frame
  (tmp_path / 'a.jpg').write_bytes(data)
  (tmp_path / 'b.jpg').write_bytes(data[:20])
  assert predict(tmp_path, tmp_path / 'out', tmp_path / 'a.jpg', tmp_path / 'b.jpg') == 2
  error = capsys.readouterr().err
  assert f'{tmp_path}/a.jpg: 20000x30000 pixels (height x width); expected between 1 and 89,478,485' in error
  assert f'{tmp_path}/b.jpg: damaged or truncated JPEG' in error
  assert 'predicting' not in error


@pytest.mark.parametrize('kind', ['label_ids', 'color', 'overlay', ''])
def test_an_output_that_cannot_be_written_is_found_first(nothing_is_loaded, folder, tmp_path, kind, capsys):
  (tmp_path / 'out').mkdir()
  in_the_way = tmp_path / 'out' / (kind or 'file')
  in_the_way.touch()
  assert predict(tmp_path, tmp_path / 'out' / ('' if kind else 'file/out'), folder) == 2
  assert f'{in_the_way} is not a directory that can be written' in capsys.readouterr().err


def test_a_folder_of_others_is_found_first(nothing_is_loaded, folder, tmp_path, capsys, monkeypatch):
  (tmp_path / 'out' / 'overlay' / 'sub').mkdir(parents=True)
  (folder / 'sub').mkdir()
  (folder / 'sub' / 'e.png').write_bytes(encode_png(PIXELS))
  monkeypatch.setattr('os.access', lambda path, _: pathlib.Path(path).name != 'sub')
  assert predict(tmp_path, tmp_path / 'out', folder) == 2
  assert f'{tmp_path}/out/overlay/sub is not a directory that can be written' in capsys.readouterr().err


def test_what_is_no_file_does_not_hang(nothing_is_loaded, tmp_path, capsys):
  (tmp_path / 'in').mkdir()
  os.mkfifo(tmp_path / 'in' / 'pipe.png')
  (tmp_path / 'in' / 'dangling.png').symlink_to('nowhere')
  assert predict(tmp_path, tmp_path / 'out', tmp_path / 'in') == 2
  error = capsys.readouterr().err
  assert f'1 file left out: 1 pipe; the first is {tmp_path}/in/pipe.png' in error
  assert f'{tmp_path}/in/dangling.png: cannot be read (No such file or directory)' in error


def tree(folder: pathlib.Path, *names: str) -> pathlib.Path:
  """A folder with one image under each name."""
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode_png(PIXELS))
  return folder


@pytest.mark.parametrize(
  ('files', 'given', 'expected'),
  [
    (['a.png', 'sub/b.c.png'], ['.'], {'a': 'a.png', 'sub/b.c': 'sub/b.c.png'}),
    (['a.jpg', 'a.png', 'b.png'], ['.'], {'a.jpg': 'a.jpg', 'a.png': 'a.png', 'b': 'b.png'}),
    (['x/a.png', 'y/a.png'], ['x', 'y'], {'x/a.png': 'x/a.png', 'y/a.png': 'y/a.png'}),
    (['x/a.png', 'y/a.png'], ['y/a.png', 'x'], {'x/a.png': 'x/a.png', 'y/a.png': 'y/a.png'}),
    (
      ['x/a.png', 'y/a.png', 'y/a.jpg'],
      ['x', 'y'],
      {'x/a.png': 'x/a.png', 'y/a.png': 'y/a.png', 'a.jpg': 'y/a.jpg'},
    ),
    (
      ['a.jpg', 'a.png', 'a.jpg.png'],
      ['.'],
      {'in/a.jpg': 'a.jpg', 'a.png': 'a.png', 'a.jpg.png': 'a.jpg.png'},
    ),
    (['1/s/a.png', '2/s/a.png'], ['1/s', '2/s'], {'1/s/a.png': '1/s/a.png', '2/s/a.png': '2/s/a.png'}),
    (['a.png'], ['.', 'a.png', './a.png'], {'a': 'a.png'}),
    (['s/a.png'], ['.', 's/a.png', 's'], {'s/a': 's/a.png', 'a': 's/a.png'}),
  ],
)
def test_names_are_told_apart(tmp_path, files, given, expected):
  folder = tree(tmp_path / 'in', *files)
  images, left = find_images([folder / path for path in given], tmp_path / 'out')
  found = {name: str(path.relative_to(folder)) for name, path in images.items()}
  assert (found, left) == (expected, [])


def test_names_that_cannot_be_written_are_found_first(nothing_is_loaded, tmp_path, capsys):
  folder = tree(tmp_path / 'in', 'a', 'b.png', 'x' * 252, 'sub/a.png/c.png')
  (folder / 'sub' / 'a.png' / 'c.png').write_bytes(b'')
  (tmp_path / 'out' / 'color' / 'b.png').mkdir(parents=True)
  images = [folder / name for name in ('a', 'b.png', 'x' * 252, 'sub')]
  assert predict(tmp_path, tmp_path / 'out', *images) == 2
  error = capsys.readouterr().err
  assert '4 of 4 images' in error
  assert f'{folder}/a: its prediction a.png would have the name of a folder' in error
  assert f'{folder}/b.png: its prediction b.png would have the name of a folder' in error
  assert 'x: its prediction would have a name of more than 255 bytes' in error


def test_its_own_output_is_no_input(tmp_path):
  folder = tree(tmp_path / 'in', 'a.png', 'overlay/a.png', 'out/color/a.png', 'out/other.png')
  assert find_images([folder], folder / 'out') == (
    {'a': folder / 'a.png', 'overlay/a': folder / 'overlay' / 'a.png'},
    [f'{folder}/out/{name}.png: earlier predictions' for name in ('color/a', 'other')],
  )
  images, left = find_images([folder], folder)  # images may lie where predictions go
  assert list(images) == ['a', 'out/color/a', 'out/other']
  assert left == [f'{folder}/overlay/a.png: earlier predictions']
  with pytest.raises(InputError, match=r'holds no image \(1 file left out: 1 earlier predictions'):
    find_images([folder / 'overlay'], folder)


def test_a_folder_with_files_of_all_kinds(tiny_run, tmp_path, capsys):
  folder, output = tmp_path / 'in', tmp_path / 'out'
  name = os.fsdecode(b'b\xff')
  tree(folder, f'{name}.png', 's/a.png', 's/a.PNG', 'c' * 251 + '.png', 'd.txt', 'no_suffix', '.hidden/e.png')
  tree(tmp_path / 'elsewhere', 'f.png')
  (folder / 'link').symlink_to(tmp_path / 'elsewhere')
  (folder / 'loop').symlink_to(folder)
  os.mkfifo(folder / 'pipe.png')
  (folder / os.fsdecode(b'g\xff.png')).write_bytes(b'')
  assert predict(tiny_run, output, folder) == 2
  printed = capsys.readouterr()
  assert '5 images predicted' in printed.out
  assert f'1 of 6 images could not be predicted:\n  {folder}/g\\xff.png: ' in printed.err
  assert '4 files left out: 1 loop, 1 pipe, 1 .txt, 1 no suffix; the first is ' in printed.err
  written = json.loads((output / 'predictions.json').read_text())
  names = {name: f'{name}.png', 's/a.png': 's/a.png', 's/a.PNG': 's/a.PNG', 'link/f': 'link/f.png'}
  names['c' * 251] = 'c' * 251 + '.png'
  assert written['sources'] == {name: str(folder / path) for name, path in names.items()}
  assert list(written['refused']) == [os.fsdecode(b'g\xff')]
  assert len(written['left']) == 4
  for kind in ('label_ids', 'color', 'overlay'):
    written = {path.relative_to(output / kind).as_posix() for path in (output / kind).rglob('*.*')}
    assert written == {f'{name}.png' for name in names}
  (folder / 's' / 'a.PNG').unlink()  # the others stand; and an image alone may be added
  assert predict(tiny_run, output, tmp_path / 'elsewhere' / 'f.png') == 0
  assert json.loads((output / 'predictions.json').read_text())['images'] == 6


def test_images_of_all_formats_in_a_folder(tiny_run, tmp_path, capsys):
  folder, output = tmp_path / 'in', tmp_path / 'out'
  folder.mkdir()
  picture = Image.fromarray(np.repeat(np.repeat(PIXELS[:10, :15], 4, 0), 4, 1))
  formats = {'tif': 'TIFF', 'TIFF': 'TIFF', 'webp': 'WEBP', 'bmp': 'BMP', 'gif': 'GIF'}
  for suffix in (*formats, 'png', 'jpg', 'jpe', 'jfif', 'jpeg'):
    picture.save(
      folder / f'{suffix}.{suffix}', format=formats.get(suffix, 'PNG' if suffix == 'png' else 'JPEG')
    )
  (folder / 'clip.mp4').touch()
  assert predict(tiny_run, output, folder) == 0
  printed = capsys.readouterr()
  assert '10 images predicted' in printed.out
  assert f'1 file left out: 1 .mp4; the first is {folder}/clip.mp4' in printed.err
  label_ids = {path.stem: np.asarray(Image.open(path)) for path in (output / 'label_ids').iterdir()}
  for lossless in ('tif', 'TIFF', 'bmp'):
    np.testing.assert_array_equal(label_ids[lossless], label_ids['png'])


@pytest.mark.parametrize('height', [1, 3000])
def test_what_was_predicted_stays_when_a_later_image_fails(tiny_run, tmp_path, monkeypatch, height):
  folder, output = tree(tmp_path / 'in', 'a.png', 'b.png', 'c.png'), tmp_path / 'out'
  (folder / 'd.png').write_bytes(encode_png(np.zeros((height, 3000), np.uint8)))  # large: no threads
  run = load_run(tiny_run)
  results = iter([0, InputError('too flat'), 1, MemoryError('too large')])

  def predict_image(image):
    result = next(results)
    if isinstance(result, Exception):
      raise result
    return np.full(image.shape[:2], result, np.uint8)

  monkeypatch.setattr(run.predictor, 'predict', predict_image)
  monkeypatch.setattr('dense_aspp_jax.commands.predict.load_model', lambda *_: run)
  with pytest.raises(MemoryError):
    predict(tiny_run, output, folder)
  assert sorted(path.name for path in (output / 'overlay').iterdir()) == ['a.png', 'c.png']
  written = json.loads((output / 'predictions.json').read_text())
  assert sorted(written['sources']) == ['a', 'c']
  assert written['refused'] == {'b': f'{folder}/b.png: too flat'}


def test_the_help_states_the_rules(capsys):
  with pytest.raises(SystemExit, match='0'):
    main(['predict', '--help'])
  text = ' '.join(capsys.readouterr().out.split())
  for rule in (
    'alpha is dropped',
    'CMYK',
    'upper 8 bits',
    'EXIF orientation is applied',
    '89,478,485 pixels',
  ):
    assert rule in text
