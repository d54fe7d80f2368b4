"""Downloads of one file, with progress."""

from __future__ import annotations

import http.client
import pathlib
import urllib.request

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.progress import progress_bar

_TIMEOUT = 60  # seconds without an answer
_BLOCK = 2**20


def download_file(url: str, path: pathlib.Path, description: str, otherwise: str) -> None:
  """Downloads `url` into the file `path`.

  Args:
    url: What to fetch.
    path: Where to.
    description: For the progress bar.
    otherwise: What to do where there is no network, for the message.

  Raises:
    RunError: No network, or the download broke off.
  """
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, path.open('wb') as file:
      length = response.headers.get('Content-Length')
      total = -(-int(length) // _BLOCK) if length else None
      with progress_bar(total, description, unit='MiB') as bar:
        while block := response.read(_BLOCK):
          file.write(block)
          bar.update()
      if length and file.tell() != int(length):
        raise OSError(f'{file.tell()} of {length} bytes came')
  except (OSError, http.client.HTTPException) as error:
    raise RunError(f'{url}: download failed ({error}); {otherwise}') from error
