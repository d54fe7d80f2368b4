"""Scores that others published, with what their sources say of the protocol."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

from dense_aspp_jax.results.protocol import Protocol

# How a number is known. None was reproduced here.
MARKS = {
  'read': 'read in the source named',
  'claimed': 'a published claim, seen as an abstract, a leaderboard or a table of others alone',
  'from memory': 'not confirmed: check before quoting',
}
_FILES = {'camvid': 'published_camvid.json'}  # by data set


@dataclasses.dataclass(frozen=True)
class Published:
  """A published score.

  Attributes:
    model: Name of the network; in brackets who trained it, if not its authors.
    source: Repository and file or issue, paper, or 'leaderboard'.
    mark: A key of `MARKS`.
    protocol: What the source says of it, None for the rest.
    mean_iou: In %, as published.
    pixel_accuracy: In %, as published.
    iou: In %, by class of our label set, as published; all classes or none.
    parameters: In millions, as published.
    note: What else to know.
  """

  model: str
  source: str
  mark: str
  protocol: Protocol
  mean_iou: float | None = None
  pixel_accuracy: float | None = None
  iou: dict[str, float] = dataclasses.field(default_factory=dict)
  parameters: float | None = None
  note: str | None = None


@functools.cache
def read_published(dataset: str) -> tuple[Published, ...]:
  """The published scores of a data set that we have a list of; none for others."""
  if dataset not in _FILES:
    return ()
  content = json.loads(pathlib.Path(__file__).with_name(_FILES[dataset]).read_text(encoding='utf-8'))
  rows = content.pop('rows')  # the rest holds for all of them
  own = {field.name for field in dataclasses.fields(Published)}
  return tuple(
    Published(
      **{name: value for name, value in row.items() if name in own},
      protocol=Protocol(**content, **{name: value for name, value in row.items() if name not in own}),
    )
    for row in rows
  )
