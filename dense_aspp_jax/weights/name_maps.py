"""How foreign checkpoints name the arrays of our networks: one map per family and source.

A map turns the path of one of our modules, such as `('extractor', 'block3', 'expand', 'conv')`, into the name
of the source's module, such as `features.3.block.0.0`. The sources' definitions: torchvision/models/
{densenet,mobilenetv3,convnext}.py, timm/models/{convnext,efficientnet}.py, facebookresearch/ConvNeXt
models/convnext.py, efficientnet_lite_pytorch/model.py (PyPI), DeepMotionAIResearch/DenseASPP
models/DenseASPP.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

import flax.linen as nn

from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MobileNetV3

Path = tuple[str, ...]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean, standard deviation of RGB in 0..1
# The original subtracts 127 and divides by 128, for values 0..255; timm's 0.5 differs by at most 0.008.
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Mean and deviation of Cityscapes, DeepMotionAIResearch/DenseASPP, inference.py.
CITYSCAPES = ((0.290, 0.328, 0.287), (0.183, 0.187, 0.184))


class Source(NamedTuple):
  """A foreign definition of a network.

  Attributes:
    name: The package that defines it.
    first_key: A key that its checkpoints have and those of other sources do not.
    module_name: The name there of one of our modules, given its path and those of all that hold arrays.
    preprocessing: Mean and standard deviation of RGB in 0..1 that the weights were trained with.
    layer_scale: Its name for ConvNeXt's layer scale.
  """

  name: str
  first_key: str
  module_name: Callable[[Path, Collection[Path]], str]
  preprocessing: tuple[tuple[float, ...], tuple[float, ...]]
  layer_scale: str = 'layer_scale'

  def module_names(self, paths: Collection[Path]) -> dict[Path, str]:
    """Names the modules that hold our arrays, each given as `(collection, module, ..., array)`."""
    modules = dict.fromkeys(path[1:-1] for path in paths)
    return {module: self.module_name(module, modules) for module in modules}

  def keys(self, paths: Collection[Path]) -> dict[Path, str]:
    """Names our arrays as this source's checkpoints do."""
    names = self.module_names(paths)
    leaf_names = {**_LEAF_NAMES, 'layer_scale': self.layer_scale}
    return {path: f'{names[path[1:-1]]}.{leaf_names[path[-1]]}' for path in paths}


# Flax array names -> torch's.
_LEAF_NAMES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


def canonical_key(key: str) -> str:
  """Normalizes names of older or wrapped checkpoints: drops `module.`, turns `norm.1` into `norm1`."""
  key = key.removeprefix('module.')
  return re.sub(r'\b(denselayer\d+|ASPP_\d+)\.(norm|conv)\.([12])\.', r'\1.\2\3.', key)


def _densenet(path: Path, _: Collection[Path]) -> str:
  return 'classifier' if path[0] == 'head' else '.'.join(('features', *path[1:]))


_CONV_NORM = {'conv': '0', 'norm': '1'}


def _mobilenet_v3(path: Path, paths: Collection[Path]) -> str:
  if path[0] == 'head':
    return {'hidden': 'classifier.0', 'linear': 'classifier.3'}[path[1]]
  parts = {p[1:3] for p in paths if p[0] == 'extractor' and len(p) > 3}
  if path[1] in ('stem', 'last'):
    num_blocks = len({block for block, _ in parts})
    return f'features.{0 if path[1] == "stem" else num_blocks + 1}.{_CONV_NORM[path[2]]}'
  block, part, layer = path[1:]
  order = [p for p in ('expand', 'depthwise', 'squeeze_excite', 'project') if (block, p) in parts]
  layer = layer if part == 'squeeze_excite' else _CONV_NORM[layer]
  return f'features.{block.removeprefix("block")}.block.{order.index(part)}.{layer}'


# ConvNeXt's stages and layers are numbered differently by torchvision, timm and the authors.
_CONVNEXT_TORCHVISION = {
  'stem_conv': 'features.0.0',
  'stem_norm': 'features.0.1',
  'downsample': 'features.{after}',
  'block': 'features.{before}.{block}',
  'depthwise': '.block.0',
  'norm': '.block.2',
  'linear1': '.block.3',
  'linear2': '.block.5',
  'head_norm': 'classifier.0',
  'head_linear': 'classifier.2',
}
_CONVNEXT_TIMM = {
  'stem_conv': 'stem.0',
  'stem_norm': 'stem.1',
  'downsample': 'stages.{stage}.downsample',
  'block': 'stages.{stage}.blocks.{block}',
  'depthwise': '.conv_dw',
  'norm': '.norm',
  'linear1': '.mlp.fc1',
  'linear2': '.mlp.fc2',
  'head_norm': 'head.norm',
  'head_linear': 'head.fc',
}


