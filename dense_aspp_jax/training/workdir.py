"""The directory of a run: what is written beside the checkpoints, and whether a run may go on in it.

config.json holds the configuration as it was given and, beside its sections, the directory that it was given
in. The functions here call this content `stored`; `resolve` makes its relative paths absolute.
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from dense_aspp_jax import fields
from dense_aspp_jax.checkpoint_io import check_place
from dense_aspp_jax.datasets.cache import CacheSplit
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.fields import fits, is_integer
from dense_aspp_jax.files import check_writable, read_json, write_json
from dense_aspp_jax.label_mapping import MappedLabelSet
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.pretrained import pretrained_models
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.config import migrate, plain, tuples
from dense_aspp_jax.training.hold import hold
from dense_aspp_jax.training.stored_config import check_stored, continuation, differences

CONFIG = 'config.json'
LABELS = 'labels.json'
DATA = 'data.json'
SCORES = 'scores.json'  # of the last evaluation
PROVENANCE = 'provenance.json'  # one entry for each time the run was started

_DIRECTORY = 'directory'  # in config.json
_CONTENT = 'by_content'  # in data.json: the fingerprint is of the content of files, not of their times
_MAPPED = 'mapped_from'  # in data.json: the label set of a data set that has other classes than the run
_REMEDY = 'restore the files of the run, or check the path'


def to_store(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, Any]:
  """What config.json will hold: a configuration, and the directory of its relative paths.

  That is the current directory. For a run that is resumed with the same paths it is the one they were first
  given in, unless as many of them lead somewhere from the current one.
  """
  here = pathlib.Path.cwd()
  if (workdir / CONFIG).exists():
    stored, paths = _read_stored(workdir), _paths(config)
    first = pathlib.Path(stored.get(_DIRECTORY) or here)
    expanded = [pathlib.Path(os.path.expanduser(path)) for path in paths.values()]
    relative = [path for path in expanded if not path.is_absolute()]
    there, from_here = (sum((d / path).exists() for path in relative) for d in (first, here))
    if _paths(stored) == paths and (there > from_here or not from_here):
      return {_DIRECTORY: str(first), **config}
  return {_DIRECTORY: str(here), **config}


def resolve(stored: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration in the content of a config.json, with absolute paths and tuples in place of lists."""
  config = plain(stored)
  directory = config.pop(_DIRECTORY, None)
  if directory is not None:  # earlier versions stored absolute paths
    for (*places, last), path in _paths(config).items():
      parent = functools.reduce(operator.getitem, places, config)
      prefix = parent[last].removesuffix(path)
      with contextlib.suppress(InputError):  # a URL: an error where it is read
        parent[last] = f'{prefix}{directory / local_path(path)}'
  return tuples(config)


def _paths(config: Mapping[str, Any]) -> dict[tuple[str | int, ...], str]:
  """The paths in a configuration by section, field and, in a list, position; another type's value is none."""
  paths = {}
  for section, field, prefix, names in (
    ('data', 'data_dir', '', ()),
    ('data', 'cache_dir', '', ()),
    ('data', 'dataset', FOLDER_PREFIX, ()),
    ('data', 'label_set', '', LABEL_SETS),
    ('init', 'extractor_weights', '', ()),
    ('init', 'run', '', pretrained_models()),
  ):
    fields = config.get(section)
    value = fields.get(field) if isinstance(fields, Mapping) else None
    values = {(section, field): value}
    if isinstance(value, list | tuple):
      values = {(section, field, i): v for i, v in enumerate(value)}
    paths |= {
      place: path.removeprefix(prefix)
      for place, path in values.items()
      if isinstance(path, str) and path and path.startswith(prefix) and path not in names
    }
  return paths


def check(workdir: pathlib.Path, stored: Mapping[str, Any], label_set: LabelSet) -> dict[str, list[Any]]:
  """Checks that a run may be started or resumed in a directory, which may be missing; writes nothing.

  Returns:
    How a resumed run is to go on otherwise than it was begun, see `continuation`.

  Raises:
    InputError: The directory holds something else, a run of another configuration, or is not writable.
  """
  check_writable(workdir, '--workdir')
  check_place(workdir)
  if (workdir / CONFIG).exists():
    first, given = read_config(workdir), resolve(stored)
    different = differences(first, given)
    before = read_label_set(workdir)
    if before.name != label_set.name:
      different.append(f'config.data.label_set: {before.name!r} there, {label_set.name!r} given')
    elif before != label_set:
      different.append(f'the content of label set {label_set.name!r}')
    if different:
      raise InputError(
        f'{workdir}: holds a run of another configuration ({"; ".join(sorted(different))}). '
        'Give its configuration to resume it, or choose another --workdir'
      )
    return continuation(first, given)
  # Ours of a start that was cut off before CONFIG, or that another process is making just now.
  ours = {LABELS, DATA, PROVENANCE}
  names = [p.name for p in workdir.iterdir()] if workdir.exists() else []
  found = sorted(name for name in names if name not in ours and not name.startswith('.'))
  if found:
    raise InputError(
      f'{workdir}: holds {", ".join(found[:3])}{", ..." if len(found) > 3 else ""} but no {CONFIG}, so it '
      'is not the directory of a run; nothing was written. Choose another --workdir'
    )
  return {}


