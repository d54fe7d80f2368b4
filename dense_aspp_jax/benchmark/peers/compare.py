"""A step beside the same step of peers: first the same results, then the times, in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.device import available_cores
from dense_aspp_jax.benchmark.peers.installed import PEERS
from dense_aspp_jax.benchmark.peers.peer import Task
from dense_aspp_jax.benchmark.peers.process import PeerProcess
from dense_aspp_jax.benchmark.steps import random_batch
from dense_aspp_jax.benchmark.timing import Timing, Turn, measure_in_turn
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.augmentation import Augmentation

# What peers do not have. Nothing of it is costly.
_LEFT_OUT = {
  'model.dropout_rate': 0.0,  # it draws, and the losses are compared
  'loss.class_weighting': 'none',
  'loss.ohem_threshold': 0.0,
  'loss.region': 'none',
  'optimizer.decay_norms_and_biases': True,
  'optimizer.clip_norm': 0.0,
  'optimizer.extractor_learning_rate_factor': 1.0,
  'training.gradient_accumulation': 1,
  'training.max_skipped_steps': 0,
  **{f'augmentation.{name}': value for name, value in dataclasses.asdict(Augmentation()).items()},
}
_LOGITS_TOLERANCE = 1e-3  # largest difference over the largest logit, float32
_CLASSES_TOLERANCE = 1e-3  # share of the pixels, float32 on a CPU
_LOSS_TOLERANCE = {'float32': 1e-3, 'bfloat16': 5e-2}
_WARM_UP_STEPS = 3
_LEAVES = dict(kernel='weight', scale='weight', mean='running_mean', var='running_var')


def comparable(config: ConfigDict) -> ConfigDict:
  """A copy without what peers do not have; says which fields that changes."""
  config = config.copy_and_resolve_references()
  changed = []
  for name, value in _LEFT_OUT.items():
    section, field = name.split('.')
    before = config[section][field]
    if (tuple(before) if isinstance(before, list) else before) != value:
      changed.append(name)
      config[section][field] = value
  if changed:
    say(f'compared with the defaults of: {", ".join(changed)}')
  return config


class Comparison:
  """Peers that make the same step as we, each in a process of its own; a context manager, which ends them.

  Attributes:
    first: What each peer's `prepare` returned, by name.
    logits_difference: Largest difference over the largest logit, by name.
  """

  def __init__(
    self,
    mode: str,
    config: ConfigDict,
    names: Sequence[str],
    *,
    on_cpu: bool,
    all_required: bool,
    cores: tuple[int, ...] | None = None,
  ):
    """Describes the step to them; within the context they compile while we do.

    Args:
      mode: 'train' or 'inference'.
      config: From `comparable`.
      names: Keys of `PEERS` that have the mode.
      on_cpu: Or else on a GPU.
      all_required: Whether a peer that fails is an error; otherwise it is left out, and said.
      cores: See `Task`.
    """
    self.mode, self.config, self.on_cpu, self.all_required = mode, config, on_cpu, all_required
    section = config.training if mode == 'train' else config.evaluation
    self.batch = random_batch(config, section.batch_size)
    task = Task(
      mode=mode,
      model=config.model.to_dict(),
      batch=self.batch,
      mean=config.data.mean,
      std=config.data.std,
      optimizer=config.optimizer.to_dict(),
      loss=config.loss.to_dict(),
      device='cpu' if on_cpu else 'cuda',
      threads=len(available_cores()),
      cores=cores,
    )
    self._kinds, self._task = {name: PEERS[name].cls for name in names}, task
    initial = initial_variables(create_model(**config.model), config.seed)
    self.variables = with_drawn_norms(initial, config.seed)
    self._weights = torch_weights(self.variables), torch_weights(initial) if mode == 'train' else None
    self.first: dict[str, Any] = {}
    self.logits_difference: dict[str, float] = {}

  def __enter__(self) -> Comparison:
    with contextlib.ExitStack() as stack:
      self._peers = {
        name: stack.enter_context(PeerProcess(cls, self._task)) for name, cls in self._kinds.items()
      }
      for peer in self._peers.values():
        peer.send('logits', self._weights[0])
        peer.send('prepare', self._weights[1])
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *_: object) -> None:
    self._stack.close()

  def check(self, first: Any) -> None:
    """Waits for the peers and compares the logits, then loss or classes.

    Args:
      first: The result of our first step.

    Raises:
      RunError: They differ, or a peer failed.
    """
    ours = first_image_logits(self.config, self.variables, self.batch['image'])
    say(f'{self.mode}: {", ".join(self._peers)} compile')
    for name in list(self._peers):
      try:
        logits, self.first[name] = self._peers[name].receive(), self._peers[name].receive()
      except RunError as error:
        if self.all_required:
          raise RunError(f'{name}: {error}') from None
        say(f'{name} is not compared: {error}')
        del self._peers[name]
        continue
      difference = float(np.abs(ours - logits).max() / np.abs(ours).max())
      self.logits_difference[name] = difference
      if not difference <= _LOGITS_TOLERANCE:
        raise RunError(
          f'{name}: its logits differ from ours by {difference:.1e} of the largest, with the same weights in '
          f'float32; expected at most {_LOGITS_TOLERANCE}: these are not the same networks'
        )
      self._check_step(name, first)

  def _check_step(self, name: str, first: Any) -> None:
    dtype = self.config.model.compute_dtype
    if self.mode == 'train':
      ours, theirs = float(first['loss']), self.first[name]['loss']
      if not np.isclose(ours, theirs, rtol=_LOSS_TOLERANCE[dtype], atol=0):
        raise RunError(
          f'{name}: the loss of its first step is {theirs:.6g}, ours {ours:.6g}; these are not the same steps'
        )
    elif dtype == 'float32' and self.on_cpu:
      differ = float(np.mean(np.asarray(first)[0] != self.first[name].pop('classes')))
      if not differ <= _CLASSES_TOLERANCE:
        raise RunError(
          f'{name}: {100 * differ:.3g} % of its classes differ from ours; these are not the same steps'
        )

  def measure(self, ours: Turn, others: Mapping[str, Turn], repeats: int) -> dict[str, Timing]:
    """Times 'ours', the peers and others in turn."""
    turns = {'ours': ours, **{name: functools.partial(p.call, 'run') for name, p in self._peers.items()}}
    ours(_WARM_UP_STEPS)
    for peer in self._peers.values():
      peer.call('warm_up', _WARM_UP_STEPS)
    rest = self.on_cpu and len(available_cores()) > 1
    return measure_in_turn({**turns, **others}, repeats=repeats, rest=rest)

  def describe(self, timings: Mapping[str, Timing], images: int) -> dict[str, Any]:
    """What there is to say of each peer, as plain JSON data.

    Args:
      timings: From `measure`.
      images: Of a step.
    """
    return {
      name: {
        **timings[name].to_json(images),
        'first_step_seconds': self.first[name]['seconds'],
        'loss': self.first[name].get('loss'),
        'logits_difference': self.logits_difference[name],
        **peer.call('describe'),
        **_ratios(timings['ours'], timings[name]),
      }
      for name, peer in self._peers.items()
    }


def _ratios(ours: Timing, theirs: Timing) -> dict[str, Any]:
  ratios = np.divide(theirs.milliseconds, ours.milliseconds)
  return {
    'our_speed_over_theirs': float(np.median(ratios)),
    'our_speed_over_theirs_range': [float(ratios.min()), float(ratios.max())],
  }


def with_drawn_norms(initial: Any, seed: int) -> Any:
  """Variables whose norms, biases and layer scales are drawn too, so that logits depend on all of them."""
  draw = np.random.default_rng(seed)

  def drawn(path: Any, x: Any) -> np.ndarray:
    name = path[-1].key
    if name in ('scale', 'var', 'layer_scale'):
      return draw.uniform(*((0.1, 0.3) if name == 'layer_scale' else (0.7, 1.3)), x.shape).astype(np.float32)
    return draw.normal(0, 0.1, x.shape).astype(np.float32) if name in ('mean', 'bias') else np.asarray(x)

  return jax.tree_util.tree_map_with_path(drawn, initial)


def torch_weights(variables: Any) -> dict[str, np.ndarray]:
  """Our variables by PyTorch's names, which are our paths; kernels as `[out, in, h, w]` or `[out, in]`."""
  weights = {}
  for (_, *path, leaf), x in flax.traverse_util.flatten_dict(variables).items():
    x = np.asarray(x)
    if leaf == 'kernel':
      x = np.transpose(x, (3, 2, 0, 1)) if x.ndim == 4 else x.T
    weights['.'.join((*path, _LEAVES.get(leaf, leaf)))] = x
  return weights


def first_image_logits(config: ConfigDict, variables: Any, images: np.ndarray) -> np.ndarray:
  """Our float32 logits `[h, w, classes]` of the first image, at its size."""
  model = create_model(**{**config.model, 'compute_dtype': 'float32'})
  normalize = Preprocessing(images.shape[1:3], config.data.mean, config.data.std).normalize

  def logits(variables: Any, image: jax.Array) -> jax.Array:
    return model.upsample_logits(model.apply(variables, normalize(image)).main, image.shape[1:3])

  with jax.default_matmul_precision('highest'):
    return np.asarray(jax.jit(logits)(variables, images[:1])[0])
