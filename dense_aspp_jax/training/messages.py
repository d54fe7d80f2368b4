"""What a training says of itself before its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dense_aspp_jax.datasets.examples import CachedExample, dataset_names
from dense_aspp_jax.datasets.joined import JoinedSplit
from dense_aspp_jax.models.counts import PARTS, count_parameters
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.config import Config
from dense_aspp_jax.training.optimizer import Optimizer


def say_continuation(
  changed: dict[str, list[Any]], optimizer: Optimizer, step: int, former_steps: int, num_steps: int
) -> None:
  """Says what a resumed run does otherwise than before.

  Args:
    changed: The former and the new value by field.
    optimizer: The new one.
    step: Of the first update with it.
    former_steps: Steps of the whole run, before.
    num_steps: Now.
  """
  listed = ', '.join(f'config.{name} {before!r} -> {after!r}' for name, (before, after) in changed.items())
  fields = {name.removeprefix('optimizer.'): values[0] for name, values in changed.items()}
  fields.pop('training.num_epochs', None)
  before = dataclasses.replace(optimizer, **fields).rate(former_steps)(step)
  after = optimizer.rate(num_steps)(step)
  say(
    f'continued with {listed}: {former_steps} -> {num_steps} steps, learning rate of the next step '
    f'{float(before):.3g} -> {float(after):.3g}'
  )


def say_sizes(
  config: Config,
  extractor: str,
  train_split: Sequence[CachedExample],
  num_validation: int,
  num_steps: int,
  mesh: Mesh,
) -> None:
  """Says how large the network and its training are; of several data sets, how often each is seen.

  Args:
    config: Of the run.
    extractor: Its name.
    train_split: The training split.
    num_validation: Images of the validation split.
    num_steps: Steps of the whole run.
    mesh: The devices.
  """
  counts: dict[str, Any] = count_parameters(config.model, config.data.image_size)
  height, width = config.data.image_size
  if config.optimizer.freezes_extractor:
    say(f'the extractor is frozen: {counts["total"] - counts["extractor"]:,} parameters are trained')
  names = {'extractor': extractor, 'dense_aspp': 'DenseASPP'}
  names |= {'skip_decoder': 'skip decoder', 'auxiliary_head': 'auxiliary head'}
  parts = ' + '.join(f'{names.get(part, part)} {counts[part]:,}' for part in PARTS if counts[part])
  say(f'network: {parts} = {counts["total"]:,} parameters, {counts["gmac"]:.2f} GMAC per image')
  say(
    f'{len(train_split)} training and {num_validation} validation images, {num_steps} steps of '
    f'{config.training.batch_size} images at {height}x{width} on {mesh.size} x '
    f'{jax.devices()[0].device_kind}; compiling ...'
  )
  if isinstance(train_split, JoinedSplit):
    names = dataset_names(config.data.dataset)
    for name, part, share in zip(names, train_split.parts, train_split.shares, strict=True):
      times = num_steps * share / len(part)
      say(f'{name}: {len(part)} training images, {share} in each batch, each seen {times:.3g} times')
