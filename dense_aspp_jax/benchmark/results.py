"""A JSON file of results: a list that each run appends to."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.provenance import write_json


def read_results(path: pathlib.Path) -> list[dict[str, Any]]:
  """The results so far; none if there is no such file.

  Raises:
    InputError: Something else than such a list, or a folder.
  """
  try:
    results = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return []
  except (OSError, ValueError) as error:
    raise InputError(
      f'{path}: cannot be read ({error}); results are appended to a JSON list, choose another --output'
    ) from error
  if not isinstance(results, list):
    raise InputError(f'{path}: not a JSON list; results are appended to one, choose another --output')
  return results


def append_result(path: pathlib.Path, result: dict[str, Any]) -> None:
  """Appends one result; the file is replaced whole.

  Raises:
    InputError: See `read_results`.
    RunError: It cannot be written.
  """
  write_json(path, [*read_results(path), result])
