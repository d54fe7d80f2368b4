"""A compact copy of a published data set, as a labelled folder (docs/own_data.md) of JPEGs."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.images import decode_image
from dense_aspp_jax.datasets.pairs import check_pair
from dense_aspp_jax.datasets.prepare import find_dataset
from dense_aspp_jax.files import write_json
from dense_aspp_jax.progress import progress


def write_jpeg_copy(
  folder: pathlib.Path, name: str, splits: Sequence[str], quality: int, data_dir: str | None
) -> dict[str, Any]:
  """Writes images of a prepared data set as JPEGs without chroma subsampling, and label maps byte for byte.

  Args:
    folder: Made; labels.json in it has the label set of the data set.
    name: A name in `DATASETS`.
    splits: Those to copy.
    quality: libjpeg's, 1 to 95.
    data_dir: As `config.data.data_dir`.

  Returns:
    For the manifest: number of pairs, settings, terms of use, and the error of the copy in grey levels
    (0..255) over all pixels and channels.

  Raises:
    InputError: The data set is not prepared, or lacks a split.
  """
  dataset = find_dataset(name)
  opened = {split: dataset.open_split(split, data_dir) for split in splits}
  write_json(folder / 'labels.json', dataset.label_set.to_json())
  total, count, largest = 0, 0, 0
  for split, source in opened.items():
    images, labels = folder / split / 'images', folder / split / 'labels'
    images.mkdir(parents=True)
    labels.mkdir()
    for stored in progress(source, f'Copying {source.name}', unit='image'):
      pair = check_pair(stored, dataset.label_set, published=True)
      image_id = pair.example.image_id
      encoded = encode_jpeg(pair.image, quality)
      (images / f'{image_id}.jpg').write_bytes(encoded)
      (labels / f'{image_id}.png').write_bytes(pair.example.label)
      error = np.abs(pair.image.astype(np.int16) - decode_image(encoded, image_id))
      total, count, largest = total + int(error.sum()), count + error.size, max(largest, int(error.max()))
  return {
    'dataset': name,
    'images': {split: len(source) for split, source in opened.items()},
    'jpeg': {'quality': quality, 'subsampling': '4:4:4', 'progressive': True},
    'error': {'mean': total / count, 'max': largest},
    'labels': 'byte for byte',
    'licence': f'{dataset.terms} Do not publish this copy.',
  }


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
  """Encodes uint8 `[h, w, 3]` RGB as JPEG 4:4:4; progressive, which is the same picture in fewer bytes."""
  buffer = io.BytesIO()
  options = dict(quality=quality, subsampling='4:4:4', optimize=True, progressive=True)
  Image.fromarray(image).save(buffer, 'JPEG', **options)
  return buffer.getvalue()
