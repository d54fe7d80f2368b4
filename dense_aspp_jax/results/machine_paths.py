"""Takes the absolute paths of this machine out of what is published."""

from __future__ import annotations

import re
from typing import Any

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX

# A path that begins where no word, other path or address (https://...) is under way.
_ABSOLUTE = re.compile(r'(?<![\w./~-])(?:file://)?/(?!/)[^\s\'",;)\]}]+')


def without_machine_paths(data: Any) -> Any:
  """JSON data with the last part alone of every absolute path: '/home/x/runs/a' becomes 'a'.

  So do paths within a text: 'folder:/data/camvid' becomes 'folder:camvid'.
  """
  if isinstance(data, dict):
    return {name: without_machine_paths(value) for name, value in data.items()}
  if isinstance(data, list | tuple):
    return [without_machine_paths(value) for value in data]
  if not isinstance(data, str):
    return data
  for prefix in ('', FOLDER_PREFIX):
    if data.startswith(f'{prefix}/') and not data.startswith('//'):  # a path alone, perhaps with blanks in it
      return prefix + _last_part(data)
  return _ABSOLUTE.sub(lambda found: _last_part(found.group()), data)


def _last_part(path: str) -> str:
  return path.rstrip('/').rsplit('/', 1)[-1]
