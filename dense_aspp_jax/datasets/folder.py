"""One's own labelled folder, read as it is; the layout is described in docs/own_data.md."""

from __future__ import annotations

import difflib
import json
import pathlib
from collections import Counter
from collections.abc import Mapping

from dense_aspp_jax.datasets.examples import LABELS_FILE, SPLITS, Split
from dense_aspp_jax.datasets.fingerprint import content_fingerprint, former_fingerprint
from dense_aspp_jax.datasets.folder_layout import EXTENSIONS, SPLIT_NAMES, Layout, Places
from dense_aspp_jax.datasets.images import IMAGE_EXTENSIONS, LABEL_EXTENSIONS
from dense_aspp_jax.datasets.listing import Listing, pair_files
from dense_aspp_jax.datasets.stored_files import StoredFile, describe_left, files_of_folder
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.progress import say

_FIRST_CHOICE = ('.png', '.jpg', '.jpeg')  # before files of the same name with other suffixes
_FOLDERS_SHOWN = 8  # in a message
_NEAREST_SOUGHT = 5  # of a kind of problem: each costs a pass over all names


def list_folder(folder: pathlib.Path, split: str) -> Listing:
  """Lists the images and labels of a split, by default FOLDER/SPLIT/images/NAME and FOLDER/SPLIT/labels/NAME.

  NAME, without suffix, may contain subfolders and is the image id. Names are compared in Unicode's composed
  form (NFC), because one name may be spelled differently by two file systems. Of two files of one name, a PNG
  or JPEG is taken. Files with other extensions, files beside the two folders and what is no file are left.

  Raises:
    InputError: No such folder or split, a split without any label, or a labels.json that cannot be read.
  """
  folder = local_path(folder)
  layout = Layout.of(folder)
  found = layout.find(folder, split)
  if not found:
    raise InputError(_missing(folder, layout, split))
  places = found[0]
  by_image_id, problems, left = _files_by_image_id(layout, places, folder)
  for other in found[1:]:
    if other.list not in (None, places.list):
      left.append(f'{shown(other.list)}: second list of {split}')
    else:
      others = files_of_folder(other.images).taken.values()
      left += [file.left(f'in a second folder of {split}') for file in others]
  if places.list:
    problems += _select_listed(by_image_id, left, layout, places, folder, split)
  pairs, alone = pair_files(by_image_id['images'], by_image_id['labels'])
  where = shown(folder / split)
  if by_image_id['images'] and not by_image_id['labels']:
    raise InputError(
      f'{where}: {len(by_image_id["images"])} images without any label; expected files '
      f'{layout.label_suffix}{", ".join(LABEL_EXTENSIONS)} of the same names in {shown(places.labels)}/. Add '
      f'them, or correct {LABELS_FILE}'
    )
  if not pairs and not alone and not problems:
    problems.append(
      f'{where}: no images; expected files {", ".join(IMAGE_EXTENSIONS)} in {shown(places.images)}/ and '
      f'{", ".join(LABEL_EXTENSIONS)} in {shown(places.labels)}/. Add them'
    )
  if alone and (hint := _suffix_hint(**by_image_id)):
    problems.append(f'{where}: {hint}')
  return Listing(where, pairs, problems + alone, left)


def open_folder(folder: pathlib.Path, split: str) -> Split:
  """Opens a split; its fingerprint is of the content of its files, wherever the folder lies.

  Raises:
    InputError: No such folder or split, no files, files without their other half, or two files of
      the same name.
  """
  folder = local_path(folder)
  listing = list_folder(folder, split)
  pairs = listing.require()
  if listing.left:
    say(f'{listing.where}: {describe_left(listing.left)}')
  return Split(listing.where, content_fingerprint(pairs), pairs, former_fingerprint(pairs, folder))


def splits_of(folder: pathlib.Path) -> list[str]:
  """The splits of which a folder has anything.

  Raises:
    InputError: A labels.json that cannot be read.
  """
  layout = Layout.of(folder)
  return [split for split in SPLITS if layout.begun(folder, split)]


_ByImageId = dict[str, dict[str, StoredFile]]  # 'images', 'labels' -> image id -> file


def _files_by_image_id(
  layout: Layout, places: Places, folder: pathlib.Path
) -> tuple[_ByImageId, list[str], list[str]]:
  """The files of a split by kind and image id, files of equal names, and what is left."""
  by_image_id: _ByImageId = {'images': {}, 'labels': {}}
  taken, left = _walk(layout, places, folder)
  problems = []
  for path in sorted(taken, key=lambda path: path.suffix.lower() not in _FIRST_CHOICE):
    file = taken[path]
    if (found := layout.identify(path, places)) is None:
      known = path.suffix.lower() in EXTENSIONS['labels']
      left.append(file.left('not in the layout' if known else None))
      continue
    kind, image_id = found
    files = by_image_id[kind]
    if image_id in files and path.suffix.lower() not in _FIRST_CHOICE:
      left.append(file.left())
    elif image_id in files:
      problems.append(
        f'{file.where}: same name as {files[image_id].where}; names without extension must differ. Rename one'
      )
    else:
      files[image_id] = file
  return by_image_id, problems, left


