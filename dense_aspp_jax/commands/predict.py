"""Predict images with a trained network."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dense_aspp_jax.commands.run_arguments import (
  add_averaging_arguments,
  add_run_arguments,
  averaging_asked_for,
  averaging_predictor,
)
from dense_aspp_jax.datasets.images import IMAGE_EXTENSIONS, check_image_header, decode_image
from dense_aspp_jax.datasets.stored_files import Files, StoredFile, describe_left, files_of_folder
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.pictures import colorize, overlay
from dense_aspp_jax.evaluation.prediction_folder import (
  FOLDERS,
  PREDICTIONS_FILE,
  PredictionFolder,
  variables_digest,
)
from dense_aspp_jax.files import check_writable, shown
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.pretrained import DEFAULT
from dense_aspp_jax.progress import progress, say
from dense_aspp_jax.training.run import load_model

_NUM_THREADS = 4  # that decode, and as many that write
_MAX_PIXELS_IN_THREADS = 2**23  # of larger images, some twenty in memory would take gigabytes
_RULES = """\
Images are PNG, JPEG, TIFF, WebP, BMP and GIF files of any kind; of several pictures in a file the first is
taken. Grey and palette images become RGB; alpha is dropped, the colour below it kept; CMYK is converted
without a colour profile; of 16-bit samples the upper 8 bits are taken; float and 32-bit samples are rejected.
The EXIF orientation is applied, so a prediction has the size of the picture as viewers show it; --as-stored
ignores it. An image may have up to 89,478,485 pixels; one of 6000x8000 needs 1 GB of memory besides that of
the network.

Folders are searched with all their subfolders; links are followed and hidden files skipped. Other files,
judged by name, are counted on stderr. The prediction of FOLDER/sub/a.jpg is called sub/a.png. Of
several images with one name each keeps its extension (a.jpg.png, a.png.png), or if need be the folder above.

All headers are read first: a file that is no image, or claims to be larger, is rejected. The other images are
predicted nevertheless; the bad ones are listed at the end, and the exit code is 2. The network is loaded only
if there is an image to predict.

predictions.json says which network made the predictions in --output, of which images. Later calls may add to
them. Predictions of another network, or with other options, are refused there unless they replace all.

