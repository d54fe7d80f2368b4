"""Activations of the source modules, if torch is installed (the extra [torch]).

Only this file imports torch, inside its functions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MobileNetV3
from dense_aspp_jax.models.layers import strides_and_dilations
from dense_aspp_jax.weights.parity import Activations, Case

# Package by source; the extra [torch] has the first two.
_PACKAGES = {
  'torchvision': 'torchvision',
  'timm': 'timm',
  'efficientnet_lite_pytorch': 'efficientnet-lite-pytorch',
}


def source_module(architecture: str, source: str) -> Any:
  """Makes the torch module that defines an architecture, without weights.

  Args:
    architecture: A key of `EXTRACTORS`.
    source: 'torchvision', 'timm' or 'efficientnet_lite_pytorch', see `name_maps`.

  Raises:
    InputError: A package is missing or does not work, or it has no such network.
  """
  try:
    if source == 'torchvision':
      import torchvision

      create = getattr(torchvision.models, architecture, None)
    elif source == 'timm':
      import timm

      prefix = 'tf_' if architecture.startswith('efficientnet') else ''
      create = functools.partial(timm.create_model, prefix + architecture)
    else:
      import efficientnet_lite_pytorch

      # Without an image size it pads as TensorFlow does, by the size of each input.
      create = functools.partial(
        efficientnet_lite_pytorch.EfficientNet.from_name, architecture.replace('_', '-'), image_size=None
      )
  except Exception as error:  # also failures inside, such as mismatched versions of torch and torchvision
    raise InputError(
      f'the source module cannot be used ({type(error).__name__}: {str(error).splitlines()[0]}); '
      f"pip install 'dense_aspp_jax[torch]' {_PACKAGES[source]}"
    ) from error
  if create is None:
    raise InputError(f'{source} has no {architecture}')
  return create().eval()


def load_tensors(module: Any, tensors: dict[str, np.ndarray]) -> None:
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


def torch_activations(module: Any, stages: dict[str, str], case: Case) -> Activations:
  """Returns the activations of each stage of a torch module and its logits, like `parity.stage_activations`.

  Args:
    module: In evaluation mode, dilated if the case requires it.
    stages: Name of the torch submodule by stage.
    case: The input.
  """
  import torch

  result = {}

  def keep(name: str) -> Any:
    return lambda _module, _inputs, output: result.__setitem__(
      name, output.permute(0, 2, 3, 1).numpy().copy()
    )

  handles = [module.get_submodule(sub).register_forward_hook(keep(name)) for name, sub in stages.items()]
  with torch.no_grad():
    logits = module(torch.from_numpy(np.moveaxis(case.image, -1, 1).copy()))
  for handle in handles:
    handle.remove()
  return {**result, 'logits': logits.numpy()}


def stage_modules(extractor: nn.Module, source: str, stages: Sequence[str]) -> dict[str, str]:
  """Returns the torch submodule whose output corresponds to each of our stages, if there is one.

  Args:
    extractor: Determines the family.
    source: See `source_module`.
    stages: Our names, without 'logits'.
  """
  match extractor, source:
    case DenseNet(), _:
      return {stage: f'features.{stage}' for stage in stages}
    case MobileNetV3(), _:  # stem, blocks, last are features.0, 1, ...
      return {stage: f'features.{index}' for index, stage in enumerate(stages)}
    case ConvNeXt(), 'torchvision':
      block, special = 'features.{odd}.{block}', {'stem_norm': 'features.0'}
      special |= {f'downsample{i}': f'features.{2 * i}' for i in (1, 2, 3)}
    case ConvNeXt(), 'timm':
      block, special = 'stages.{stage}.blocks.{block}', {'stem_norm': 'stem'}
      special |= {f'downsample{i}': f'stages.{i}.downsample' for i in (1, 2, 3)}
    case EfficientNetLite(), 'timm':
      block, special = 'blocks.{stage}.{block}', {'stem': 'bn1', 'conv_head': 'bn2'}
    case _:  # efficientnet_lite_pytorch: the ReLU6 after stem and head is not a separate module
      block, special = '_blocks.{index}', {}
  names = {stage: special[stage] for stage in stages if stage in special}
  for index, name in enumerate(stage for stage in stages if stage.startswith('stage')):
    stage, number = (int(n) - 1 for n in name.removeprefix('stage').split('_block'))
    names[name] = block.format(odd=2 * stage + 1, stage=stage, block=number, index=index)
  return names
