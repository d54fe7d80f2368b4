"""Pairing of files, and what is said of those that do not fit together."""

import io

import pytest

from dense_aspp_jax.datasets.listing import Listing, pair_files
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError


def stored(where: str) -> StoredFile:
  return StoredFile(where, lambda: io.BytesIO(b''))


def test_pairs_are_sorted_by_image_id():
  files = {name: stored(name) for name in ('b', 'c', 'a')}
  pairs, problems = pair_files(files, dict(reversed(files.items())))
  assert problems == []
  assert [p.image_id for p in pairs] == ['a', 'b', 'c']
  assert all(p.image.where == p.label.where == p.image_id for p in pairs)


def test_every_half_is_a_problem_and_the_first_are_shown():
  image_files = {f'{i:02d}': stored(f'images/{i:02d}') for i in range(6)}
  label_files = {name: stored(f'labels/{name}') for name in ('03', '77', '78')}
  pairs, problems = pair_files(image_files, label_files)
  assert [p.image_id for p in pairs] == ['03']
  assert [p.split(';')[0] for p in problems] == [
    *(f'images/{name}: image without label' for name in ('00', '01', '02', '04', '05')),
    *(f'labels/{name}: label without image' for name in ('77', '78')),
  ]
  assert problems[0].endswith('; expected a label named 00. Add it, or remove the image')
  assert Listing('here', pairs, [], ['stray']).require() == pairs
  with pytest.raises(InputError) as error:
    Listing('here', pairs, problems, []).require()
  assert str(error.value).splitlines() == [
    'here: 7 problems:',
    *(f'  {problem}' for problem in problems[:5]),
    '  and 2 more; `dense-aspp check-data` lists them all',
  ]
