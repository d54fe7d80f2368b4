"""A training state whose arrays lie end to end in few long ones.

The slides' network has 394 parameters and as many moments and averages of each. On a GPU every one of their
updates is a launch of a kernel of its own, most of which take less time than their launch. Of long arrays an
update is a handful.

Packed trees keep their parts, as `{part: {'kernel': array, 'other': array}}`: an update rule may treat the
extractor, and kernels, in their own way.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.fused.gpu_form import traced_gpu
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.training.train_state import TrainState, trained

_KERNEL, _OTHER = 'kernel', 'other'

Tree = Mapping[str, Any]


class _Place(NamedTuple):
  """Where a leaf of a tree lies in the packed one."""

  path: tuple[str, ...]
  shape: tuple[int, ...]
  array: tuple[str, str]
  start: int


class TreePacking:
  """Packs and unpacks trees of one structure, as `{part: ...}` of nested dictionaries, and of its parts."""

  def __init__(self, tree: Tree):
    """Takes a tree of that structure; its leaves have shapes."""
    places, lengths = [], {}
    for path, leaf in sorted(flatten_dict(dict(tree)).items(), key=lambda item: _order(item[0])):
      array = path[0], _KERNEL if path[-1] == _KERNEL else _OTHER
      start = lengths.get(array, 0)
      places.append(_Place(path, tuple(leaf.shape), array, start))
      lengths[array] = start + math.prod(leaf.shape)
    self._places = tuple(places)

  def pack(self, tree: Tree, xp: Any = jnp) -> dict[str, dict[str, Any]]:
    """The packed tree, by the functions of `xp`; without parts that are missing."""
    leaves, parts = flatten_dict(dict(tree)), {}
    for place in self._of(tree):
      parts.setdefault(place.array, []).append(leaves[place.path].reshape(-1))
    return unflatten_dict({array: xp.concatenate(pieces) for array, pieces in parts.items()})

  def unpack(self, packed: Tree) -> dict[str, Any]:
    """The tree, whose leaves are slices; of NumPy arrays views."""
    arrays = flatten_dict(dict(packed))
    return unflatten_dict(
      {
        place.path: arrays[place.array][place.start : place.start + math.prod(place.shape)].reshape(
          place.shape
        )
        for place in self._of(packed)
      }
    )

  def unpack_for_gradients(self, packed: Tree) -> dict[str, Any]:
    """`unpack` under a derivative: gradients are laid end to end, where a slice's would each be padded."""

    @jax.custom_vjp
    def unpacked(packed: Tree) -> dict[str, Any]:
      return self.unpack(packed)

    unpacked.defvjp(lambda packed: (unpacked(packed), None), lambda _, gradients: (self.pack(gradients),))
    return unpacked(dict(packed))

  def _of(self, tree: Tree) -> list[_Place]:
    return [place for place in self._places if place.path[0] in tree]


def _order(path: tuple[str, ...]) -> tuple[Any, ...]:
  """Like-named leaves of numbered siblings lie side by side, in the order of their numbers."""
  names = [re.match(r'(.*?)(\d*)$', name).groups() for name in path]
  return tuple(name for name, _ in names), tuple(int(number or 0) for _, number in names)


class StatePacking:
  """Packs the state of a training where that pays: on a GPU.

  Attributes:
    on: Whether it does; or else states stay as they are.
  """

  def __init__(self, model: SegmentationModel, on: bool | None = None):
    """Takes the network; `on` None: as the device that is traced for wants it."""
    self.on = traced_gpu() is not None if on is None else on
    if not self.on:
      return
    variables = abstract_variables(model)
    self.params = TreePacking(variables['params'])
    self.batch_stats = TreePacking(variables.get('batch_stats', {}))
    self._trained = jax.tree.structure(trained(model, variables['params']))
    self._packed = jax.tree.structure(self.params.pack(trained(model, _zeros(variables['params'])), np))

  def pack(self, state: TrainState, xp: Any = np) -> TrainState:
    """The packed state; by NumPy, so on the host, or in a trace by jax.numpy."""
    if not self.on:
      return state
    return self._mapped(state, self._trained, functools.partial(TreePacking.pack, xp=xp))

  def unpack(self, state: TrainState) -> TrainState:
    """The state that was packed, on the host."""
    if not self.on:
      return state
    return self._mapped(jax.tree.map(np.asarray, state), self._packed, TreePacking.unpack)

  def _mapped(
    self, state: TrainState, moments: Any, function: Callable[[TreePacking, Tree], Tree]
  ) -> TrainState:
    """Maps the state's trees; `moments` is the structure of those in the optimizer's state."""

    def is_tree(x: Any) -> bool:
      return jax.tree.structure(x) == moments

    packings = {'params': self.params, 'batch_stats': self.batch_stats}
    trees = {name: function(packing, getattr(state, name)) for name, packing in packings.items()}
    ema = state.ema and {name: function(packings[name], tree) for name, tree in state.ema.items()}
    opt_state = jax.tree.map(
      lambda x: function(self.params, x) if is_tree(x) else x, state.opt_state, is_leaf=is_tree
    )
    return state.replace(**trees, ema=ema, opt_state=opt_state)


def _zeros(shapes: Tree) -> Tree:
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
