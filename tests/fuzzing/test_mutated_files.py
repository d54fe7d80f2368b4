"""Damaged files: each is refused by a message with its path, or decoded to what another decoder finds."""

import functools
import io
import itertools
import random

import ml_dtypes
import mutations
import numpy as np
import plain_png
import plain_weights
import pytest
import torch_files
from limits import TooSlow, memory_limit, time_limit
from PIL import Image

from dense_aspp_jax.datasets.images import decode_image, decode_label
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.weights.readers import read_tensors

SECONDS = 5  # of processor time, for one file
MEMORY = 2 * 2**30  # for all; an image of as many pixels as are allowed takes 0.3 GiB
many = pytest.mark.parametrize('count', [60, pytest.param(2000, marks=pytest.mark.slow)])


def mutants(originals, kinds, count):
  """So many damaged files with the numbers they are drawn from, some of them damaged twice."""

  def mutant(seed):
    rng = random.Random(seed)
    original = rng.choice(originals)
    data = rng.choice(kinds)(original, rng)
    if rng.random() < 0.2 and data:
      data = rng.choice(mutations.ANY_FILE)(data, rng)
    return seed, data

  changed = (m for m in map(mutant, itertools.count()) if m[1] not in originals)
  return itertools.islice(changed, count)


def test_the_limits_hold():
  def spin():
    while True:
      pass

  with pytest.raises(TooSlow), time_limit(0.05):
    spin()
  with pytest.raises(MemoryError), memory_limit(2**20):
    bytes(2**30)
  assert len(bytes(2**30)) == 2**30


def check(path, files, read, confirm):
  """Reads every file; returns how many were accepted and how many refused.

  Args:
    path: Where each is written to.
    files: Number and content.
    read: Reads a path.
    confirm: Compares what was read with what another decoder makes of the content.
  """
  accepted = refused = 0
  for seed, data in files:
    path.write_bytes(data)
    try:
      with time_limit(SECONDS), memory_limit(MEMORY):
        result = read(path)
    except InputError as error:
      message = str(error)
      assert message.startswith(f'{path}: '), (seed, message)
      assert '\n' not in message, seed
      assert 'MemoryError' not in message, (seed, message)
      refused += 1
    except Exception as error:
      raise AssertionError(f'mutant {seed}: {type(error).__name__}') from error
    else:
      try:
        confirm(data, result)
      except Exception as error:
        raise AssertionError(f'mutant {seed} was accepted and not confirmed') from error
      accepted += 1
  return accepted, refused


def png_files():
  rng = np.random.default_rng(0)
  for index, (color_type, depths) in enumerate(plain_png.BIT_DEPTHS.items()):
    for bit_depth in depths:
      num_colors = min(2**bit_depth, 20) if color_type == plain_png.PALETTE else 0
      shape = (9, 7, plain_png.CHANNELS[color_type])
      yield plain_png.encode(
        plain_png.Picture(
          rng.integers(0, num_colors or 2**bit_depth, shape).astype(np.uint16),
          bit_depth,
          color_type,
          rng.integers(0, 256, (num_colors, 3)).astype(np.uint8),
        ),
        interlaced=index % 2 == bit_depth // 8 % 2,
        filters=(0, 1, 2, 3, 4),
        num_parts=2,
        other_chunks={b'tEXt': b'Comment\0none'},
      )


@many
def test_png_images(tmp_path, count):
  kinds = (
    *mutations.ANY_FILE,
    mutations.reorder_png,
    mutations.change_png_chunk,
    mutations.change_png_header,
  )

  def confirm(data, rgb):
    np.testing.assert_array_equal(rgb, plain_png.decode(data).rgb)

  accepted, refused = check(
    tmp_path / 'a.png',
    mutants(list(png_files()), kinds, count),
    lambda path: decode_image(path.read_bytes(), str(path), as_stored=True),
    confirm,
  )
  assert accepted > count / 50
  assert refused > count / 2


@many
def test_png_labels(tmp_path, count):
  kinds = (mutations.reorder_png, mutations.change_png_chunk, mutations.change_png_header)
  originals = [data for data in png_files() if data[25] in (plain_png.GREY, plain_png.PALETTE)]

  def confirm(data, ids):
    np.testing.assert_array_equal(ids, plain_png.decode(data).samples[..., 0])

  accepted, refused = check(
    tmp_path / 'a.png',
    mutants(originals, kinds, count),
    lambda path: decode_label(path.read_bytes(), str(path)),
    confirm,
  )
  assert accepted > count / 50
  assert refused > count / 2


def jpeg_files():
  rng = np.random.default_rng(0)
  exif = Image.Exif()
  exif[0x0112] = 6
  for mode, channels in (('L', ()), ('RGB', (3,)), ('CMYK', (4,))):
    for progressive in (False, True):
      buffer = io.BytesIO()
      pixels = rng.integers(0, 256, (3, 5, *channels)).astype(np.uint8)
      image = Image.fromarray(pixels, mode).resize((37, 25), Image.Resampling.BICUBIC)
      image.save(buffer, 'JPEG', progressive=progressive, exif=exif, restart_marker_rows=1)
      yield buffer.getvalue()


