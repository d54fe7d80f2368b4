"""Every file in configs/: its parameters, and two steps and an evaluation on generated data."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_20
from dense_aspp_jax.models import extractors
from dense_aspp_jax.models.counts import PARTS, abstract_variables
from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DENSENETS, DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MOBILENETS, MobileNetV3
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.train import train_and_evaluate

CONFIGS = sorted(p.stem for p in (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py'))
# Parameters of DenseASPP and head: the slides' tables; the others follow from the extractor's channels.
SLIDES = {
  'default': 2_252_820,
  'slides_model1': 662_420,
  'slides_model2': 1_266_580,
  'slides_model3': 1_266_580,
  'slides_model4': 2_252_820,
  'slides_model5': 2_748_179,
}
# Parameters of the whole network.
TOTALS = {
  'default': 6_953_856 + 2_252_820,
  'slides_model4': 9_206_676,
  'paper_densenet121': 8_280_851,
  'paper_densenet161': 35_395_427,
  'paper_densenet169': 18_420_675,
  'paper_densenet201': 28_639_987,
  'street_scenes': 222_812,
  'camvid': 6_953_856 + 2_225_920 + 387_680 + 1_419 + 2_362_635,
  'pretrained_camvid': 3_907_819,
}
EXTRACTORS = {
  'densenet201': 18_092_928,
  'mobilenet_v3': 2_971_952,
  'convnext': 27_818_592,
  'efficientnet_lite': 3_371_008,
  'paper_densenet121': 7_479_168,
  'paper_densenet161': 28_911_840,
}
# With few and narrow layers these are the network of another file: only their fields differ.
# tests/training/test_recipe.py trains with CamVid's recipe.
SLOW_TO_REPEAT = {
  *(name for name in CONFIGS if name.startswith(('camvid', 'pretrained'))),
  'augmented',
  'default',  # tests/test_end_to_end.py trains it
  'densenet201',
  'fine_tune',
  'full_resolution',
  'longer',
  'paper_densenet121',  # tests/models/test_implementations.py has its structure
  'paper_densenet161',
  'paper_densenet169',
  'paper_densenet201',
  'slides_model1',
  'slides_model2',
  'slides_model3',
  'slides_model4',
  'slides_model5',  # tests/models/test_dense_aspp.py has its structure
  'street_scenes',  # `make train`
}
SMALL = {
  DenseNet: DENSENETS['densenet_tiny'],
  MobileNetV3: MobileNetV3(
    blocks=tuple(
      MOBILENETS['mobilenet_v3_large'].blocks[i]._replace(expanded_channels=24, features=8)
      for i in (1, 3, 6, 12)
    ),
    classifier_channels=8,
  ),
  ConvNeXt: ConvNeXt(num_blocks=(1, 1, 1, 1), channels=(8, 8, 8, 8), stochastic_depth_rate=0.1),
  EfficientNetLite: EfficientNetLite(channels=(8,) * 7, num_blocks=(1,) * 7),
}


def load_config(name):
  return importlib.import_module(f'configs.{name}').get_config()


@pytest.mark.parametrize('name', CONFIGS)
def test_its_network_has_the_published_number_of_parameters(name):
  params = abstract_variables(create_model(**load_config(name).model))['params']
  counts = {part: sum(x.size for x in jax.tree.leaves(params.get(part, {}))) for part in PARTS}
  assert params.keys() <= counts.keys()
  if name in SLIDES:
    assert counts['dense_aspp'] + counts['head'] == SLIDES[name]
  if name in TOTALS:
    assert sum(counts.values()) == TOTALS[name]
  if name in EXTRACTORS:
    assert counts['extractor'] == EXTRACTORS[name]


def test_the_network_as_large_as_the_published_multiply_adds(capsys):
  """GMAC at 512x512 of DenseASPP-161, from DeepMotionAIResearch/DenseASPP's structure."""
  arguments = ['--config.data.image_size=(512, 512)', '--json']
  assert main(['parameters', '--config=configs/paper_densenet161.py', *arguments]) == 0
  assert json.loads(capsys.readouterr().out)['gmac'] == pytest.approx(154.9, abs=0.05)


def test_the_cut_behind_dense_block_2_gives_model_1s_count_too(capsys):
  arguments = ['--config.model.last_layer=denseblock2', '--json']
  assert main(['parameters', '--config=configs/slides_model1.py', *arguments]) == 0
  assert json.loads(capsys.readouterr().out)['dense_aspp_and_head'] == 662_420


