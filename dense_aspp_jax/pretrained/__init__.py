"""The trained networks that come with the package, each a model file with its card.

`index.json` says what each of them is. `python -m tools.index_pretrained` writes it, and the cards, from the
files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.paths import local_path

FOLDER = pathlib.Path(__file__).parent
INDEX = FOLDER / 'index.json'
DEFAULT = 'streets'  # of `dense-aspp predict`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
  """A network that comes with the package.

  Attributes:
    name: What `--model` and `load_model` call it.
    about: What it is for, in a line.
    classes: Names of its classes, by class index.
    network: The extractor, and '+ skip' with the skip decoder.
    parameters: How many it has.
    preprocessing: What it sees: 'image_size' in pixels, whether the aspect ratio is kept, 'mean' and 'std' by
      channel, of values from 0 to 1.
    config: The run's configuration, as JSON has it: lists where it has tuples.
    scores: Each with its protocol, see `results.runs.Row`; of the weights before rounding to float16.
    weights: 'raw', or 'ema' for their moving averages.
    step: Updates made in training.
    bytes: Size of the file.
    sha256: Of the file, in hexadecimal.
    licences: What holds for the weights, and for each data set that they were trained on.
  """

  name: str
  about: str
  classes: tuple[str, ...]
  network: str
  parameters: int
  preprocessing: dict[str, Any]
  config: dict[str, Any]
  scores: tuple[dict[str, Any], ...]
  weights: str
  step: int
  bytes: int
  sha256: str
  licences: dict[str, str]

  @property
  def path(self) -> pathlib.Path:
    """Of the model file."""
    return FOLDER / f'{self.name}.safetensors'

  @property
  def card(self) -> pathlib.Path:
    """Of the model card, in Markdown."""
    return FOLDER / f'{self.name}.md'


@functools.cache
def pretrained_models() -> dict[str, Pretrained]:
  """The networks that come with the package, by name."""
  entries = json.loads(INDEX.read_text(encoding='utf-8'))
  lists = ('classes', 'scores')
  return {
    entry['name']: Pretrained(**entry | {name: tuple(entry[name]) for name in lists}) for entry in entries
  }


def model_path(model: str | os.PathLike[str]) -> pathlib.Path:
  """Where a trained network is: of the name of one that comes with the package, its file.

  Such a name never means a directory of that name; './streets' and `pathlib.Path('streets')` do.

  Args:
    model: A name, or the path of a run's directory or of a model file, which may be missing.

  Raises:
    InputError: A URL.
  """
  if isinstance(model, str) and model in pretrained_models():
    return pretrained_models()[model].path
  return local_path(os.fsdecode(model))


def find_model(model: str | os.PathLike[str]) -> pathlib.Path:
  """`model_path` of what is there.

  Raises:
    InputError: No network of the package has that name, and no file or directory there has it; or a URL.
  """
  path = model_path(model)
  if len(path.parts) == 1 and not path.exists():
    raise InputError(
      f'{shown(path)}: no such run or model file, nor one of the networks that come with the package: '
      f'{", ".join(pretrained_models())}'
    )
  return path


def shown_model(path: pathlib.Path) -> str:
  """The name of a network that comes with the package, or the path of another, for messages and results."""
  return path.stem if path.parent == FOLDER else shown(path)
