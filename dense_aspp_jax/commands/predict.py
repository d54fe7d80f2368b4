"""Predict images with the checkpoint of a run."""

from __future__ import annotations

import argparse
import pathlib

_EXTENSIONS = ('.png', '.jpg', '.jpeg')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='directory of the run')
  parser.add_argument('--checkpoint', default='best', help="'best' (default), 'latest', or a step")
  parser.add_argument('--output', required=True, type=pathlib.Path, help='directory for the predictions')
  parser.add_argument(
    'images', nargs='+', type=pathlib.Path, metavar='IMAGE', help='PNG or JPEG files, and folders of them'
  )


def run(args: argparse.Namespace) -> int:
  """Writes label_ids/, color/ and overlay/ (one PNG an image, at its own size) and predictions.json."""
  from dense_aspp_jax.datasets.images import decode_image
  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.evaluation.pictures import colorize, overlay, save_png
  from dense_aspp_jax.progress import progress
  from dense_aspp_jax.provenance import provenance, write_json
  from dense_aspp_jax.training.workdir import load_run

  if args.output.exists() and not args.output.is_dir():
    raise InputError(f'{args.output}: a file; --output expects a folder')
  images = find_images(args.images, args.output)
  run = load_run(args.workdir, args.checkpoint)
  refused = []
  for name, path in progress(images.items(), 'predicting', unit='image'):
    try:
      image = decode_image(path, str(path))
    except InputError as error:  # the others are still predicted
      refused.append(str(error))
      continue
    prediction = run.predictor.predict(image)
    save_png(args.output / 'label_ids' / f'{name}.png', run.label_set.decode(prediction))
    save_png(args.output / 'color' / f'{name}.png', colorize(prediction, run.label_set))
    save_png(args.output / 'overlay' / f'{name}.png', overlay(image, prediction, run.label_set))
  write_json(
    args.output / 'predictions.json',
    {
      'label_set': run.label_set.to_json(),
      'num_classes': run.label_set.num_classes,
      'images': len(images) - len(refused),
      'workdir': str(args.workdir),
      'checkpoint': args.checkpoint,
      'step': run.step,
      'config': run.config,
      'provenance': provenance(),
    },
  )
  print(f'{len(images) - len(refused)} images predicted: {args.output}')
  if refused:
    raise InputError(f'{len(refused)} of {len(images)} images could not be read:\n  ' + '\n  '.join(refused))
  return 0


def find_images(paths: list[pathlib.Path], output: pathlib.Path) -> dict[str, pathlib.Path]:
  """Finds the images among files and folders.

  Args:
    paths: Files, and folders that are searched recursively for PNG and JPEG files; what is hidden, or in
      `output`, is passed over.
    output: Where predictions go.

  Returns:
    Path by output name: the file's stem; below a folder, its path relative to the folder.

  Raises:
    InputError: A path does not exist, a folder holds no image, or two images have the same name.
  """
  from dense_aspp_jax.errors import InputError

  images: dict[str, pathlib.Path] = {}
  for path in paths:
    if path.is_dir():
      found = sorted(
        p
        for p in path.rglob('*')
        if p.suffix.lower() in _EXTENSIONS
        and not any(part.startswith('.') for part in p.relative_to(path).parts)
        and not p.resolve().is_relative_to(output.resolve())
        and p.is_file()
      )
      if not found:
        raise InputError(f'{path}: holds no image; expected files ending in {", ".join(_EXTENSIONS)}')
      named = [(p.relative_to(path).with_suffix('').as_posix(), p) for p in found]
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
