"""Wheels for another machine: our own, and those of packages that it lacks."""

from __future__ import annotations

import email
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from dense_aspp_jax.errors import InputError, RunError
from tools.offline.target import Target, select_packages

ROOT = pathlib.Path(__file__).parents[2]
# pip takes a platform by its exact name: every glibc that a wheel may ask for, up to that of 2018 (2.28).
_PLATFORMS = (*(f'manylinux_2_{n}_x86_64' for n in range(28, 4, -1)), 'manylinux2014_x86_64')
_ONLY_SOURCE = ('promise',)  # on PyPI; plain Python
_COMMIT = 'dense_aspp_jax/COMMIT'  # provenance.py reads it


def collect_wheels(
  folder: pathlib.Path, target: Target, pins: Mapping[str, str], commit: str | None
) -> dict[str, str]:
  """Builds our wheel and downloads those that the target lacks for it.

  Args:
    folder: Where they go; it is made.
    target: Where they shall be installed.
    pins: The versions to carry, by canonical name.
    commit: Git commit that the package remembers.

  Returns:
    Canonical name -> version of all of them.

  Raises:
    InputError: Versions that do not fit, see `select_packages`.
    RunError: pip failed, for example because there is no network.
  """
  folder.mkdir()
  build_own_wheel(folder, commit)
  (own,) = folder.iterdir()
  with tempfile.TemporaryDirectory() as scratch:
    downloads = pathlib.Path(scratch)

    def requirements_of(wanted: Mapping[str, str | None]) -> dict[str, list[Requirement]]:
      _download(downloads, target, wanted)
      found = wheels_in(downloads)
      return {name: read_requirements(found[name]) for name in wanted}

    versions = select_packages(
      [r for r in read_requirements(own) if target.applies(r)], target, pins, requirements_of
    )
    for name, wheel in wheels_in(downloads).items():
      if name in versions:
        shutil.move(wheel, folder)
  return {name: str(parse_wheel_filename(path.name)[1]) for name, path in wheels_in(folder).items()}


def build_own_wheel(folder: pathlib.Path, commit: str | None) -> None:
  """Writes the wheel of this checkout's dense_aspp_jax, with the commit inside. Raises RunError."""
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch) / 'checkout'
    ignored = shutil.ignore_patterns('__pycache__', '.*')
    shutil.copytree(ROOT / 'dense_aspp_jax', copy / 'dense_aspp_jax', ignore=ignored)
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
      shutil.copy(ROOT / name, copy)
    if commit is not None:
      (copy / _COMMIT).write_text(f'{commit}\n')
    _pip('wheel', '--no-deps', '--wheel-dir', folder, copy)


def wheels_in(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Canonical name -> wheel, sorted."""
  return {parse_wheel_filename(p.name)[0]: p for p in sorted(folder.glob('*.whl'))}


def read_requirements(wheel: pathlib.Path) -> list[Requirement]:
  """What a wheel says that it requires, with markers."""
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
    metadata = email.message_from_bytes(archive.read(name))
  return [Requirement(text) for text in metadata.get_all('Requires-Dist', [])]


def _download(folder: pathlib.Path, target: Target, wanted: Mapping[str, str | None]) -> None:
  there = wheels_in(folder)
  wanted = {name: f'{name}=={v}' if v else name for name, v in wanted.items() if name not in there}
  sources = [text for name, text in wanted.items() if name in _ONLY_SOURCE]
  wheels = [text for name, text in wanted.items() if name not in _ONLY_SOURCE]
  if sources:
    _pip('wheel', '--no-deps', '--wheel-dir', folder, *sources)
  if wheels:
    platforms = [f'--platform={platform}' for platform in _PLATFORMS]
    options = ('--no-deps', '--only-binary=:all:', '--implementation=cp', f'--python-version={target.python}')
    _pip('download', *options, *platforms, '--dest', folder, *wheels)
  for name in sources:
    wheel = wheels_in(folder)[canonicalize_name(Requirement(name).name)]
    if not wheel.name.endswith('-none-any.whl'):
      raise InputError(f'{wheel.name}: built here for this machine alone; expected one for any')


def _pip(*arguments: str | pathlib.Path) -> None:
  command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
  if done.returncode:
    lines = (done.stderr or done.stdout).strip().splitlines()
    reason = '\n'.join(line for line in lines if line.startswith('ERROR')) or '\n'.join(lines[-3:])
    raise RunError(f'pip {os.fspath(arguments[0])} failed: {reason}')
