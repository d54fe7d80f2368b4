"""Label maps in folders, as `score` pairs them."""

import pathlib

import numpy as np
from PIL import Image


def save(path: pathlib.Path, array) -> pathlib.Path:
  """Writes uint8 ids [h, w] or colours [h, w, 3]; makes the folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(array, np.uint8)).save(path)
  return path


def label_file(labels: pathlib.Path, name: str, array=((7, 8),), kind='gtFine_labelIds.png') -> pathlib.Path:
  """Writes ground truth in the Cityscapes layout."""
  return save(labels / name.split('_')[0] / f'{name}_{kind}', array)
