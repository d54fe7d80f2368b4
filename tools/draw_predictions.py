r"""Draws photographs beside their ground truth and a network's prediction: the picture of README.

  python -m tools.draw_predictions --model streets --dataset camvid --images 0016E5_08159 0016E5_07965 \
    --output docs/images/streets.jpg

In the colours of the network's classes. Classes of the data set that are several of the network's are black
in the ground truth, as is what it ignores: neither is scored.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
from collections.abc import Sequence

from PIL import Image

from dense_aspp_jax.commands.run_arguments import add_run_arguments
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.pictures import Rgb, comparison, gallery
from dense_aspp_jax.files import write_file
from dense_aspp_jax.training.run import Run, load_model

_QUALITY = 85  # of JPEG


def main(arguments: list[str] | None = None) -> int:
  """Writes the picture; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_run_arguments(parser)
  parser.add_argument('--images', nargs='+', required=True, metavar='ID', help='names of images in the split')
  parser.add_argument('--output', type=pathlib.Path, required=True, help='the JPEG file')
  args = parser.parse_args(arguments)
  run = load_model(args.model, args.checkpoint, args.weights, args.bn)
  buffer = io.BytesIO()
  pixels = picture(run, run.load_split(args.split, args.data_dir, dataset=args.dataset), args.images)
  Image.fromarray(pixels).save(buffer, 'JPEG', quality=_QUALITY, optimize=True)
  write_file(args.output, buffer.getvalue())
  return 0


def picture(run: Run, split: Sequence, image_ids: list[str]) -> Rgb:
  """A row for each image, in the order of their names, and the colours of the classes below."""
  found = {example.image_id: example for example in split if example.image_id in image_ids}
  if missing := [name for name in image_ids if name not in found]:
    raise InputError(f'--images {" ".join(missing)}: not in the split')
  rows = []
  for example in (found[name] for name in image_ids):
    truth = split.label_set.encode(example.label, example.image_id)
    rows.append(comparison(example.image, truth, run.predict(example.image), run.label_set))
  return gallery(rows, run.label_set)


if __name__ == '__main__':
  sys.exit(main())