@many
@pytest.mark.filterwarnings('ignore::UserWarning:PIL')  # about damaged EXIF data
def test_jpeg_images(tmp_path, count):
  """JPEG has no checksums: whether pixels are damaged cannot be known. Compared with Pillow on its own."""
  kinds = (*mutations.ANY_FILE, mutations.reorder_jpeg, mutations.change_jpeg_segment)

  def confirm(data, results):
    stored, upright = results
    with Image.open(io.BytesIO(data)) as image:
      assert image.format == 'JPEG'
      np.testing.assert_array_equal(stored, np.asarray(image.convert('RGB')))
    turned = (np.rot90(a, k) for a in (stored, stored[:, ::-1]) for k in range(4))
    assert any(np.array_equal(upright, a) for a in turned)

  accepted, refused = check(
    tmp_path / 'a.jpg',
    mutants(list(jpeg_files()), kinds, count),
    lambda path: (
      decode_image(path.read_bytes(), str(path), as_stored=True),
      decode_image(path.read_bytes(), str(path)),
    ),
    confirm,
  )
  assert accepted > count / 20
  assert refused > count / 20


def other_images(file_format):
  rng = np.random.default_rng(0)
  colors = Image.fromarray(rng.integers(0, 256, (3, 5, 3)).astype(np.uint8)).resize((37, 25))
  palette = Image.fromarray(rng.integers(0, 20, (25, 37)).astype(np.uint8))
  palette.putpalette(rng.integers(0, 256, 60).tolist())
  compressed = {'TIFF': ({}, {'compression': 'tiff_lzw'}, {'compression': 'tiff_adobe_deflate'})}
  for image in (colors, colors.convert('L'), colors.convert('RGBA'), colors.convert('1'), palette):
    for options in compressed.get(file_format, ({'lossless': True},)):
      buffer = io.BytesIO()
      image.save(buffer, file_format, **options)
      yield buffer.getvalue()


@many
@pytest.mark.parametrize('file_format', ['TIFF', 'WEBP', 'BMP', 'GIF'])
@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_images_in_other_formats(tmp_path, file_format, count):
  """They have no checksums either."""

  def confirm(data, rgb):
    with Image.open(io.BytesIO(data)) as image:
      assert image.format == file_format
      if not image.mode.startswith('I'):
        np.testing.assert_array_equal(rgb, np.asarray(image.convert('RGB')))

  accepted, refused = check(
    tmp_path / 'a',
    mutants(list(other_images(file_format)), mutations.ANY_FILE, count // 2),
    lambda path: decode_image(path.read_bytes(), str(path)),
    confirm,
  )
  assert accepted > count / 40
  assert refused > count / 40


@functools.cache
def weights_files(kind, folder):
  """The bytes of a file with all types, and of one whose tensors share a storage."""
  rng = np.random.default_rng(0)
  tensors = {
    dtype: rng.integers(0, 2, (3, 2)).astype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)
    for dtype in torch_files.STORAGES
  }
  tensors |= {'scalar': np.array(5, np.int64), 'empty': np.zeros((0, 4), np.float32)}
  path = folder / kind
  if kind == 'safetensors':
    torch_files.write_safetensors(path, tensors)
    return [path.read_bytes()]
  torch_files.write_pth(path, tensors, legacy=kind == 'legacy')
  files = [path.read_bytes()]
  views = {
    'rows': torch_files.View('FloatStorage', '0', 12, 0, (3, 4), (4, 1)),
    'columns': torch_files.View('FloatStorage', '0', 12, 1, (2, 3), (2, 4)),
  }
  body, storages = torch_files.pickled(torch_files.state(views, kind == 'legacy')), {'0': rng.bytes(48)}
  if kind == 'legacy':
    path.write_bytes(torch_files.legacy_stream(body, storages, {'0': 12}))
  else:
    torch_files.write_zip(path, body, storages)
  return [*files, path.read_bytes()]


def change_member(data, rng):
  """Damages the pickle of a .pth file of the zip format, with right checksums."""
  members = plain_weights.zip_members(data)
  storages = {name.rpartition('/')[2]: read() for name, read in members.items() if '/data/' in name}
  body = rng.choice(mutations.ANY_FILE)(members['archive/data.pkl'](), rng)
  buffer = io.BytesIO()
  torch_files.write_zip(buffer, body, storages)
  return buffer.getvalue()


WEIGHTS = {
  'zip': (change_member, plain_weights.read_zip),
  'legacy': (mutations.flip_last_bits, plain_weights.read_legacy),
  'safetensors': (mutations.change_safetensors_header, plain_weights.read_safetensors),
}


@many
@pytest.mark.parametrize('kind', WEIGHTS)
def test_weights(tmp_path, kind, count):
  planned, read_plainly = WEIGHTS[kind]

  def confirm(data, tensors):
    expected = read_plainly(data)
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
      assert (tensors[name].dtype, tensors[name].shape) == (array.dtype, array.shape), name
      assert tensors[name].tobytes() == array.tobytes(), name

  accepted, refused = check(
    tmp_path / 'a.pth',
    mutants(weights_files(kind, tmp_path), (*mutations.ANY_FILE, planned, planned), count),
    read_tensors,
    confirm,
  )
  assert accepted > count / 100
  assert refused > count / 2
