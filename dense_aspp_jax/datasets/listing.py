"""The files of a split, listed and paired before any of them is read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.stored_files import StoredFile, describe_left
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown

_PROBLEMS_SHOWN = 5
_NEAREST_SOUGHT = _PROBLEMS_SHOWN  # each costs a pass over all names


class Listing(NamedTuple):
  """The files of a split; none of the pairs is read yet.

  Attributes:
    where: The split's place, for messages.
    pairs: Image with label, sorted by image id.
    problems: What does not fit together, such as an image without label; a message each.
    left: 'PATH: why' for each file that does not belong to the data set, as `Files.left`.
  """

  where: str
  pairs: Sequence[Pair]
  problems: list[str]
  left: list[str]

  def require(self) -> Sequence[Pair]:
    """The pairs. Raises InputError, which lists the first problems, if there is any."""
    if self.problems:
      first = ''.join(f'\n  {problem}' for problem in self.problems[:_PROBLEMS_SHOWN])
      more = len(self.problems) - _PROBLEMS_SHOWN
      rest = f'\n  and {more} more; `dense-aspp check-data` lists them all' if more > 0 else ''
      raise InputError(f'{self.where}: {len(self.problems)} problems:{first}{rest}')
    return self.pairs


class Listings(NamedTuple):
  """The files of a data set.

  Attributes:
    splits: Its splits by name.
    left: As `Listing.left`, for files that belong to no split.
    notes: What a user should know about the files that were taken; a sentence each.
  """

  splits: dict[str, Listing]
  left: list[str]
  notes: list[str]

  def describe(self) -> list[str]:
    """The notes, and a line about all that is left out, if anything is."""
    left = self.left + [entry for listing in self.splits.values() for entry in listing.left]
    return self.notes + [describe_left(left)] * bool(left)


def pair_files(
  image_files: Mapping[str, StoredFile], label_files: Mapping[str, StoredFile]
) -> tuple[list[Pair], list[str]]:
  """Pairs images with labels, both given by image id.

  Returns:
    The pairs, sorted by image id, and a message for each file without its other half.
  """
  problems = []
  for kind, files, article, other, others in (
    ('image', image_files, 'a', 'label', label_files),
    ('label', label_files, 'an', 'image', image_files),
  ):
    alone = sorted(files.keys() - others.keys())
    for number, image_id in enumerate(alone):
      nearest = ''
      if number < _NEAREST_SOUGHT and (
        near := difflib.get_close_matches(image_id, others.keys() - files.keys(), 1)
      ):
        nearest = f' (the nearest without {kind} is {others[near[0]].where})'
      problems.append(
        f'{files[image_id].where}: {kind} without {other}; expected {article} {other} named '
        f'{shown(image_id)}{nearest}. Add it, or remove the {kind}'
      )
  both = sorted(image_files.keys() & label_files.keys())
  return [Pair(i, image_files[i], label_files[i]) for i in both], problems
