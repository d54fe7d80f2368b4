"""What a machine without a network has, and which further packages a program needs there."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dense_aspp_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Target:
  """A machine: Linux on x86_64.

  Attributes:
    python: Its Python, such as '3.12'.
    packages: Canonical name of each package that is there -> its version, None where it is unknown.
  """

  python: str
  packages: Mapping[str, str | None]

  def applies(self, requirement: Requirement, extra: str = '') -> bool:
    """Whether a requirement holds there: for a package itself, or only for `extra` of it."""
    if requirement.marker is None:
      return not extra
    environment = {
      **default_environment(),
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
    return not always and requirement.marker.evaluate(environment | {'extra': extra}) if extra else always


def read_target(path: pathlib.Path) -> Target:
  """Reads a file such as target_packages.txt: `name` or `name==version` a line, `python==3.12` among them.

  Raises:
    InputError: Another line, or no Python.
  """
  packages = {canonicalize_name(r.name): _version(r, path) for r in _read_requirements(path)}
  python = packages.pop('python', None)
  if python is None:
    raise InputError(f'{path}: expected a line python==VERSION')
  return Target(python, packages)


def read_pins(path: pathlib.Path, target: Target) -> dict[str, str]:
  """Canonical name -> version of the lines of a constraints file that hold for the target.

  Raises:
    InputError: Another line than `name==version`, with a marker or without.
  """
  pins = {canonicalize_name(r.name): _version(r, path) for r in _read_requirements(path) if target.applies(r)}
  return {name: version for name, version in pins.items() if version is not None}


def select_packages(
  requirements: Iterable[Requirement],
  target: Target,
  pins: Mapping[str, str],
  requirements_of: Callable[[Mapping[str, str | None]], Mapping[str, Iterable[Requirement]]],
) -> dict[str, str]:
  """Which packages must be carried, at which versions.

  What is there is taken to be whole: it is not asked what it requires itself, only what the extras require
  by which it is asked for.

  Args:
    requirements: Of the program.
    target: Where it shall run.
    pins: The versions to carry.
    requirements_of: Gives the requirements of packages, by canonical names, of name -> version (None: any).

  Returns:
    Canonical name -> version.

  Raises:
    InputError: Versions there or in `pins` that do not fit, or a package without a pin; all in one message.
  """
  selected: dict[str, str] = {}
  seen: set[tuple[str, str]] = set()
  problems: list[str] = []
  pending = [('dense_aspp_jax', requirement) for requirement in requirements]
  while pending:
    wanted: dict[str, str | None] = {}
    parts = []
    for by, requirement in pending:
      name = canonicalize_name(requirement.name)
      there = name in target.packages
      version = target.packages[name] if there else pins.get(name)
      if version is None and not there:
        problems.append(f'{by} requires {name}, which the target lacks and no pin gives a version of')
        continue
      if version is not None and not requirement.specifier.contains(version, prereleases=True):
        problems.append(
          f'{by} requires {requirement}; {"the target has" if there else "pinned is"} {version}'
        )
      if not there:
        selected[name] = version
      for extra in (*(() if there else ('',)), *sorted(requirement.extras)):
        if (name, extra) not in seen:
          seen.add((name, extra))
          parts.append((name, extra))
          wanted[name] = version or pins.get(name)
    found = requirements_of(wanted) if wanted else {}
    pending = [(name, r) for name, extra in parts for r in found[name] if target.applies(r, extra)]
  if problems:
    raise InputError('\n'.join(sorted(set(problems))) + '\ncorrect the list of the target or constraints.txt')
  return dict(sorted(selected.items()))


def _read_requirements(path: pathlib.Path) -> Iterator[Requirement]:
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path}: cannot be read ({error})') from error
  for line in lines:
    if text := line.partition('#')[0].strip():
      try:
        yield Requirement(text)
      except InvalidRequirement as error:
        raise InputError(f'{path}: {text!r} is not a package; expected name or name==version') from error


def _version(requirement: Requirement, path: pathlib.Path) -> str | None:
  specifiers = list(requirement.specifier)
  if not specifiers:
    return None
  if len(specifiers) > 1 or specifiers[0].operator != '==':
    raise InputError(f'{path}: {requirement} gives no version; expected name or name==version')
  return specifiers[0].version
