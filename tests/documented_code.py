"""The Python of a document, run as its reader would."""

import pathlib
import re

import numpy as np
from PIL import Image


def run_python_of(document: pathlib.Path, folder: pathlib.Path, monkeypatch) -> dict[str, object]:
  """Runs a document's first block of Python in a folder, with a photo.jpg there; the names it leaves."""
  text = document.read_text(encoding='utf-8')
  code = re.search(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL)[1]
  pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(folder / 'photo.jpg')
  monkeypatch.chdir(folder)
  names: dict[str, object] = {}
  exec(compile(code, str(document), 'exec'), names)
  return names
