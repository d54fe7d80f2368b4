"""The Python and the commands of a document."""

from __future__ import annotations

import pathlib
import re
import shlex
from collections.abc import Iterator

import numpy as np
from PIL import Image

PROGRAMS = ('dense-aspp ', 'python train.py ')
_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)


def run_python_of(document: pathlib.Path, folder: pathlib.Path, monkeypatch) -> dict[str, object]:
  """Runs a document's first block of Python in a folder, with a photo.jpg there; the names it leaves."""
  pixels = np.random.default_rng(0).integers(0, 256, (45, 60, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(folder / 'photo.jpg')
  monkeypatch.chdir(folder)
  names: dict[str, object] = {}
  exec(compile(block_of(document, 'python'), str(document), 'exec'), names)
  return names


def block_of(document: pathlib.Path, language: str) -> str:
  """The first fenced block of a language."""
  return next(text for name, text in _BLOCK.findall(document.read_text(encoding='utf-8')) if name == language)


def commands_of(document: pathlib.Path) -> Iterator[list[str]]:
  """The arguments of every `dense-aspp` and `python train.py`, in shell blocks and inline code."""
  text = document.read_text(encoding='utf-8')
  shell = [re.sub(r'\\\n\s*', ' ', block) for name, block in _BLOCK.findall(text) if not name]
  inline = re.findall(r'`([^`]+)`', _BLOCK.sub('', text))
  for line in [*'\n'.join(shell).splitlines(), *(' '.join(code.split()) for code in inline)]:
    for command in map(str.strip, line.split('&&')):
      program = next((p for p in PROGRAMS if command.startswith(p)), None)
      if program and command.count("'") % 2 == 0:  # else part of a quoted command
        arguments = shlex.split(command.removeprefix(program), comments=True)
        yield arguments if program == PROGRAMS[0] else ['train', *arguments]