# What the slides' tables and the text about improvements say of each; CamVid's protocol.
FIELDS = {
  'slides_model1': {'data.image_size': (224, 224), 'training.num_epochs': 50, 'model.num_classes': 20},
  'slides_model2': {'data.image_size': (224, 224), 'training.num_epochs': 60, 'model.num_classes': 20},
  'slides_model3': {'data.image_size': (512, 512), 'training.num_epochs': 80, 'model.num_classes': 20},
  'slides_model4': {'data.image_size': (512, 1024), 'training.num_epochs': 60, 'model.num_classes': 20},
  'slides_model5': {'data.image_size': (512, 1024), 'training.num_epochs': 60, 'model.num_classes': 19},
  'densenet201': {'training.num_epochs': 60},
  'mobilenet_v3': {'training.num_epochs': 40},
  'convnext': {'training.num_epochs': 30},
  'longer': {'training.num_epochs': 80},
  'full_resolution': {'data.image_size': (1024, 2048), 'augmentation.crop_size': (768, 768)},
  'camvid': {'training.num_epochs': 300, 'data.image_size': (360, 480), 'data.train_split': 'train'},
  'camvid_trainval': {'data.train_split': 'train+validation', 'evaluation.every_epochs': 300},
  'camvid_tuning': {'data.held_out': ('0006R0',), 'data.validation_split': 'held_out'},
  'pretrained_camvid': {'data.train_split': 'train', 'data.held_out': (), 'data.label_set': 'camvid11'},
  'pretrained_streets': {
    'model.num_classes': 20,
    'data.label_set': 'cityscapes20',
    'data.image_size': (480, 640),
  },
  'augmented': {'augmentation.flip_probability': 0.5, 'augmentation.scale_range': (0.5, 2.0)},
}


@pytest.mark.parametrize('name', FIELDS)
def test_fields(name):
  config = load_config(name)
  for field, value in FIELDS[name].items():
    section, field = field.split('.')
    assert config[section][field] == value


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Generated scenes, 10 to train on and 2 to evaluate, with the label ids of Cityscapes and of CamVid.

  Their names are those of CamVid's drives: two images of training may be held out.
  """
  root = tmp_path_factory.mktemp('folders')
  for name, label_set, num_ids in (('cityscapes', CITYSCAPES_20, 34), ('camvid', CAMVID_11, 12)):
    write_json(root / name / 'labels.json', label_set.to_json())
    for seed, (split, count) in enumerate({'train': 10, 'validation': 2}.items()):
      for index in range(count):
        drive = '0016E5' if split == 'validation' else '0001TP' if index < 8 else '0006R0'
        image, label_ids = render_scene(seed, index, (64, 128))
        save_png(root / name / split / 'images' / f'{drive}_{index}.png', image)
        save_png(root / name / split / 'labels' / f'{drive}_{index}.png', label_ids % np.uint8(num_ids))
  return root


def two_steps(config, folders, tmp_path):
  """Trains two steps on small images; checks the log, the scores, the checkpoint and a prediction."""
  height, width = config.data.image_size
  config.data.image_size = (32, 32 * width // height)
  if config.augmentation.crop_size is not None:
    config.augmentation.crop_size = (24, 40)
  datasets = config.data.dataset if isinstance(config.data.dataset, tuple) else (config.data.dataset,)
  stand_ins = [f'folder:{folders / ("camvid" if d == "camvid" else "cityscapes")}' for d in datasets]
  config.data.dataset = tuple(stand_ins) if len(stand_ins) > 1 else stand_ins[0]
  config.data.data_dir = str(tmp_path / 'data')
  config.training.batch_size = 8
  images = len(datasets) * (12 if config.data.train_split != 'train' else 8 if config.data.held_out else 10)
  config.training.num_epochs = 16 / images
  config.optimizer.warmup_steps = min(1, config.optimizer.warmup_steps)
  config.evaluation.every_epochs = config.checkpoint.every_epochs = 2.0
  config.evaluation.num_pictures = 0
  scores = train_and_evaluate(config, tmp_path / 'run')
  lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  losses = [line['loss'] for line in lines if line['kind'] == 'train']
  assert len(losses) == 2
  assert losses[0] != losses[1]
  assert 0 < losses[0] < 20
  assert 0 <= scores.mean_iou < 1
  run = load_run(tmp_path / 'run', 'latest')
  assert run.step == 2
  prediction = run.predictor.predict(np.zeros((64, 128, 3), np.uint8))  # the size that is compiled already
  assert prediction.shape == (64, 128)
  assert prediction.max() < run.model.num_classes
  return run


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_TO_REPEAT else n for n in CONFIGS]
)
def test_it_trains_two_steps_and_evaluates(name, folders, tmp_path, monkeypatch):
  """With its own structure and fields, few and narrow layers: a few seconds to compile."""
  for key, extractor in list(extractors.EXTRACTORS.items()):
    monkeypatch.setitem(extractors.EXTRACTORS, key, SMALL[type(extractor)])
  config = load_config(name)
  config.model.growth_rate = 4
  config.model.bottleneck_width = min(8, config.model.bottleneck_width)
  config.model.compute_dtype = 'float32'
  config.model.dilation_rates = config.model.dilation_rates[:1]
  run = two_steps(config, folders, tmp_path)
  assert run.model.dense_aspp.dilation_rates == tuple(config.model.dilation_rates)
  assert run.predictor.preprocessing.keep_aspect == config.data.keep_aspect


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
  'name', ['default', 'mobilenet_v3', 'convnext', 'efficientnet_lite', 'paper_densenet121']
)
def test_it_trains_two_steps_and_evaluates_at_full_depth(name, folders, tmp_path):
  two_steps(load_config(name), folders, tmp_path)