_CONVNEXT_AUTHORS = {
  'stem_conv': 'downsample_layers.0.0',
  'stem_norm': 'downsample_layers.0.1',
  'downsample': 'downsample_layers.{stage}',
  'block': 'stages.{stage}.{block}',
  'depthwise': '.dwconv',
  'norm': '.norm',
  'linear1': '.pwconv1',
  'linear2': '.pwconv2',
  'head_norm': 'norm',
  'head_linear': 'head',
}


def _convnext(names: dict[str, str], path: Path, _: Collection[Path]) -> str:
  if path[0] == 'head':
    return names[f'head_{path[1]}']
  if path[1] in names:
    return names[path[1]]
  if path[1].startswith('downsample'):
    stage = int(path[1].removeprefix('downsample'))
    return f'{names["downsample"].format(stage=stage, after=2 * stage)}.{"0" if path[2] == "norm" else "1"}'
  stage, block = _stage_and_block(path[1])
  prefix = names['block'].format(stage=stage - 1, before=2 * stage - 1, block=block - 1)
  return prefix + (names[path[2]] if path[2:] else '')  # layer scale belongs to the block itself


def _efficientnet_lite_timm(path: Path, paths: Collection[Path]) -> str:
  if path[0] == 'head':
    return 'classifier'
  if path[1] in ('stem', 'conv_head'):
    return {'stem': ('conv_stem', 'bn1'), 'conv_head': ('conv_head', 'bn2')}[path[1]][path[2] == 'norm']
  stage, block = _stage_and_block(path[1])
  if (*path[:2], 'expand', 'conv') in paths:
    names = {'expand': ('conv_pw', 'bn1'), 'depthwise': ('conv_dw', 'bn2'), 'project': ('conv_pwl', 'bn3')}
  else:
    names = {'depthwise': ('conv_dw', 'bn1'), 'project': ('conv_pw', 'bn2')}
  return f'blocks.{stage - 1}.{block - 1}.{names[path[2]][path[3] == "norm"]}'


_PYPI_NAMES = {
  'stem': ('_conv_stem', '_bn0'),
  'expand': ('_expand_conv', '_bn0'),
  'depthwise': ('_depthwise_conv', '_bn1'),
  'project': ('_project_conv', '_bn2'),
  'conv_head': ('_conv_head', '_bn1'),
}


def _efficientnet_lite_pypi(path: Path, paths: Collection[Path]) -> str:
  if path[0] == 'head':
    return '_fc'
  module = _PYPI_NAMES[path[-2]][path[-1] == 'norm']
  if len(path) < 4:
    return module
  blocks = sorted({p[1] for p in paths if p[0] == 'extractor' and len(p) == 4}, key=_stage_and_block)
  return f'_blocks.{blocks.index(path[1])}.{module}'


def _stage_and_block(name: str) -> tuple[int, int]:
  stage, block = re.fullmatch(r'stage(\d+)_block(\d+)', name).groups()
  return int(stage), int(block)


def dense_aspp_source(dilation_rates: tuple[int, ...]) -> Source:
  """The published DenseASPP, whose layers are named by their dilation."""

  def name(path: Path, _: Collection[Path]) -> str:
    if path[0] == 'extractor':
      return '.'.join(('features', *path[1:]))
    if path[0] == 'head':
      return 'classification.1'
    return f'ASPP_{dilation_rates[int(path[1].removeprefix("layer")) - 1]}.{path[2]}'

  return Source('DeepMotionAIResearch/DenseASPP', f'ASPP_{dilation_rates[0]}.conv1.weight', name, CITYSCAPES)


_CONVNEXT_SOURCES = (
  Source('torchvision', 'features.0.0.weight', functools.partial(_convnext, _CONVNEXT_TORCHVISION), IMAGENET),
  Source('timm', 'stem.0.weight', functools.partial(_convnext, _CONVNEXT_TIMM), IMAGENET, 'gamma'),
  Source(
    'facebookresearch/ConvNeXt',
    'downsample_layers.0.0.weight',
    functools.partial(_convnext, _CONVNEXT_AUTHORS),
    IMAGENET,
    'gamma',
  ),
)
SOURCES: dict[type[nn.Module], tuple[Source, ...]] = {
  DenseNet: (Source('torchvision', 'features.conv0.weight', _densenet, IMAGENET),),  # timm's names too
  MobileNetV3: (Source('torchvision', 'features.0.0.weight', _mobilenet_v3, IMAGENET),),
  ConvNeXt: _CONVNEXT_SOURCES,
  EfficientNetLite: (
    Source('timm', 'conv_stem.weight', _efficientnet_lite_timm, HALF),
    Source('efficientnet_lite_pytorch', '_conv_stem.weight', _efficientnet_lite_pypi, HALF),
  ),
}
