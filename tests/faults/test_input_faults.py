"""What people and strangers put in: pictures of any kind to predict, weights that do harm or do not fit."""

import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import plain_png
import pytest
import torch_files
from drawn_weights import draw_classifier
from PIL import Image
from plain_png import GREY_ALPHA, PALETTE, RGB, RGB_ALPHA, Picture

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.evaluation.pictures import overlay
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training.run import load_run

EXIF_ORIENTATION = 0x0112
HEIGHT, WIDTH = 16, 24


def predict(workdir, output, *arguments):
  return main(['predict', '--workdir', str(workdir), '--output', str(output), *map(str, arguments)])


def check_prediction(run, output, name, rgb):
  """Label ids are those of the run's network for these pixels; the overlay shows the pixels themselves."""
  classes = run.predictor.predict(rgb)
  with Image.open(output / 'label_ids' / f'{name}.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), CITYSCAPES_20.decode(classes), err_msg=name)
  with Image.open(output / 'overlay' / f'{name}.png') as picture:
    np.testing.assert_array_equal(np.asarray(picture), overlay(rgb, classes, CITYSCAPES_20), err_msg=name)


@pytest.fixture(scope='module')
def run(tiny_run):
  return load_run(tiny_run)


def test_scenario_21_pictures_of_any_kind_are_predicted_by_stated_rules(run, tiny_run, tmp_path):
  rng = np.random.default_rng(0)
  folder, output = tmp_path / 'in', tmp_path / 'out'
  folder.mkdir()
  rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
  alpha = rng.integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)
  grey = np.repeat(rgb[..., :1], 3, 2)
  deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
  colors, none = rng.integers(0, 256, (8, 3)).astype(np.uint8), np.zeros((0, 3), np.uint8)
  cmyk = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
  cmyk[..., 1] = 255  # magenta alone
  pictures = {
    'grey': (Picture(rgb[..., :1], 8, plain_png.GREY, none), grey),
    'grey_alpha': (Picture(np.dstack([rgb[..., :1], alpha]), 8, GREY_ALPHA, none), grey),
    'rgb_alpha': (Picture(np.dstack([rgb, alpha]), 8, RGB_ALPHA, none), rgb),
    'grey_16': (Picture(deep[..., :1], 16, plain_png.GREY, none), np.repeat(deep[..., :1] >> 8, 3, 2)),
    'rgb_16': (Picture(deep, 16, RGB, none), deep >> 8),
    'palette': (Picture(rgb[..., :1] % 8, 8, PALETTE, colors), colors[rgb[..., 0] % 8]),
    'bilevel': (Picture(rgb[..., :1] % 2, 1, plain_png.GREY, none), 255 * (grey % 2)),
  }
  expected = {name: values.astype(np.uint8) for name, (_, values) in pictures.items()}
  for name, (picture, _) in pictures.items():
    samples = picture.samples.astype(np.uint16)
    (folder / f'{name}.png').write_bytes(plain_png.encode(picture._replace(samples=samples)))
  Image.fromarray(cmyk, 'CMYK').save(folder / 'cmyk.jpg', quality=100)
  expected['cmyk'] = np.broadcast_to(np.array([255, 0, 255], np.uint8), rgb.shape)
  exif = Image.Exif()
  exif[EXIF_ORIENTATION] = 6  # a viewer turns it clockwise
  turned = np.ascontiguousarray(np.rot90(rgb))
  Image.fromarray(turned).save(folder / 'turned.png', exif=exif)
  expected['turned'] = rgb
  assert predict(tiny_run, output, folder) == 0
  assert predict(tiny_run, tmp_path / 'stored', '--as-stored', folder / 'turned.png') == 0
  for name, values in expected.items():
    check_prediction(run, output, name, values)
  check_prediction(run, tmp_path / 'stored', 'turned', turned)
  assert len(np.unique(run.predictor.predict(rgb))) > 3  # so that other pixels would show


def bomb() -> bytes:
  """A PNG of about 1 kB with right checksums whose header says 20000x20000."""
  header = struct.pack('>IIBBBBB', 20000, 20000, 8, RGB, 0, 0, 0)
  chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(bytes(900_000))), (b'IEND', b'')]
  return plain_png.SIGNATURE + b''.join(plain_png.chunk(*chunk) for chunk in chunks)


# Prints the exit code, and of the command, once imported, the seconds of processor time and the KiB by which
# the peak of memory grew. Not ru_maxrss, which begins at the peak of the process that started this one.
MEASURE = """
import sys, time
from dense_aspp_jax.commands import predict
from dense_aspp_jax.commands.main import main

def peak():
  with open('/proc/self/status') as status:
    return next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))

before, start = peak(), time.process_time()
code = main(sys.argv[1:])
print(code, time.process_time() - start, peak() - before)
"""


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/status').exists(), reason='the peak of memory is read in /proc'
)
def test_scenario_22_a_decompression_bomb_costs_next_to_nothing(tmp_path):
  (tmp_path / 'bomb.png').write_bytes(bomb())
  assert len(bomb()) < 1100
  arguments = ['predict', '--workdir', tmp_path / 'none', '--output', tmp_path / 'out', tmp_path / 'bomb.png']
  command = [sys.executable, '-c', MEASURE, *map(str, arguments)]
  root = pathlib.Path(__file__).parents[2]
  result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
  code, seconds, kibibytes = result.stdout.split()
  assert (
    'bomb.png: 20000x20000 pixels (height x width); expected between 1 and 89,478,485 pixels' in result.stderr
  )
  assert code == '2'
  assert float(seconds) < 1
  assert int(kibibytes) < 200 * 1024
  assert not (tmp_path / 'out').exists()


