"""Checks before a data set is stored."""

import dataclasses
import io
import re

import numpy as np
import pytest

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.listing import Listing
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair
from dense_aspp_jax.datasets.prepare import check_listings, read_pairs
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CAMVID_11


def stored(where: str, data: bytes = b'') -> StoredFile:
  return StoredFile(where, lambda: io.BytesIO(data))


def make_pair(image_id: str = 'a', size=(4, 6), label_size=None, ids=0) -> Pair:
  return Pair(
    image_id,
    stored(f'images/{image_id}', encode_png(np.zeros((*size, 3), np.uint8))),
    stored(f'labels/{image_id}', encode_png(np.full(label_size or size, ids, np.uint8))),
  )


def check(counts, allow_partial=False, skip_bad=0, **pairs):
  dataset = dataclasses.replace(CAMVID, counts=counts, image_size=(4, 6))
  listings = {split: Listing(split, found, [], []) for split, found in pairs.items()}
  return check_listings(dataset, listings, 'here', allow_partial, skip_bad)


def check_train(pairs, allow_partial=False, skip_bad=0):
  return check({'train': len(pairs)}, allow_partial, skip_bad, train=pairs)['train']


def test_counts(capsys: pytest.CaptureFixture):
  pairs = [make_pair()] * 2
  check({'train': 2}, train=pairs)
  check({'train': 2, 'test': 1}, train=pairs)  # which CamVid may lack
  assert capsys.readouterr().err == ''
  found = 'here: number of images: train 2 (published: 3), validation 0 (published: 1)'
  with pytest.raises(InputError) as error:
    check({'train': 3, 'validation': 1}, train=pairs)
  assert str(error.value).startswith(f'{found}. ')
  check({'train': 3, 'validation': 1}, allow_partial=True, train=pairs)
  assert capsys.readouterr().err == f'warning: {found}\n'
  with pytest.raises(InputError, match='no images found'):
    check({'train': 3}, allow_partial=True)


def test_sizes(capsys: pytest.CaptureFixture):
  pairs = [make_pair('a'), make_pair('b', (5, 6)), make_pair('c', (5, 6)), make_pair('d', (4, 8))]
  assert check_train(pairs[:1])[0] == pairs[:1]
  assert capsys.readouterr().err == ''
  message = (
    'here: 3 images not of 4x6 pixels (height x width), as published, but 1 of 4x8, 2 of 5x6; '
    'the first is images/b'
  )
  with pytest.raises(InputError) as error:
    check_train(pairs)
  assert str(error.value).startswith(message)
  assert check_train(pairs, allow_partial=True)[0] == pairs
  assert capsys.readouterr().err == f'warning: {message}\n'


@pytest.mark.parametrize('allow_partial', [False, True])
def test_image_and_label_of_different_sizes_are_bad(allow_partial: bool):
  message = r'labels/b: label of 3x6 pixels \(height x width\) for an image of 4x6 \(images/b\)'
  pairs = [make_pair('a'), make_pair('b', label_size=(3, 6))]
  with pytest.raises(InputError, match=message):
    check_train(pairs, allow_partial)
  good, bad = check_train(pairs, allow_partial, skip_bad=1)
  assert good == pairs[:1]
  (found,) = bad.messages
  assert re.match(message, found)


def test_headers_alone_are_read_first():
  pair = make_pair()
  headers = [StoredFile(f.where, lambda f=f: io.BytesIO(f.read(33))) for f in pair[1:]]
  short = Pair('a', *headers)
  assert check_train([short])[0] == [short]
  with pytest.raises(InputError, match=r'images/a: truncated PNG.*\nlabels/a: truncated PNG'):
    check_pair(short, CAMVID_11, published=True)


def test_bad_pairs_are_left_out_up_to_the_limit(capsys: pytest.CaptureFixture):
  pairs = [make_pair(name, ids=ids) for name, ids in (('a', 0), ('b', 12), ('c', 1), ('d', 13))]
  bad = BadPairs('x/train', 2)
  assert [e.image_id for e in read_pairs(pairs, CAMVID_11, bad)] == ['a', 'c']
  err = capsys.readouterr().err
  assert err.startswith('warning: x/train: 2 of 4 pairs left out')
  assert 'labels/b: unknown label ids 12 (24 pixels)' in err
  assert 'labels/d: unknown label ids 13 (24 pixels)' in err
  with pytest.raises(InputError, match=r'x/train: 2 bad pairs.* at most 1 (?s:.*)labels/b(?s:.*)labels/d'):
    list(read_pairs(pairs, CAMVID_11, BadPairs('x/train', 1)))
  with pytest.raises(InputError, match=r'x/train: none of 2 pairs can be used'):
    list(read_pairs(pairs[1::2], CAMVID_11, BadPairs('x/train', 2)))
