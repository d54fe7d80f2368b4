"""The source modules and their activations, if torch is installed (the extra [torch]).

Only this file imports torch, inside its functions.
"""

from __future__ import annotations

import copy
import functools
import importlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax
import flax.linen as nn
import numpy as np

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.layers import strides_and_dilations
from dense_aspp_jax.weights.name_maps import SOURCES


def source_module(architecture: str, source: str) -> Any:
  """Makes the torch module that defines an architecture, without weights.

  Args:
    architecture: A key of `EXTRACTORS`.
    source: A name of a source of `name_maps`.

  Raises:
    InputError: A package is missing or does not work, it has no such network, or the source is no package.
  """
  if not source.isidentifier():
    raise InputError(f'{source} is a repository, not a package that can be run here')
  try:
    package = importlib.import_module(source)
  except Exception as error:  # also failures inside, such as mismatched versions of torch and torchvision
    raise InputError(
      f'the source module cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}); '
      f"pip install 'dense_aspp_jax[torch]' {source.replace('_', '-')}"
    ) from error
  if source == 'timm':
    prefix = 'tf_' if architecture.startswith('efficientnet') else ''
    return package.create_model(prefix + architecture).eval()
  if source == 'efficientnet_lite_pytorch':
    # Without an image size it pads as TensorFlow does, by the size of each input.
    return package.EfficientNet.from_name(architecture.replace('_', '-'), image_size=None).eval()
  if not hasattr(package.models, architecture):
    raise InputError(f'{source} has no {architecture}')
  return getattr(package.models, architecture)().eval()


def load_tensors(module: Any, tensors: Mapping[str, np.ndarray]) -> None:
  """Loads arrays by key into a torch module; every parameter and statistic must be given."""
  import torch

  state = {key: torch.from_numpy(np.array(array, np.float32)) for key, array in tensors.items()}
  missing, unexpected = module.load_state_dict(state, strict=False)
  missing = [key for key in missing if not key.endswith('num_batches_tracked')]
  if missing or unexpected:
    raise InputError(f'the source module misses {missing[:5]} and does not know {unexpected[:5]}')


def dilate(module: Any, output_stride: int) -> None:
  """Turns strides beyond `output_stride` into dilation, by the rule of `strides_and_dilations`.

  Applies to convolutions and average poolings in the order of their definition, which in these networks is
  the order of execution. A convolution whose padding no longer preserves the size (ConvNeXt's 2x2) is padded
  bottom and right.
  """
  import torch

  def first(value: Any) -> int:
    return value[0] if isinstance(value, tuple | list) else value

  layers = [
    m
    for m in module.modules()
    if isinstance(m, torch.nn.Conv2d | torch.nn.AvgPool2d | torch.nn.MaxPool2d) and first(m.kernel_size) > 1
  ]

  plan = strides_and_dilations([first(layer.stride) for layer in layers], output_stride)
  for layer, (stride, dilation) in zip(layers, plan, strict=True):
    if isinstance(layer, torch.nn.AvgPool2d):
      if stride != first(layer.stride):
        layer.kernel_size = layer.stride = 1
      continue
    if stride == first(layer.stride) and dilation == 1:
      continue
    kernel_size = first(layer.kernel_size)
    layer.stride, layer.dilation = (stride, stride), (dilation, dilation)
    if kernel_size % 2:
      if first(layer.padding):  # timm's 'same' convolutions pad by themselves
        layer.padding = (dilation * (kernel_size - 1) // 2,) * 2
    elif stride == 1:
      pad = torch.nn.ZeroPad2d((0, dilation, 0, dilation))
      layer.register_forward_pre_hook(lambda _, inputs, pad=pad: (pad(inputs[0]),))


def torch_activations(
  module: Any, stages: dict[str, str], image: np.ndarray, output_stride: int
) -> dict[str, np.ndarray]:
  """Returns the activations of each stage of a torch module and its logits, like `parity.stage_activations`.

  Args:
    module: In evaluation mode, at output stride 32; stays as it is.
    stages: Name of the torch submodule by stage.
    image: float32 `[1, h, w, 3]`.
    output_stride: Strides beyond it become dilation.
  """
  import torch

  module = copy.deepcopy(module)
  dilate(module, output_stride)
  outputs = {}

  def keep(name: str, _module: Any, _inputs: Any, output: Any) -> None:
    outputs[name] = output.permute(0, 2, 3, 1).numpy().copy()  # the next module may write in place

  for name, submodule in stages.items():
    module.get_submodule(submodule).register_forward_hook(functools.partial(keep, name))
  with torch.no_grad():
    logits = module(torch.from_numpy(np.moveaxis(image, -1, 1).copy()))
  return {**outputs, 'logits': logits.numpy()}


def stage_modules(extractor: nn.Module, source: str, stages: Iterable[str]) -> dict[str, str]:
  """Returns the torch submodule whose output corresponds to each of our stages, if there is one.

  Args:
    extractor: Determines the family.
    source: See `source_module`.
    stages: Our names; 'logits' are left out.
  """
  (definition,) = (s for s in SOURCES[type(extractor)] if s.name == source)
  paths = flax.traverse_util.flatten_dict({'params': {'extractor': abstract_variables(extractor)['params']}})
  names = definition.module_names(paths)
  result = {}
  for stage in stages:
    parts = [n.replace('.', '/') for path, n in names.items() if path[:2] == ('extractor', stage)]
    if common := posixpath.commonpath(parts or ['']):
      # These parts are inside of MobileNetV3's addition, and of the concatenation after a single dense layer.
      result[stage] = re.sub('/(block|denselayer1)$', '', common).replace('/', '.')
    elif parts and source == 'timm':  # its norms rectify too; elsewhere no module ends with the activation
      result[stage] = names['extractor', stage, 'norm']
  return result
