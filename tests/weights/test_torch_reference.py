"""The source modules where torch is installed; what is said where it is not, or does not work."""

import sys

import numpy as np
import pytest
from drawn_weights import draw_weights, source_shapes
from safetensors.numpy import save_file
from torch_files import write_pth

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.weights.name_maps import SOURCES
from dense_aspp_jax.weights.torch_reference import source_module, stage_modules


@pytest.mark.parametrize(
  ('source', 'package'),
  [
    ('torchvision', 'torchvision'),
    ('timm', 'timm'),
    ('efficientnet_lite_pytorch', 'efficientnet-lite-pytorch'),
  ],
)
def test_a_missing_package_is_named(source, package, monkeypatch):
  monkeypatch.setitem(sys.modules, source, None)
  with pytest.raises(InputError, match=rf'ModuleNotFoundError.*pip install .*\[torch\]. {package}$'):
    source_module('efficientnet_lite0', source)


def test_a_source_that_is_no_package_is_said_to_be_none():
  with pytest.raises(InputError, match=r'facebookresearch/ConvNeXt is a repository, not a package'):
    source_module('convnext_tiny', 'facebookresearch/ConvNeXt')


def install(name, code, folder, monkeypatch):
  """Makes `import NAME` run `code`."""
  (folder / f'{name}.py').write_text(code)
  monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.syspath_prepend(folder)


def test_a_package_that_does_not_work_is_one_line(monkeypatch, tmp_path):
  install('torchvision', "raise RuntimeError('no operator nms' + chr(10) + 'more')", tmp_path, monkeypatch)
  with pytest.raises(InputError, match=r'RuntimeError: no operator nms\); pip install'):
    source_module('densenet121', 'torchvision')


def test_a_network_that_the_source_does_not_have_is_named(monkeypatch, tmp_path):
  install('torchvision', 'class models: pass', tmp_path, monkeypatch)
  with pytest.raises(InputError, match='torchvision has no densenet_tiny'):
    source_module('densenet_tiny', 'torchvision')
  del sys.modules['torchvision']


@pytest.mark.parametrize(
  ('extractor', 'source', 'expected'),
  [
    ('densenet_tiny', 'torchvision', ['denseblock1 features.denseblock1', 'norm5 features.norm5']),
    ('mobilenet_v3_small', 'torchvision', ['stem features.0', 'block2 features.2', 'last features.12']),
    ('convnext_tiny', 'torchvision', ['stage2_block1 features.3.0', 'downsample1 features.2']),
    ('convnext_tiny', 'timm', ['stage2_block1 stages.1.blocks.0', 'downsample1 stages.1.downsample']),
    ('efficientnet_lite0', 'timm', ['stem bn1', 'stage2_block1 blocks.1.0', 'conv_head bn2']),
    # Its activation is no module.
    ('efficientnet_lite0', 'efficientnet_lite_pytorch', ['stage2_block1 _blocks.1', 'stem', 'conv_head']),
  ],
)
def test_the_module_of_a_stage_is_the_one_that_ends_it(extractor, source, expected):
  pairs = [entry.split() for entry in expected]
  found = stage_modules(create_extractor(extractor), source, [*(pair[0] for pair in pairs), 'logits'])
  assert found == {pair[0]: pair[1] for pair in pairs if pair[1:]}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('architecture', 'source'),
  [
    ('densenet121', 'torchvision'),
    ('mobilenet_v3_small', 'torchvision'),
    ('convnext_tiny', 'torchvision'),
    ('convnext_tiny', 'timm'),
    ('efficientnet_lite0', 'timm'),
  ],
)
def test_parity_with_the_source_module_on_weights_without_a_reference(architecture, source, tmp_path, capsys):
  pytest.importorskip('timm', reason='the extra [torch] is not installed')
  classifier = create_classifier(create_extractor(architecture))
  (source,) = (s for s in SOURCES[type(classifier.extractor)] if s.name == source)
  tensors = {k: v * np.float32(1.01) for k, v in draw_weights(source_shapes(classifier, source)).items()}
  path = tmp_path / ('weights.safetensors' if source.name == 'timm' else 'weights.pth')
  (save_file if source.name == 'timm' else lambda tensors, path: write_pth(path, tensors))(tensors, path)
  assert main(['convert', '--architecture', architecture, '--input', str(path), '--check']) == 0
  printed = capsys.readouterr().out
  assert f'compared with {source.name}, run here, at all positions' in printed
  assert 'all stages agree' in printed
