r"""Times our network and step beside the same in PyTorch, in one interleaved run.

  python tools/compare_pytorch.py --config=configs/default.py --batch=8 --mode=train --output=results.json
  python tools/compare_pytorch.py --config=configs/default.py --batch=1 --mode=inference --device=cpu \
    --image-size 256 512

For DenseNets. Needs torch beside this package. First both must compute the same logits from the same
weights, in float32, and then the same loss. Both get uint8 images in device memory, and no augmentation.
On a CPU both run on 2 cores.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import sys
import time
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

from dense_aspp_jax.benchmark import steps as benchmark_steps
from dense_aspp_jax.benchmark.device import (
  device_description,
  device_mesh,
  peak_bytes_in_use,
  steps_in_flight,
)
from dense_aspp_jax.benchmark.output import append_result, read_results
from dense_aspp_jax.benchmark.timing import Timing, seconds
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.compilation_cache import use_compilation_cache
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.models.extractors.densenet import DENSENETS
from dense_aspp_jax.models.layers import strides_and_dilations
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.config import parse_config

_LOGITS_TOLERANCE = 1e-3  # largest difference over the largest logit, float32
_LOSS_TOLERANCE = {'float32': 1e-3, 'bfloat16': 5e-2}
_LOGITS_SIZE = (128, 256)
_CPU_CORES = 2
_TURN_SECONDS = 0.5
_REST_SECONDS = 1.0  # before each turn: on a CPU the threads of the one before spin for a while
_WARM_UP_STEPS = 3
_PRINTED = (
  'ms_per_step',
  'images_per_second',
  'compile_seconds',
  'first_step_seconds',
  'peak_bytes_in_use',
  'peak_bytes_allocated',
  'our_speed_over_theirs',
)


class PeerProcess:
  """A `pytorch_peer.Peer` in a process of its own, which compiles beside ours."""

  def __init__(self, options: dict[str, Any]):
    context = multiprocessing.get_context('spawn')
    self._executor = concurrent.futures.ProcessPoolExecutor(1, context, _start_peer, (options,))

  def submit(self, method: str, *arguments: Any) -> concurrent.futures.Future:
    """Calls a method after those submitted before; the future gets what it returns."""
    return self._executor.submit(_call_peer, method, *arguments)

  def call(self, method: str, *arguments: Any) -> Any:
    """Calls a method and waits for what it returns."""
    return result_of(self.submit(method, *arguments))


def result_of(future: concurrent.futures.Future) -> Any:
  """What a method of the peer returned; an error there ends the program."""
  try:
    return future.result()
  except Exception as error:  # whatever the other process raised, or its end
    sys.exit(f'PyTorch: {type(error).__name__}: {error}')


def _start_peer(options: dict[str, Any]) -> None:
  from pytorch_peer import Peer  # not at the top: torch is loaded in the peer's process alone

  global _peer
  _peer = Peer(**options)


def _call_peer(method: str, *arguments: Any) -> Any:
  return getattr(_peer, method)(*arguments)


def parse_arguments() -> argparse.Namespace:
  """The command line; what it leaves over are overrides of the configuration."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add_config_argument(parser)
  parser.add_argument('--batch', type=int, help='images a step; default: those of the configuration')
  parser.add_argument('--image-size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'))
  parser.add_argument('--mode', choices=('train', 'inference', 'all'), default='all')
  parser.add_argument('--device', choices=('cpu', 'cuda'), default='cuda')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), help='default: bfloat16, float32 on a CPU')
  parser.add_argument(
    '--peers', nargs='+', choices=('eager', 'compile'), help='default: both; eager on a CPU'
  )
  parser.add_argument('--repeats', type=int, default=10, help='turns of each')
  parser.add_argument('--output', type=pathlib.Path, help='JSON file, a list that this run is appended to')
  args, args.config_arguments = parser.parse_known_args()
  on_cpu = args.device == 'cpu'
  args.dtype = args.dtype or ('float32' if on_cpu else 'bfloat16')
  args.peers = args.peers or (['eager'] if on_cpu else ['eager', 'compile'])
  return args


