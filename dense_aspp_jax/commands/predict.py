"""Predict images with the checkpoint of a run."""

from __future__ import annotations

import argparse
import pathlib

from dense_aspp_jax.commands.run_arguments import (
  add_averaging_arguments,
  add_run_arguments,
  averaging_asked_for,
  averaging_predictor,
)
from dense_aspp_jax.datasets.images import IMAGE_EXTENSIONS, check_image_header, decode_image
from dense_aspp_jax.datasets.stored_files import Files, StoredFile, describe_left, files_of_folder
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.pictures import colorize, overlay, save_png
from dense_aspp_jax.evaluation.score import LABEL_IDS_FOLDER, PREDICTIONS_FILE
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.progress import progress, say
from dense_aspp_jax.training.run import load_run

_FOLDERS = (LABEL_IDS_FOLDER, 'color', 'overlay')
_RULES = """\
Images are PNG and JPEG files of any kind. Grey and palette images become RGB; alpha is dropped, the colour
below it kept; CMYK is converted without a colour profile; of 16-bit samples the upper 8 bits are taken. The
EXIF orientation is applied, so a prediction has the size of the picture as viewers show it; --as-stored
ignores it. An image may have up to 89,478,485 pixels; one of 6000x8000 needs 1 GB of memory besides that of
the network.

All headers are read first: a file that is no image, or claims to be larger, is rejected. The other images are
predicted nevertheless; the bad ones are listed at the end, and the exit code is 2. The network is loaded only
if there is an image to predict.

Put --scales and --window after the images, or before another option. Averaging holds the probabilities of all
classes at the image's size, several times: for 20 classes and 1000x1000 pixels, up to 1 GB of memory.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.epilog = _RULES
  add_run_arguments(parser, ('--workdir', '--checkpoint', '--weights', '--bn'))
  parser.add_argument('--output', required=True, type=path_argument, help='directory for the predictions')
  parser.add_argument(
    '--as-stored', action='store_true', help='predict the pixels as stored, whatever the EXIF orientation'
  )
  parser.add_argument(
    'images', nargs='+', type=path_argument, metavar='IMAGE', help='PNG or JPEG files, and folders of them'
  )
  add_averaging_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Writes label_ids/, color/ and overlay/ (one PNG an image, at its own size) and predictions.json."""
  averages = averaging_asked_for(args)
  for folder in _FOLDERS:
    check_writable(args.output / folder, '--output')
  images = find_images(args.images, args.output)
  refused: dict[str, str] = {}  # why, by name
  for name, path in images.items():
    try:
      check_image_header(path)
    except InputError as error:
      refused[name] = str(error)
  if len(refused) < len(images):
    for why in refused.values():
      say(f'warning: {why}')
    _predict(args, averages, images, refused)
  if refused:
    listed = '\n  '.join(refused.values())
    raise InputError(f'{len(refused)} of {len(images)} images could not be read:\n  {listed}')
  return 0


def _predict(
  args: argparse.Namespace, averages: bool, images: dict[str, pathlib.Path], refused: dict[str, str]
) -> None:
  """Predicts all images but those in `refused`, to which it adds damaged ones."""
  run = predictor = None  # loaded with the first image that can be decoded
  for name in progress([name for name in images if name not in refused], 'predicting', unit='image'):
    try:
      data = StoredFile.on_disk(images[name]).read()
      image = decode_image(data, str(images[name]), as_stored=args.as_stored)
    except InputError as error:
      refused[name] = str(error)
      continue
    if run is None:
      run = load_run(args.workdir, args.checkpoint, args.weights, args.bn)
      predictor = averaging_predictor(args, run) if averages else run.predictor
    prediction = predictor.predict(image)
    label_ids, color = run.label_set.decode(prediction), colorize(prediction, run.label_set)
    pictures = label_ids, color, overlay(image, prediction, run.label_set)
    for folder, picture in zip(_FOLDERS, pictures, strict=True):
      save_png(args.output / folder / f'{name}.png', picture)
  if run is None:
    return
  write_json(
    args.output / PREDICTIONS_FILE,
    {
      'num_classes': run.label_set.num_classes,
      'images': len(images) - len(refused),
      'refused': refused,
      'as_stored': args.as_stored,
      **run.describe(),
      'label_set': run.label_set.to_json(),
      'test_time': predictor.to_json() if averages else None,
    },
  )
  print(f'{len(images) - len(refused)} images predicted: {args.output}')


def find_images(paths: list[pathlib.Path], output: pathlib.Path) -> dict[str, pathlib.Path]:
  """Finds the images among files and folders.

  Args:
    paths: Files, and folders that are searched recursively for images, except hidden ones and those in
      `output`; what is left out is counted on stderr.
    output: Where predictions go.

  Returns:
    Path by output name: the file's stem; below a folder, its path relative to the folder.

  Raises:
    InputError: A path does not exist, a folder holds no image or cannot be listed, or two images have the
      same name.
  """
  images: dict[str, pathlib.Path] = {}
  for path in paths:
    if path.is_dir():
      files = files_of_folder(path)
      earlier = {n for n, f in files.taken.items() if f.path.resolve().is_relative_to(output.resolve())}
      files = Files({n: f for n, f in files.taken.items() if n not in earlier}, files.left)
      files = files.with_suffixes(IMAGE_EXTENSIONS)
      left = describe_left(files.left)
      if not files.taken:
        raise InputError(
          f'{path}: holds no image{f" ({left})" if left else ""}; expected files ending in '
          f'{", ".join(IMAGE_EXTENSIONS)}'
        )
      if left:
        say(f'{path}: {left}')
      named = [(pathlib.PurePosixPath(n).with_suffix('').as_posix(), f.path) for n, f in files.taken.items()]
    elif path.is_file():
      named = [(path.stem, path)]
    else:
      raise InputError(f'{path}: no such file or folder')
    for name, image in named:
      if name in images:
        raise InputError(
          f'{image} and {images[name]}: both would be written as {name}.png; predict them separately'
        )
      images[name] = image
  return images
