r"""DenseASPP on generated street scenes: trains on a CPU in minutes. `make train` runs it.

  python train.py --config=configs/street_scenes.py --workdir=runs/street_scenes

A small DenseNet with all four blocks and five atrous layers, like the slides' best model. Scenes of
256x512 pixels, seen by the network at 128x256, scored at 256x512.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.extractor = 'densenet_small'
  config.model.growth_rate = 16
  config.model.bottleneck_width = 32
  config.model.compute_dtype = 'float32'  # a CPU gains nothing from bfloat16
  config.data.dataset = 'street_scenes'
  config.data.data_dir = 'data'
  config.data.image_size = (128, 256)
  config.augmentation.flip_probability = 0.5
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'poly'
  config.optimizer.warmup_steps = 20
  config.training.num_epochs = 6.0
  config.training.batch_size = 4
  config.evaluation.every_epochs = 2.0
  config.checkpoint.every_epochs = 2.0
  return config