@contextlib.contextmanager
def begin(
  workdir: pathlib.Path, stored: Mapping[str, Any], label_set: LabelSet, splits: Mapping[str, CacheSplit]
) -> Iterator[Callable[[], None]]:
  """Makes a directory that passed `check` a run's; inside the `with` block no other process trains there.

  Yields a function to call before each save. It raises RunError if the directory is no longer where it was.

  Args:
    workdir: Created if missing.
    stored: From `to_store`.
    label_set: What the class indices mean.
    splits: The data that the run uses, by name of the split.

  Raises:
    InputError: Another process is training there, or the data are not those the run began with.
    RunError: It cannot be written.
  """
  if jax.process_index() != 0:
    yield lambda: None
    return
  data = {split: _data_record(found) for split, found in splits.items()}
  with hold(workdir) as verify:
    if (workdir / CONFIG).exists():
      before = read_json(workdir / DATA, _REMEDY)
      if not fits(before, dict[str, dict]):
        raise InputError(f'{workdir / DATA}: not what a training writes about its data; {_REMEDY}')
      for split, found in splits.items():
        _check_same_data(workdir, split, before.get(split, {}), found)
      if (now := {**before, **data}) != before:  # moved, or known by times before
        write_json(workdir / DATA, now)
    else:
      write_json(workdir / LABELS, label_set.to_json())
      write_json(workdir / DATA, data)
      write_json(workdir / PROVENANCE, [])
      write_json(workdir / CONFIG, stored)  # last: it makes the directory a run's
    yield verify


def _data_record(split: CacheSplit) -> dict[str, Any]:
  """What data.json says of a split."""
  record = {'name': split.name, 'examples': len(split), 'fingerprint': split.fingerprint}
  if split.former_fingerprint:
    record[_CONTENT] = True
  if isinstance(split.label_set, MappedLabelSet):
    record[_MAPPED] = split.label_set.describe()
  return record


def _check_same_data(workdir: pathlib.Path, name: str, first: Mapping[str, Any], found: CacheSplit) -> None:
  """Raises InputError if the data of a split, wherever they lie, are not those of its record `first`."""
  if first and first.get(_MAPPED) != _data_record(found).get(_MAPPED):
    raise InputError(
      f'{workdir}: the labels of split {name!r} ({found.name}) mean other classes than when this run began. '
      "Restore the labels.json of the data set's folder, or choose another --workdir"
    )
  same = first.get('fingerprint') in [f for f in (found.fingerprint, found.former_fingerprint) if f]
  if same and first.get('examples') == len(found):
    return
  hint = ''
  if found.former_fingerprint and first and _CONTENT not in first:
    hint = '. It was begun by a version that knew files by their times: copy them with these (`cp -p`)'
  raise InputError(
    f'{workdir}: the data of split {name!r} have changed since this run began ({first.get("examples")} '
    f'examples of {first.get("name")}, now {len(found)} of {found.name}). Restore them, or choose another '
    f'--workdir{hint}'
  )


def record_start(
  workdir: pathlib.Path, stored: Mapping[str, Any], step: int, origin: Mapping[str, Any]
) -> None:
  """Notes that a run starts or resumes at `step`, with this configuration and code; and its origin."""
  if jax.process_index() == 0:
    starts = read_starts(workdir)
    _check_same_weights(workdir, starts, origin)
    write_json(workdir / PROVENANCE, [*starts, {'step': step, **provenance(), **origin}])
    write_json(workdir / CONFIG, stored)


def _read_stored(workdir: pathlib.Path) -> dict[str, Any]:
  if not (workdir / CONFIG).exists():
    raise InputError(f'{workdir}: no {CONFIG} there, so it is not the directory of a run; check the path')
  stored = read_json(workdir / CONFIG, _REMEDY)
  try:
    sections = migrate(stored) if isinstance(stored, dict) else stored
    directory = sections.pop(_DIRECTORY, None) if isinstance(sections, dict) else None
    check_stored(tuples(sections))
    fields.check(_DIRECTORY, directory, isinstance(directory, str | None), 'a directory')
  except InputError as error:
    raise InputError(f'{workdir / CONFIG}: {error}; {_REMEDY}') from error
  return sections if directory is None else {_DIRECTORY: directory, **sections}


def read_starts(workdir: pathlib.Path, default: list[Any] | None = None) -> list[dict[str, Any]]:
  """The entries of provenance.json, one for each start of the run; `default` where there is no such file.

  Raises:
    InputError: It holds something else.
  """
  path = workdir / PROVENANCE
  starts = read_json(path, _REMEDY, default=default)
  holds = isinstance(starts, list) and all(isinstance(start, dict) for start in starts)
  if not holds or not all(is_integer(s.get('step'), 0) and fits(s.get('time', ''), str) for s in starts):
    raise InputError(f'{path}: not what a training writes about its starts; {_REMEDY}')
  return starts


def _check_same_weights(
  workdir: pathlib.Path, starts: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]
) -> None:
  """Raises InputError if a run starts from the beginning again, but from other weights than before."""
  for kind, field in (('extractor_weights', 'extractor_weights'), ('init_run', 'run')):
    records = [start[kind] for start in (*starts, origin) if isinstance(start.get(kind), dict)]
    digests = [record.get('sha256') for record in records]
    if origin.get(kind) and digests[0] != digests[-1]:
      raise InputError(
        f'{workdir}: this run began with other weights than those of config.init.{field} (SHA-256 '
        f'{digests[0]}, now {digests[-1]}). Give those it began with, or choose another --workdir'
      )


def scored_step(workdir: pathlib.Path) -> int | None:
  """Step of the last evaluation that is complete, None if there is none."""
  try:
    return json.loads((workdir / SCORES).read_text(encoding='utf-8'))['step']
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The configuration stored with a run, with absolute paths; no code of the workdir is executed."""
  return resolve(_read_stored(workdir))


def read_label_set(workdir: pathlib.Path) -> LabelSet:
  """The label set stored with a run."""
  return LabelSet.from_json(read_json(workdir / LABELS, _REMEDY), str(workdir / LABELS))