Put --scales and --window after the images, or before another option. Averaging holds the probabilities of all
classes at the image's size, several times: for 20 classes and 1000x1000 pixels, up to 1 GB of memory.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = _RULES
  add_run_arguments(parser, ('--model', '--checkpoint', '--weights', '--bn'), default_model=DEFAULT)
  parser.add_argument('--output', required=True, type=path_argument, help='directory for the predictions')
  parser.add_argument(
    '--as-stored', action='store_true', help='predict the pixels as stored, whatever the EXIF orientation'
  )
  parser.add_argument(
    'images', nargs='+', type=path_argument, metavar='IMAGE', help='image files, and folders of them'
  )
  add_averaging_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Writes label_ids/, color/ and overlay/ (one PNG an image, at its own size) and predictions.json."""
  averages = averaging_asked_for(args)
  images, left = find_images(args.images, args.output)
  if left:
    say(describe_left(left))
  for parent in {pathlib.PurePosixPath(name).parent for name in images}:
    for folder in FOLDERS:
      check_writable(args.output / folder / parent, '--output')
  refused = _names_refused(images, args.output)  # why, by name
  largest = 0  # pixels
  for name, path in images.items():
    if name not in refused:
      try:
        largest = max(largest, math.prod(check_image_header(path)))
      except InputError as error:
        refused[name] = str(error)
  if len(refused) < len(images):
    for why in refused.values():
      say(f'warning: {why}')
    in_threads = functools.partial(map_in_threads, num_threads=_NUM_THREADS)
    _predict(args, averages, images, refused, left, in_threads if largest <= _MAX_PIXELS_IN_THREADS else map)
  if refused:
    listed = '\n  '.join(refused[name] for name in images if name in refused)
    raise InputError(f'{len(refused)} of {len(images)} images could not be predicted:\n  {listed}')
  return 0


def _predict(
  args: argparse.Namespace,
  averages: bool,
  images: dict[str, pathlib.Path],
  refused: dict[str, str],
  left: list[str],
  map_: Callable[..., Iterator],
) -> None:
  """Predicts all images but those in `refused`, to which it adds damaged ones.

  Images are decoded ahead and written behind by `map_`, `map` or the like, around one that is predicted.
  """

  def decode(name: str) -> tuple[str, np.ndarray | None]:
    file = StoredFile.on_disk(images[name])
    try:
      return name, decode_image(file.read(), file.where, as_stored=args.as_stored)
    except InputError as error:
      refused[name] = str(error)
      return name, None

  def predict() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    try:
      for name, image in itertools.chain([first], decoded):
        try:
          yield name, image, predictor.predict(image)
        except InputError as error:
          refused[name] = f'{shown(images[name])}: {error}'
    except Exception as error:  # after what was predicted before it has been written
      failures.append(error)

  def save(item: tuple[str, np.ndarray, np.ndarray]) -> None:
    name, image, prediction = item
    label_ids, color = run.label_set.decode(prediction), colorize(prediction, run.label_set)
    folder.save(name, (label_ids, color, overlay(image, prediction, run.label_set)))

  names = [name for name in images if name not in refused]
  decoded = (item for item in map_(decode, names) if item[1] is not None)
  first = next(decoded, None)
  if first is None:
    return  # without loading the network
  run = load_model(args.model, args.checkpoint, args.weights, args.bn)
  predictor = averaging_predictor(args, run) if averages else run.predictor
  made_by = {
    'num_classes': run.label_set.num_classes,
    'as_stored': args.as_stored,
    **run.describe(),
    'label_set': run.label_set.to_json(),
    'test_time': predictor.to_json() if averages else None,
    'variables_sha256': variables_digest(run.variables),
  }
  failures: list[Exception] = []
  with PredictionFolder(args.output, made_by, {n: images[n] for n in names}, refused, left) as folder:
    for _ in progress(map_(save, predict()), 'predicting', len(names), unit='image'):
      pass
    if failures:
      raise failures[0]
  print(f'{len(folder.sources)} images predicted: {shown(args.output)}')


def find_images(
  paths: Sequence[pathlib.Path], output: pathlib.Path
) -> tuple[dict[str, pathlib.Path], list[str]]:
  """Finds the images among files and folders.

  Args:
    paths: Files of any name, and folders that are searched recursively for images.
    output: Where predictions go; what lies there is left out.

  Returns:
    Path by output name, and 'PATH: why' of what is left out in folders. The name is the file's stem; below a
    folder, its path relative to the folder. Of two images with the same name both keep their extension
    ('a.jpg' and 'a.png'); if that is the same too, the folders above tell them apart ('left/a.png').

  Raises:
    InputError: A path does not exist, or a folder holds no image or cannot be listed.
  """
  found: list[tuple[str, pathlib.Path]] = []  # the path relative to a folder given, and the path
  left: list[str] = []
  for path in paths:
    if path.is_dir():
      files = _without_predictions(path, output)
      if not files.taken:
        left_out = f' ({describe_left(files.left)})' if files.left else ''
        raise InputError(
          f'{shown(path)}: holds no image{left_out}; expected files ending in {", ".join(IMAGE_EXTENSIONS)}'
        )
      found += [(name, file.path) for name, file in files.taken.items()]
      left += files.left
    elif path.exists():
      found.append((path.name, path))
    else:
      raise InputError(f'{shown(path)}: no such file or folder')
  return _told_apart(found), left


def _without_predictions(folder: pathlib.Path, output: pathlib.Path) -> Files:
  """The images in a folder; not the predictions, where `output` lies in it or is the same."""
  output = output.resolve()
  own = [output]
  if folder.resolve().is_relative_to(output):  # which then holds images too
    own = [output / name for name in (*FOLDERS, PREDICTIONS_FILE)]
  files = files_of_folder(folder)
  earlier = {n for n, f in files.taken.items() if any(f.path.resolve().is_relative_to(path) for path in own)}
  images = Files({n: f for n, f in files.taken.items() if n not in earlier}, files.left)
  images = images.with_suffixes(IMAGE_EXTENSIONS)
  images.left.extend(files.taken[name].left('earlier predictions') for name in sorted(earlier))
  return images


def _told_apart(found: Sequence[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
  """Paths by names as short as they can be; see `find_images`."""
  items = [(pathlib.PurePosixPath(name), pathlib.Path(os.path.abspath(path))) for name, path in found]
  lengths = [0] * len(items)  # 0: without extension; 1: with it; 2: with the folder above, ...
  while True:
    images_of: dict[str, set[pathlib.Path]] = {}
    names = [_name(relative, path, length) for (relative, path), length in zip(items, lengths, strict=True)]
    for name, (_, path) in zip(names, items, strict=True):
      images_of.setdefault(name, set()).add(path)
    if all(len(images) == 1 for images in images_of.values()):
      return {name: path for name, (_, path) in zip(names, found, strict=True)}
    lengths = [n + (len(images_of[name]) > 1) for name, n in zip(names, lengths, strict=True)]


def _name(relative: pathlib.PurePosixPath, path: pathlib.Path, length: int) -> str:
  if not length:
    return relative.with_suffix('').as_posix()
  return '/'.join(path.parts[1:][-len(relative.parts) - length + 1 :])


def _names_refused(images: dict[str, pathlib.Path], output: pathlib.Path) -> dict[str, str]:
  """Why predictions cannot be written under their names, by name."""
  existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
  longest = os.pathconf(existing, 'PC_NAME_MAX')
  folders = {str(parent) for name in images for parent in pathlib.PurePosixPath(name).parents}
  refused = {}
  for name, path in images.items():
    file = f'{name}.png'
    if len(os.fsencode(pathlib.PurePosixPath(file).name)) > longest:
      refused[name] = (
        f'{shown(path)}: its prediction would have a name of more than {longest} bytes; rename it'
      )
    elif file in folders or any((output / folder / file).is_dir() for folder in FOLDERS):
      refused[name] = (
        f'{shown(path)}: its prediction {shown(file)} would have the name of a folder; rename it'
      )
  return refused
