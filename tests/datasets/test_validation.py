"""Checks before a dataset is stored."""

import io

import numpy as np
import pytest

from dense_aspp_jax.datasets import validation
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import CAMVID_11


def stored(where: str, data: bytes = b'') -> StoredFile:
  return StoredFile(where, lambda: io.BytesIO(data))


def make_pair(image_id: str = 'a', size=(4, 6), label_size=None, ids=0) -> validation.Pair:
  return validation.Pair(
    image_id,
    stored(f'images/{image_id}', encode_png(np.zeros((*size, 3), np.uint8))),
    stored(f'labels/{image_id}', encode_png(np.full(label_size or size, ids, np.uint8))),
  )


def test_pairs_are_sorted_by_image_id():
  files = {name: stored(name) for name in ('b', 'c', 'a')}
  pairs = validation.pair_files(files, dict(reversed(files.items())), 'here')
  assert [p.image_id for p in pairs] == ['a', 'b', 'c']
  assert all(p.image.where == p.label.where == p.image_id for p in pairs)


def test_halves_are_counted_and_the_first_named():
  image_files = {f'{i:02d}': stored(f'images/{i:02d}') for i in range(12)}
  label_files = {name: stored(f'labels/{name}') for name in ('03', '77', '78')}
  with pytest.raises(InputError) as error:
    validation.pair_files(image_files, label_files, 'here')
  assert str(error.value) == (
    'here: 11 images without label: images/00, images/01, images/02, images/04, images/05, ...; '
    '2 labels without image: labels/77, labels/78. Add what is missing, or remove the other half'
  )


def test_counts(capsys: pytest.CaptureFixture):
  pairs = [make_pair()]
  validation.check_counts({'train': pairs * 2}, {'train': 2}, 'here', allow_partial=False)
  assert capsys.readouterr().err == ''
  with pytest.raises(InputError, match=r'here: number of images: train 2 \(published: 3\), test 0'):
    validation.check_counts({'train': pairs * 2}, {'train': 3, 'test': 1}, 'here', allow_partial=False)
  validation.check_counts({'train': pairs * 2}, {'train': 3, 'test': 1}, 'here', allow_partial=True)
  assert capsys.readouterr().err == (
    'warning: here: number of images: train 2 (published: 3), test 0 (published: 1)\n'
  )
  with pytest.raises(InputError, match='no images found'):
    validation.check_counts({}, {'train': 3}, 'here', allow_partial=True)


def test_sizes(capsys: pytest.CaptureFixture):
  pairs = [make_pair('a'), make_pair('b', (5, 6)), make_pair('c', (5, 6)), make_pair('d', (4, 8))]
  validation.check_sizes(pairs[:1], (4, 6), 'here', allow_partial=False)
  assert capsys.readouterr().err == ''
  message = 'here: 3 images not of 6x4 pixels, as published, but 1 of 8x4, 2 of 6x5; the first is images/b'
  with pytest.raises(InputError) as error:
    validation.check_sizes(pairs, (4, 6), 'here', allow_partial=False)
  assert str(error.value).startswith(message)
  validation.check_sizes(pairs, (4, 6), 'here', allow_partial=True)
  assert capsys.readouterr().err == f'warning: {message}\n'


@pytest.mark.parametrize('allow_partial', [False, True])
def test_image_and_label_of_different_sizes_are_never_permitted(allow_partial: bool):
  with pytest.raises(InputError, match=r'labels/a: label of 6x3 pixels for an image of 6x4 \(images/a\)'):
    validation.check_sizes([make_pair(label_size=(3, 6))], (4, 6), 'here', allow_partial)


def test_sizes_read_headers_only():
  pair = make_pair()
  headers = [StoredFile(f.where, lambda f=f: io.BytesIO(f.read(33))) for f in pair[1:]]
  validation.check_sizes([validation.Pair('a', *headers)], (4, 6), 'here', allow_partial=False)
  with pytest.raises(InputError, match='images/a: truncated PNG'):
    validation.read_pair(validation.Pair('a', *headers), CAMVID_11)


def test_read_pair():
  pair = make_pair(ids=11)
  assert validation.read_pair(pair, CAMVID_11) == ('a', pair.image.read(), pair.label.read())
  with pytest.raises(InputError, match=r'labels/a: unknown label ids 12 \(24 pixels\)'):
    validation.read_pair(make_pair(ids=12), CAMVID_11)