def read_config(args: argparse.Namespace) -> ConfigDict:
  """The configuration as it is compared: the sizes and the type asked for, no augmentation."""
  config = benchmark_steps.resized(
    read_config_file(args), args.batch, args.image_size and tuple(args.image_size)
  )
  config.model.compute_dtype = args.dtype
  config.training.gradient_accumulation = 1
  config.augmentation.update(dataclasses.asdict(Augmentation()))
  config.evaluation.batch_size = config.training.batch_size
  parse_config(config)
  model = config.model
  if model.extractor not in DENSENETS or model.last_layer or model.skip_head or model.auxiliary_head:
    sys.exit('the network in PyTorch is a whole DenseNet with one head; choose such a configuration')
  return config


def densenet_arguments(model: ConfigDict) -> dict[str, Any]:
  """Those of `pytorch_network.Extractor`."""
  densenet = DENSENETS[model.extractor]
  # After the stem, each block and its transition's pooling, as in models/extractors/densenet.py.
  plan = strides_and_dilations([4, 1, 2, 1, 2, 1, 2, 1, 1], model.output_stride)[1:]
  return {
    **{name: getattr(densenet, name) for name in ('growth_rate', 'block_config', 'num_init_features')},
    'dilations': [dilation for _, dilation in plan[::2]],
    'pools': [stride == 2 for stride, _ in plan[1::2]][: 4 if model.fourth_transition else 3],
  }


def torch_weights(variables: Any) -> dict[str, np.ndarray]:
  """Our variables by PyTorch's names, which are our paths; kernels as `[out, in, h, w]`."""
  leaves = dict(kernel='weight', scale='weight', mean='running_mean', var='running_var', bias='bias')
  return {
    '.'.join((*path, leaves[leaf])): np.transpose(x, (3, 2, 0, 1)) if leaf == 'kernel' else np.asarray(x)
    for (_, *path, leaf), x in flax.traverse_util.flatten_dict(variables).items()
  }


def logits_difference(config: ConfigDict, initial: Any, peer: PeerProcess) -> float:
  """Largest difference over the largest logit, both in float32, with norms that have drawn values."""
  draw = np.random.default_rng(config.seed)

  def drawn(path: Any, x: Any) -> np.ndarray:
    name = path[-1].key
    if name in ('scale', 'var'):
      return draw.uniform(0.7, 1.3, x.shape).astype(np.float32)
    return draw.normal(0, 0.1, x.shape).astype(np.float32) if name in ('mean', 'bias') else np.asarray(x)

  variables = jax.tree_util.tree_map_with_path(drawn, initial)
  image = draw.integers(256, size=(1, *_LOGITS_SIZE, 3), dtype=np.uint8)
  model = create_model(**{**config.model, 'compute_dtype': 'float32'})
  loaded, theirs = peer.submit('load', torch_weights(variables)), peer.submit('logits', image)
  with jax.default_matmul_precision('highest'):
    preprocessing = Preprocessing(config.data.image_size, config.data.mean, config.data.std)
    normalized = preprocessing.normalize(image.astype(np.float32))
    logits = jax.jit(model.apply)(variables, normalized).main
    ours = np.asarray(model.upsample_logits(logits, normalized.shape[1:3]))
  result_of(loaded)
  theirs = result_of(theirs)
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(mode: str, config: ConfigDict, peers: dict[str, PeerProcess], repeats: int) -> dict[str, Any]:
  """Compiles all at the same time, then times them interleaved."""
  prepared = {name: peer.submit('prepare', mode) for name, peer in peers.items()}
  step = (
    benchmark_steps.training_step(config, device_mesh())
    if mode == 'train'
    else benchmark_steps.inference_step(config)
  )
  compiled, compile_seconds = benchmark_steps.compile_cold(step)
  run = step.start(compiled)
  first = jax.block_until_ready(run())
  prepared = {name: result_of(future) for name, future in prepared.items()}
  if mode == 'train':
    losses = {'ours': float(first['loss']), **{name: loss for name, (_, loss) in prepared.items()}}
    print('loss of the first step:', *(f'{name} {loss:.5f}' for name, loss in losses.items()))
    tolerance = _LOSS_TOLERANCE[config.model.compute_dtype]
    if not np.allclose(losses['ours'], list(losses.values()), rtol=tolerance, atol=0):
      sys.exit('they differ: these are not the same steps')

  turns = {'ours': lambda steps: 1e3 * seconds(run, steps, steps_in_flight()) / steps}
  turns |= {name: lambda steps, p=peer: p.call('milliseconds', mode, steps) for name, peer in peers.items()}
  turns['ours'](_WARM_UP_STEPS)
  for peer in peers.values():
    peer.call('warm_up', mode, _WARM_UP_STEPS)
  steps = {name: max(1, math.ceil(1e3 * _TURN_SECONDS / turn(1))) for name, turn in turns.items()}
  milliseconds = {name: [] for name in turns}
  for _ in range(repeats):
    for name, turn in turns.items():
      time.sleep(_REST_SECONDS)
      turn(1)  # its caches warm again
      milliseconds[name].append(turn(steps[name]))

  images = config.training.batch_size
  result = {'mode': mode, 'batch_size': images, 'image_size': list(config.data.image_size)}
  for name in turns:
    result[name] = Timing(steps[name], tuple(milliseconds[name])).to_json(images)
  result['ours'] |= {
    'compile_seconds': step.lower_seconds + compile_seconds,
    'memory_per_device': benchmark_steps.compiled_memory(compiled),
    'peak_bytes_in_use': peak_bytes_in_use(),
  }
  for name, peer in peers.items():
    ratios = np.divide(milliseconds[name], milliseconds['ours'])
    result[name] |= {
      'first_step_seconds': prepared[name][0],
      **peer.call('description'),
      'our_speed_over_theirs': float(np.median(ratios)),
      'our_speed_over_theirs_range': [float(ratios.min()), float(ratios.max())],
    }
  return result