def _walk(
  layout: Layout, places: Places, folder: pathlib.Path
) -> tuple[dict[pathlib.Path, StoredFile], list[str]]:
  """All files of a split, also those beside its two folders where the split has a folder of its own."""
  roots = [folder / places.name] if layout.has_folders_of_splits else {places.images: 0, places.labels: 0}
  taken, left = {}, {}
  for root in roots:
    files = files_of_folder(root)
    taken |= {root / name: file for name, file in files.taken.items()}
    left |= dict.fromkeys(files.left)
  return taken, list(left)


def _select_listed(
  by_image_id: _ByImageId, left: list[str], layout: Layout, places: Places, folder: pathlib.Path, split: str
) -> list[str]:
  """Keeps what the split's list names, in place; files that no list names are left. Returns the problems."""
  images = by_image_id['images']
  wanted, problems = _read_list(places.list, images, layout, places)
  others = set()
  for other in SPLITS:
    for there in layout.find(folder, other)[:1] if other != split else ():
      if (there.images, there.labels) == (places.images, places.labels):
        others |= _read_list(there.list, images, layout, there)[0].keys()
  for files in by_image_id.values():
    left += [
      file.left('named in no list') for i, file in files.items() if i not in wanted and i not in others
    ]
    for image_id in files.keys() - wanted.keys():
      del files[image_id]
  return problems


def _read_list(
  path: pathlib.Path, images: Mapping[str, StoredFile], layout: Layout, places: Places
) -> tuple[dict[str, int], list[str]]:
  """Reads a list of images: names or paths, of which the first column counts; a line of '#' is a comment.

  Returns:
    Image id -> line number, and a message for each line that names no image, or one again.
  """
  data = StoredFile.on_disk(path).read()
  encoding = json.detect_encoding(data)  # UTF-16 of Windows PowerShell too
  text = data.decode(encoding, errors='surrogateescape' if 'utf-8' in encoding else 'replace')
  found: dict[str, int] = {}
  problems = []
  for number, line in enumerate(text.splitlines(), 1):
    if not (name := line.strip()) or name.startswith('#'):
      continue
    image_id = next((i for i in layout.listed_ids(name) if i in images), None)
    where = f"{shown(path)}: line {number} names '{shown(name)}'"
    if image_id is None:
      near = difflib.get_close_matches(name, images, 1) if len(problems) < _NEAREST_SOUGHT else ()
      nearest = f" (the nearest is '{shown(near[0])}')" if near else ''
      problems.append(
        f'{where}, no image in {shown(places.images)}{nearest}. Correct the line, or add the image'
      )
    elif image_id in found:
      problems.append(f'{where} again, as line {found[image_id]} does. Name it once')
    else:
      found[image_id] = number
  if not found and not problems:
    problems.append(f'{shown(path)}: empty; expected a name of an image in each line')
  return found, problems


def _suffix_hint(images: Mapping[str, StoredFile], labels: Mapping[str, StoredFile]) -> str | None:
  """What labels.json should say where most names of one kind go on with the same suffix after the other's."""
  for kind, other, longer, shorter in (
    ('label', 'image', labels, images),
    ('image', 'label', images, labels),
  ):
    suffixes = Counter(
      name[cut:]
      for name in longer.keys() - shorter.keys()
      for cut in range(1, len(name))
      if name[:cut] in shorter
    )
    for suffix, count in suffixes.most_common(1):
      if 2 * count > len(longer):
        return (
          f'{count} {kind}s have the name of their {other} plus {suffix!r}; if that is the rule, add '
          f'"{kind}_suffix": "{suffix}" to {LABELS_FILE} (docs/own_data.md)'
        )
  return None


def _missing(folder: pathlib.Path, layout: Layout, split: str) -> str:
  if not folder.is_dir():
    return f'{shown(folder)}: no such folder; expected a labelled folder (docs/own_data.md)'
  there = [name for name in SPLITS if layout.find(folder, name)]
  folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
  found = f'it has {", ".join(there)}' if there else 'it has no split at all'
  if not there and folders:
    found += f', but the folders {", ".join(map(shown, folders[:_FOLDERS_SHOWN]))}'
  names = SPLIT_NAMES.get(split, (split,))
  candidates = [layout.places(folder, name) for name in names]
  places = next((p for p in candidates if p.images.is_dir() or p.labels.is_dir()), candidates[0])
  paths = {
    path: f'{shown(path.relative_to(folder) if path.is_relative_to(folder) else path)}{end}'
    for path, end in ((places.images, '/'), (places.labels, '/'), (places.list, ''))
    if path
  }
  absent = [text for path, text in paths.items() if not path.exists()]
  if len(absent) < len(paths):
    found += f'; {" and ".join(absent)} missing'
  held_out = ''
  if split == 'validation' and 'train' in there:
    held_out = (
      "; or hold training images out: config.data.held_out, and config.data.validation_split = 'held_out'"
    )
  others = [name for name in names if name != places.name]
  synonyms = f' (or {" or ".join(others)} instead of {places.name})' if others else ''
  return (
    f'{shown(folder)}: no split {split!r} ({found}); expected {" and ".join(paths.values())}{synonyms}, or '
    f'other names that {LABELS_FILE} gives (docs/own_data.md){held_out}'
  )
