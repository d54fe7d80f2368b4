"""The wheels of a pack: our own, and those of the packages that the machine without a network lacks."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from typing import NamedTuple

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from dense_aspp_jax.errors import InputError, RunError

ROOT = pathlib.Path(__file__).parents[2]
# pip takes a platform by its exact name: every glibc that a wheel may ask for, up to that of 2018 (2.28).
_PLATFORMS = (*(f'manylinux_2_{n}_x86_64' for n in range(28, 4, -1)), 'manylinux2014_x86_64')


class Target(NamedTuple):
  """A machine without a network: Linux on x86_64.

  Attributes:
    python: Its Python, such as '3.12'.
    packages: Canonical name of each package that is there -> its version, None where it is unknown.
  """

  python: str
  packages: Mapping[str, str | None]

  def applies(self, requirement: Requirement, extra: str = '') -> bool:
    """Whether a package itself (`extra` is empty), or only this extra of it, has the requirement there."""
    if requirement.marker is None:
      return not extra
    environment = default_environment() | {
      'implementation_name': 'cpython',
      'os_name': 'posix',
      'platform_machine': 'x86_64',
      'platform_python_implementation': 'CPython',
      'platform_system': 'Linux',
      'python_full_version': f'{self.python}.0',
      'python_version': self.python,
      'sys_platform': 'linux',
    }
    always = requirement.marker.evaluate(environment | {'extra': ''})
    return always != bool(extra) and requirement.marker.evaluate(environment | {'extra': extra})


def read_target(path: pathlib.Path) -> Target:
  """Reads a list such as target_packages.txt. Raises InputError if a line is wrong or no Python is given."""
  packages = {canonicalize_name(requirement.name): version for requirement, version in _read_versions(path)}
  if not (python := packages.pop('python', None)):
    raise InputError(f'{path}: expected a line python==VERSION')
  return Target(python, packages)


def read_pins(path: pathlib.Path, target: Target) -> dict[str, str]:
  """Canonical name -> version of what a file of constraints pins for the target. Raises InputError."""
  versions = _read_versions(path)
  return {canonicalize_name(r.name): version for r, version in versions if version and target.applies(r)}


def _read_versions(path: pathlib.Path) -> Iterator[tuple[Requirement, str | None]]:
  """The lines `name` or `name==version` of a file. Raises InputError for another line."""
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path}: cannot be read ({error})') from error
  for text in filter(None, (line.partition('#')[0].strip() for line in lines)):
    try:
      requirement = Requirement(text)
    except InvalidRequirement as error:
      raise InputError(f'{path}: {text!r} is not a package; expected name or name==version') from error
    specifier = str(requirement.specifier)
    if specifier and (not specifier.startswith('==') or ',' in specifier):
      raise InputError(f'{path}: {text} gives no version; expected name or name==version')
    yield requirement, specifier[2:] or None


def collect_wheels(
  folder: pathlib.Path, target: Target, commit: str | None, pins: Mapping[str, str]
) -> dict[str, str]:
  """Builds our wheel, and downloads what the target lacks for it, at the versions of `pins`.

  What the target has is taken to be complete, except for the extras by which others require it.

  Args:
    folder: Where they go; it is made.
    target: Where they will be installed.
    commit: Git commit that the package remembers.
    pins: The versions to carry, by canonical name.

  Returns:
    Canonical name -> version of all of them.

  Raises:
    InputError: Versions that do not fit and packages without a pin, all in one message; or a package that
      has to be compiled.
    RunError: pip failed, for example because there is no network.
  """
  folder.mkdir()
  carried: set[str] = set()
  seen: set[tuple[str, str]] = set()
  problems: set[str] = set()
  with tempfile.TemporaryDirectory() as scratch:
    downloads = pathlib.Path(scratch)

    def find(name: str) -> Distribution:
      if name not in wheels_in(downloads):
        version = target.packages.get(name) or pins.get(name)
        _download(f'{name}=={version}' if version else name, downloads, target)
      return _metadata(wheels_in(downloads)[name])

    def require(by: str, requirements: Iterable[str] | None, extra: str = '') -> None:
      for requirement in map(Requirement, requirements or ()):
        if not target.applies(requirement, extra):
          continue
        name = canonicalize_name(requirement.name)
        there = name in target.packages
        if not there and name not in pins:
          problems.add(f'{by} requires {requirement}, which the target lacks and no pin gives a version of')
          continue
        version = target.packages[name] if there else pins[name]
        if version and not requirement.specifier.contains(version, prereleases=True):
          problems.add(f'{by} requires {requirement}; {"the target has" if there else "pinned is"} {version}')
        if not there:
          carried.add(name)
        for part in requirement.extras if there else {'', *requirement.extras}:
          if (name, part) not in seen:
            seen.add((name, part))
            require(name, find(name).requires, part)

    require('dense_aspp_jax', _metadata(_build_own_wheel(folder, commit)).requires)
    if problems:
      raise InputError('\n'.join(sorted(problems)) + '\ncorrect the list of the target or constraints.txt')
    for name in carried:
      shutil.move(wheels_in(downloads)[name], folder)
  return {name: _metadata(wheel).version for name, wheel in wheels_in(folder).items()}


def wheels_in(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Canonical name -> wheel, sorted."""
  return {parse_wheel_filename(path.name)[0]: path for path in sorted(folder.glob('*.whl'))}


def _metadata(wheel: pathlib.Path) -> Distribution:
  (distribution,) = distributions(path=[str(wheel)])
  return distribution


def _build_own_wheel(folder: pathlib.Path, commit: str | None) -> pathlib.Path:
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch, 'checkout')
    ignored = shutil.ignore_patterns('__pycache__', '.*')
    for name in ('dense_aspp_jax', 'configs'):
      shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
      shutil.copy(ROOT / name, copy)
    if commit is not None:  # provenance.py reads it
      (copy / 'dense_aspp_jax' / 'COMMIT').write_text(f'{commit}\n')
    _pip('wheel', '--no-deps', '--wheel-dir', folder, copy)
  (wheel,) = folder.iterdir()
  return wheel


def _download(wanted: str, folder: pathlib.Path, target: Target) -> None:
  """Downloads a wheel for the target; builds one, for any machine, if only the source is published."""
  options = ('--no-deps', '--implementation=cp', f'--python-version={target.python}')
  _pip('download', *options, *map('--platform={}'.format, _PLATFORMS), '--dest', folder, wanted)
  for source in (path for path in folder.iterdir() if path.suffix != '.whl'):
    _pip('wheel', '--no-deps', '--wheel-dir', folder, source)
    source.unlink()
    if not (wheel := wheels_in(folder)[wanted.partition('==')[0]]).name.endswith('-none-any.whl'):
      raise InputError(f'{wheel.name}: there is no wheel for the target, and this one fits only this machine')


def _pip(*arguments: str | pathlib.Path) -> None:
  command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
  if done.returncode:
    lines = (done.stderr or done.stdout).strip().splitlines()
    reason = '\n'.join(line for line in lines if line.startswith('ERROR')) or '\n'.join(lines[-3:])
    raise RunError(f'pip {arguments[0]} failed: {reason}')
