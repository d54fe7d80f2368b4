"""What the digest of a data set notices of files too large to be read whole."""

import pathlib

import numpy as np
import pytest

from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.fingerprint import content_fingerprint
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.stored_files import StoredFile

NOISE = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)  # 0.7 MB, as a PNG too


def fingerprint(path: pathlib.Path) -> str:
  file = StoredFile.on_disk(path)
  return content_fingerprint([Pair('a', file, file)])


@pytest.mark.parametrize('position', [(0, 0, 0), (137, 411, 1), (399, 599, 2)])
def test_one_changed_value_of_a_large_png_is_noticed(tmp_path, position):
  path = tmp_path / 'a.png'
  path.write_bytes(encode_png(NOISE))
  first, size = fingerprint(path), path.stat().st_size
  changed = NOISE.copy()
  changed[position] ^= 1
  path.write_bytes(encode_png(changed))
  assert size > 2**18
  assert fingerprint(path) != first


@pytest.mark.parametrize('name', ['a.tif', 'a.bmp', 'a.npy'])
def test_a_large_file_that_is_not_compressed_is_read_whole(tmp_path, name):
  path, data = tmp_path / name, bytearray(NOISE.tobytes())
  path.write_bytes(data)
  first = fingerprint(path)
  data[len(data) // 3] ^= 1
  path.write_bytes(data)
  assert fingerprint(path) != first


def test_a_file_that_cannot_be_read_does_not_end_the_listing(tmp_path):
  assert fingerprint(tmp_path / 'none.png') == fingerprint(tmp_path / 'none either.png')