def main() -> None:
  """Compares; prints the figures, and as the last line all of them as JSON."""
  args = parse_arguments()
  if args.device == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
    if hasattr(os, 'sched_setaffinity'):  # before JAX makes its threads; the peers' processes inherit it
      os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CPU_CORES])
  else:
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')  # both on one device
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # both fit
  use_compilation_cache()
  config = read_config(args)
  if importlib.util.find_spec('torch') is None:
    sys.exit('no package torch; expected PyTorch beside this package: install the extra [torch]')
  if args.output:
    read_results(args.output)
  options = {
    'network': {'densenet': densenet_arguments(config.model), 'model': config.model.to_dict()},
    'device': args.device,
    'dtype': args.dtype,
    'batch': benchmark_steps.random_batch(config, config.training.batch_size),
    'optimizer': config.optimizer.to_dict(),
    'loss': config.loss.to_dict(),
    'mean': config.data.mean,
    'std': config.data.std,
    'threads': _CPU_CORES,
  }
  peers = {name: PeerProcess({**options, 'compiled': name == 'compile'}) for name in args.peers}
  initial = jax.jit(create_model(**config.model).init)(
    jax.random.key(config.seed), np.zeros((1, 64, 64, 3), np.float32)
  )
  difference = logits_difference(config, initial, next(iter(peers.values())))
  print(f'logits of the same weights, float32: largest difference {difference:.1e} of the largest logit')
  if not difference <= _LOGITS_TOLERANCE:
    sys.exit(f'they differ by more than {_LOGITS_TOLERANCE}: these are not the same networks')
  for peer in peers.values():
    peer.call('load', torch_weights(initial))
  results = []
  for mode in ('inference', 'train') if args.mode == 'all' else (args.mode,):
    results.append(compare(mode, config, peers, args.repeats))
    rows = [[name, *map(results[-1][name].get, _PRINTED)] for name in ('ours', *peers)]
    print(tabulate(rows, [mode, *_PRINTED], tablefmt='plain', floatfmt='.4g'))
  record = {
    'comparison': 'pytorch',
    'config_file': args.config,
    'config': config.to_dict(),
    'seed': config.seed,
    'dtype': args.dtype,
    **device_description(),
    'logits_difference': difference,
    'provenance': provenance(),
    'results': results,
  }
  if args.output:
    append_result(args.output, record)
  print(json.dumps(record))


if __name__ == '__main__':
  main()
