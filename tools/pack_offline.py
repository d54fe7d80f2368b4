r"""Packs a folder that trains on a machine without a network: code, wheels, data, and a run.sh.

  python tools/pack_offline.py --data camvid --output pack                    # what `prepare` stored
  python tools/pack_offline.py --data camvid --source FOLDER --output pack    # or SegNet's folder CamVid/
  bash pack/run.sh configs/camvid.py 60                                       # there, for at most 60 minutes

The wheels are those of this package and of what the machine lacks (tools/offline/target_packages.txt says
what it has), at the versions of constraints.txt; they come from PyPI. The images become JPEGs without chroma
subsampling; the manifest has the error of the copy and the terms of use.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pathlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.images import decode_image
from dense_aspp_jax.datasets.pairs import check_pair
from dense_aspp_jax.datasets.prepare import DATASETS, prepare
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import new_directory, write_json
from dense_aspp_jax.progress import progress
from dense_aspp_jax.provenance import git_commit, provenance
from tools.offline.wheels import ROOT, collect_wheels, read_pins, read_target

OFFLINE = ROOT / 'tools' / 'offline'
_MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
  """Packs and prints the sizes; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, choices=DATASETS)
  parser.add_argument('--output', required=True, type=pathlib.Path, help='new or empty folder')
  parser.add_argument(
    '--source', type=pathlib.Path, help='files, as for `dense-aspp prepare`; default: the prepared data'
  )
  parser.add_argument('--data-dir', help='where the prepared data are, as for `dense-aspp prepare`')
  parser.add_argument('--test', action='store_true', help='pack the test split too')
  parser.add_argument('--weights', type=pathlib.Path, help='what `dense-aspp convert` wrote, to pack it too')
  parser.add_argument(
    '--quality', type=int, default=95, choices=range(50, 96), metavar='Q', help='of the JPEGs'
  )
  parser.add_argument(
    '--target',
    type=pathlib.Path,
    default=OFFLINE / 'target_packages.txt',
    help='lists what the machine has (default: tools/offline/target_packages.txt)',
  )
  parser.add_argument('--limit-mib', type=float, default=58, help='largest size of the folder (default: 58)')
  args = parser.parse_args(arguments)
  try:
    with new_directory(args.output) as folder:
      manifest = write_pack(folder, args)
  except (InputError, RunError) as error:
    print(f'pack_offline: {error}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  error = manifest['data']['error']
  print(f'{args.output}: {describe_sizes(manifest["bytes"])}, commit {manifest["git_commit"]}')
  print(f'images as JPEG differ by {error["mean"]:.2f} of 255 grey levels on average, {error["max"]} at most')
  return 0


def write_pack(folder: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
  """Writes everything into a folder; returns the manifest.

  Raises:
    InputError: Data or weights that cannot be used, versions that do not fit, or more than the limit.
    RunError: pip failed.
  """
  target = read_target(args.target)
  if args.weights and not (args.weights / 'weights.json').is_file():
    raise InputError(f'--weights={args.weights}: no weights.json; expected what `dense-aspp convert` wrote')
  data_folder = f'data/{args.data}_jpeg_q{args.quality}'
  splits = ('train', 'validation', 'test') if args.test else ('train', 'validation')
  with tempfile.TemporaryDirectory() as scratch:
    if args.source:
      prepare(args.data, args.source, scratch)
    data_dir = scratch if args.source else args.data_dir
    data = write_jpeg_copy(folder / data_folder, args.data, splits, args.quality, data_dir)
  commit = git_commit('configs')  # packed too
  carried = collect_wheels(folder / 'wheels', target, commit, read_pins(ROOT / 'constraints.txt', target))
  shutil.copytree(ROOT / 'configs', folder / 'configs', ignore=shutil.ignore_patterns('__pycache__', '.*'))
  for file in (ROOT / 'train.py', OFFLINE / 'run.sh', OFFLINE / 'run.py', OFFLINE / 'README.txt'):
    shutil.copy(file, folder)
  if args.weights:  # without the classifier, which no training reads
    ignored = shutil.ignore_patterns('classifier')
    shutil.copytree(args.weights, folder / 'weights' / args.weights.resolve().name, ignore=ignored)
  files = list_files(folder)
  sizes: Counter[str] = Counter()  # of each folder, and of the files beside them together
  for name, file in files.items():
    sizes[name.split('/')[0] if '/' in name else 'files'] += file['bytes']
  manifest = {
    'git_commit': commit,
    'python': target.python,
    'packages': {'carried': carried, 'expected': dict(target.packages)},
    'data': {'folder': data_folder, **data},
    'bytes': dict(sizes),
    'files': files,
    'provenance': provenance(),
  }
  write_json(folder / 'manifest.json', manifest)
  if sizes.total() + (folder / 'manifest.json').stat().st_size > args.limit_mib * _MIB:
    raise InputError(
      f'{args.output}: {describe_sizes(sizes)}; expected at most {args.limit_mib:g} MiB (--limit-mib). '
      'Nothing was written. Choose a lower --quality, or leave out --weights or --test'
    )
  return manifest


def write_jpeg_copy(
  folder: pathlib.Path, name: str, splits: Sequence[str], quality: int, data_dir: str | None
) -> dict[str, Any]:
  """Copies a prepared data set into a labelled folder (docs/own_data.md); label maps stay byte for byte.

  Args:
    folder: Made.
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
  dataset = DATASETS[name]
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


def list_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Path in the folder -> size and SHA-256, sorted."""
  contents = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  return {
    name: {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
    for name, data in sorted(contents.items())
  }


def describe_sizes(sizes: dict[str, int]) -> str:
  """Such as '50.1 MiB (data 38.0, wheels 12.0, configs 0.1)'."""
  parts = ', '.join(f'{part} {size / _MIB:.1f}' for part, size in Counter(sizes).most_common())
  return f'{sum(sizes.values()) / _MIB:.1f} MiB ({parts})'


if __name__ == '__main__':
  sys.exit(main())
