"""Reads files of foreign weights into NumPy arrays, without torch and without executing anything."""

from __future__ import annotations

import hashlib
import pathlib
import re

import numpy as np
import safetensors

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import SIGNATURE_BYTES, what_it_is
from dense_aspp_jax.weights.pth_reader import SAFETENSORS_DTYPES, ZIP_START, read_legacy, read_zip
from dense_aspp_jax.weights.restricted_pickle import NotPlainError, RefusedError

_PICKLE_START = b'\x80'  # of every protocol that torch writes


def read_tensors(path: pathlib.Path, ema: bool = False) -> dict[str, np.ndarray]:
  """Reads a torch checkpoint (.pth, .pt; zip or legacy format) or a .safetensors file.

  The format is detected from the content, not the name. Nothing in the file is executed, and only tensors are
  accepted. A state dict under a key such as 'state_dict', 'model' or 'net' is unwrapped.

  Args:
    path: The file.
    ema: Whether to take the moving averages that training scripts keep beside the state dict, under a key
      such as 'state_dict_ema' or 'model_ema'.

  Returns:
    Array by name, in the order of the file, with the stored shape and type: float64, 32 or 16, bfloat16 (from
    ml_dtypes), int64, 32, 16 or 8, uint8, bool. Arrays do not share memory.

  Raises:
    InputError: It cannot be read, is damaged or in another format, or holds something else, which is named.
  """
  try:
    arrays = _read(path, ema)
    for name, array in arrays.items():
      if array.dtype == bool and (array.view(np.uint8) > 1).any():
        raise RefusedError(f'{name[:200]!r} holds truth values that are neither 0 nor 1')
    return arrays
  except NotPlainError as error:
    raise InputError(
      f'{path}: refused: {_one_line(error)}. Where you trust the file, save its tensors alone, with torch: '
      'torch.save(torch.load(FILE, weights_only=False)["state_dict"], "plain.pth")'
    ) from error
  except RefusedError as error:
    raise InputError(f'{path}: refused: {_one_line(error)}') from error
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({_one_line(error.strerror or error)})') from error
  except Exception as error:  # damage can raise anything
    raise InputError(f'{path}: damaged ({type(error).__name__}: {_one_line(error)}); get it again') from error


def check_sha256_prefix(path: pathlib.Path) -> str:
  """Compares a file with the SHA-256 prefix in its name, if there is one.

  torchvision and torch.hub use such names: `densenet121-a639ec97.pth`, with 8 or more hexadecimal digits
  between the last '-' and the suffix.

  Returns:
    The full SHA-256, hexadecimal.

  Raises:
    InputError: They differ, or the file cannot be read.
  """
  if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe can be read only once
    raise InputError(f'{path}: not a file; expected a torch checkpoint or .safetensors file')
  try:
    with path.open('rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror})') from error
  prefix = re.search(r'-([0-9a-f]{8,64})\.[^.]+$', path.name)
  if prefix and not digest.startswith(prefix[1]):
    raise InputError(
      f'{path}: its SHA-256 is {digest}, its name says {prefix[1]}...; get it again, or rename it if that '
      'part of the name is not a checksum'
    )
  return digest


def _read(path: pathlib.Path, ema: bool) -> dict[str, np.ndarray]:
  with path.open('rb') as file:
    start = file.read(SIGNATURE_BYTES)
  if start.startswith(ZIP_START):
    return read_zip(path, ema)
  if start[8:9] != b'{':  # of a .safetensors file, after the length of the header
    if start.startswith(_PICKLE_START):
      return read_legacy(path.read_bytes(), ema)
    found = what_it_is(start, 'unpack it if it is packed, or get the file again')
    raise RefusedError(f'not a torch checkpoint or .safetensors file ({found})')
  if ema:
    raise RefusedError('a .safetensors file has no moving averages beside its tensors')
  arrays = {}
  for name, tensor in safetensors.deserialize(path.read_bytes()):  # checks the header
    if tensor['dtype'] not in SAFETENSORS_DTYPES:
      raise RefusedError(f'{name[:200]!r} is of type {tensor["dtype"]}, which is not supported')
    values = np.frombuffer(tensor['data'], SAFETENSORS_DTYPES[tensor['dtype']])
    arrays[name] = values.reshape(tensor['shape']).copy()
  return arrays


def _one_line(error: object) -> str:
  return ' '.join(str(error).split())[:400]
