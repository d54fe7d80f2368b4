"""Writes small datasets in the true layouts of Cityscapes, CamVid and a labelled folder, for tests.

Everything is deterministic. Label ids are rectangles, so that they differ between images.
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.label_tables import CAMVID_32

CITYSCAPES_CITIES = {
  'test': ('berlin',),
  'train': ('aachen', 'bochum'),
  'val': ('frankfurt',),
  'train_extra': ('bad-honnef',),
}
CAMVID_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test'}


def scene(seed: int, size: tuple[int, int], num_ids: int) -> tuple[np.ndarray, np.ndarray]:
  """An image (uint8 `[*size, 3]`) and its label ids (uint8 `[*size]`, below `num_ids`)."""
  random = np.random.default_rng(seed)
  height, width = size
  label = np.full(size, random.integers(num_ids), np.uint8)
  for _ in range(8):
    top, left = random.integers(height), random.integers(width)
    label[top : top + random.integers(1, height), left : left + random.integers(1, width)] = random.integers(
      num_ids
    )
  color = np.random.default_rng(0).integers(30, 220, (256, 3))
  image = color[label] + random.integers(-20, 21, (*size, 1))
  return image.astype(np.uint8), label


def cityscapes_files(
  counts: Mapping[str, int], size: tuple[int, int] = (16, 32), annotations: str = 'gtFine'
) -> tuple[dict[str, bytes], dict[str, bytes]]:
  """Members of the official zips of images and of labels, each name -> bytes.

  Args:
    counts: Number of images by official folder ('train', 'val', 'test', 'train_extra').
    size: Height and width; the published one is (1024, 2048).
    annotations: 'gtFine' or 'gtCoarse'.
  """
  image_files = {'README': b'generated', 'license.txt': b'generated'}
  label_files = dict(image_files)
  for folder, count in counts.items():
    for i in range(count):
      cities = CITYSCAPES_CITIES[folder]
      city = cities[i % len(cities)]
      image_id = f'{city}_{i:06d}_000019'
      image, label = scene(1000 * list(CITYSCAPES_CITIES).index(folder) + i, size, 34)
      if folder == 'test':
        label[:] = 0  # the official test labels are dummies
      image_files[f'leftImg8bit/{folder}/{city}/{image_id}_leftImg8bit.png'] = encode_png(image)
      stem = f'{annotations}/{folder}/{city}/{image_id}_{annotations}'
      label_files[f'{stem}_labelIds.png'] = encode_png(label)
      label_files[f'{stem}_instanceIds.png'] = encode_instances(label)
      label_files[f'{stem}_color.png'] = encode_png(image)  # not read
      label_files[f'{stem}_polygons.json'] = json.dumps({'objects': []}).encode()
  return image_files, label_files


def encode_instances(label: np.ndarray) -> bytes:
  """Encodes label ids as Cityscapes does instances: 16 bits, id * 1000 + number for what can be counted."""
  buffer = io.BytesIO()
  instances = np.where(label < 24, label, label.astype(np.uint16) * 1000 + 3)
  Image.fromarray(instances.astype(np.uint16)).save(buffer, 'PNG')
  return buffer.getvalue()


def read_pair(pair: Pair) -> Example:
  """Reads both files of a pair."""
  return Example(pair.image_id, pair.image.read(), pair.label.read())


def write_tree(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes each file below `folder`."""
  for name, data in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_zip(path: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes a zip archive with these members."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path, 'w') as archive:
    for name, data in files.items():
      archive.writestr(name, data)


def write_cityscapes_zips(
  folder: pathlib.Path, counts: Mapping[str, int], size: tuple[int, int] = (16, 32)
) -> None:
  """Writes leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into `folder`."""
  image_files, label_files = cityscapes_files(counts, size)
  write_zip(folder / 'leftImg8bit_trainvaltest.zip', image_files)
  write_zip(folder / 'gtFine_trainvaltest.zip', label_files)


def write_cityscapes_tree(
  folder: pathlib.Path, counts: Mapping[str, int], size: tuple[int, int] = (16, 32)
) -> None:
  """Writes the extracted trees leftImg8bit/ and gtFine/ into `folder`."""
  for files in cityscapes_files(counts, size):
    write_tree(folder, files)


def camvid_files(counts: Mapping[str, int], size: tuple[int, int] = (12, 16)) -> dict[str, bytes]:
  """The files of SegNet's folder CamVid/, relative name -> bytes.

  Args:
    counts: Number of pairs by split ('train', 'validation', 'test').
    size: Height and width; the published one is (360, 480).
  """
  files = {}
  for split, count in counts.items():
    folder = CAMVID_FOLDERS[split]
    lines = []
    for i in range(count):
      image, label = scene(5000 + 1000 * sorted(CAMVID_FOLDERS).index(split) + i, size, 12)
      name = f'0001TP_{6690 + 30 * i:06d}.png'
      files[f'{folder}/{name}'] = encode_png(image)
      files[f'{folder}annot/{name}'] = encode_png(label)
      lines.append(f'/SegNet/CamVid/{folder}/{name} /SegNet/CamVid/{folder}annot/{name}\n')
    files[f'{folder}.txt'] = ''.join(lines).encode()
  return files


def write_camvid(folder: pathlib.Path, counts: Mapping[str, int], size: tuple[int, int] = (12, 16)) -> None:
  """Writes SegNet's folder CamVid/ as `folder`."""
  write_tree(folder, camvid_files(counts, size))


def camvid_full_files(image_ids: Iterable[str], size: tuple[int, int] = (12, 16)) -> dict[str, bytes]:
  """Frames and labels of CamVid as published, in its two folders, relative name -> bytes.

  Args:
    image_ids: Names of the frames.
    size: Height and width; the published one is (720, 960).
  """
  files = {}
  colors = np.array([color for _, color in CAMVID_32], np.uint8)
  for seed, image_id in enumerate(image_ids):
    image, label = scene(7000 + seed, size, 32)
    files[f'701_StillsRaw_full/{image_id}.png'] = encode_png(image)
    files[f'LabeledApproved_full/{image_id}_L.png'] = encode_png(colors[label])
  return files


def write_labelled_folder(
  folder: pathlib.Path, counts: Mapping[str, int], size: tuple[int, int] = (16, 24), num_ids: int = 3
) -> None:
  """Writes a labelled folder (docs/own_data.md) whose label ids are 0..num_ids-1; 255 is ignored."""
  files = {
    'labels.json': json.dumps(
      {
        'name': 'generated',
        'classes': [
          {'name': f'class {i}', 'ids': [i], 'color': [80 * i % 256, 40, 200]} for i in range(num_ids)
        ],
        'ignore_ids': [255],
      }
    ).encode()
  }
  for number, (split, count) in enumerate(sorted(counts.items())):
    for i in range(count):
      image, label = scene(9000 + 1000 * number + i, size, num_ids)
      files[f'{split}/images/scene_{i:03d}.png'] = encode_png(image)
      files[f'{split}/labels/scene_{i:03d}.png'] = encode_png(label)
  write_tree(folder, files)