def test_scenario_22_a_bomb_in_a_folder_is_named_before_the_network_is_loaded(
  run, tiny_run, tmp_path, capsys
):
  folder, output = tmp_path / 'in', tmp_path / 'out'
  folder.mkdir()
  rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
  Image.fromarray(rgb).save(folder / 'a.png')
  (folder / 'bomb.png').write_bytes(bomb())
  assert predict(tmp_path / 'none', output, folder) == 2
  error = capsys.readouterr().err
  assert 0 <= error.find('bomb.png: 20000x20000 pixels') < error.find('no config.json there')
  assert not output.exists()
  assert predict(tiny_run, output, folder) == 2
  assert (
    f'1 of 2 images could not be predicted:\n  {folder}/bomb.png: 20000x20000 pixels'
    in capsys.readouterr().err
  )
  check_prediction(run, output, 'a', rgb)


def convert(path, output, architecture='densenet_tiny'):
  return main(['convert', '--architecture', architecture, '--input', str(path), '--output', str(output)])


@pytest.fixture(scope='module')
def tensors():
  """A whole state dict of densenet_tiny."""
  return draw_classifier()


class Evil:
  """Runs a command of the system when a pickle of it is loaded."""

  def __init__(self, command: str):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
@pytest.mark.parametrize('alone', [True, False])
def test_scenario_25_code_in_weights_is_refused_and_named(tensors, tmp_path, legacy, alone, capsys):
  ran, path = tmp_path / 'ran', tmp_path / 'evil.pth'
  payload = pickle.dumps(Evil(f'touch {ran}'), protocol=2)
  body = payload[2:-1]  # without PROTO and STOP
  assert torch_files.pickled(body) == payload
  views, storages = {}, {}
  for index, (name, array) in enumerate(tensors.items()):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    views[name] = torch_files.View('FloatStorage', str(index), array.size, 0, array.shape, strides)
    storages[str(index)] = array.tobytes()
  if not alone:  # in a state dict that is whole
    body = torch_files.state(views, legacy, metadata=False) + torch_files.text('extra') + body + b's'
  if legacy:
    counts = {view.key: view.count for view in views.values()}
    path.write_bytes(torch_files.legacy_stream(torch_files.pickled(body), storages, counts))
  else:
    torch_files.write_zip(path, torch_files.pickled(body), storages)
  assert convert(path, tmp_path / 'out') == 2
  system = f'{os.system.__module__}.system'
  assert f"{path}: refused: the pickle refers to '{system}'" in capsys.readouterr().err
  assert not ran.exists()
  assert not (tmp_path / 'out').exists()
  pickle.loads(payload)
  assert ran.exists()  # the payload works


def test_scenario_26_weights_of_another_network_are_listed_and_nothing_is_written(tensors, tmp_path, capsys):
  path, output = tmp_path / 'tiny.pth', tmp_path / 'out'
  torch_files.write_pth(path, tensors)
  assert convert(path, output, 'densenet_small') == 2
  error = capsys.readouterr().err
  conv0 = 'features.conv0.weight'
  small = draw_classifier('densenet_small')
  assert 'the weights do not fit' in error
  assert f'{conv0} {tensors[conv0].shape} for {small[conv0].shape}' in error
  first, *_, last = (name for name in tensors if name.startswith('features.'))
  changed = {('features.strange' if name == last else name): array for name, array in tensors.items()}
  changed[first] = tensors[first][:-1]
  torch_files.write_pth(path, changed)
  assert convert(path, output) == 2
  error = capsys.readouterr().err
  assert f'1 missing: {last} {tensors[last].shape}' in error
  assert f'1 extra: features.strange {tensors[last].shape}' in error
  assert f'1 mismatched: {first} {changed[first].shape} for {tensors[first].shape}' in error
  torch_files.write_pth(path, {'fc.weight': tensors[first]})
  assert convert(path, output) == 2
  assert "not weights of densenet_tiny: no key 'features.conv0.weight'" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['tiny.pth']


def test_scenario_26_a_wrong_checksum_is_refused(tensors, tmp_path, capsys):
  path = tmp_path / 'tiny-0123abcd.pth'
  torch_files.write_pth(path, tensors)
  assert convert(path, tmp_path / 'out') == 2
  assert f'{path}: its SHA-256 is ' in (error := capsys.readouterr().err)
  assert 'its name says 0123abcd' in error
  assert not (tmp_path / 'out').exists()
