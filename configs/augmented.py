r"""The slides' best model with random crops, flips and scaling, which the slides propose, and colour jitter.

  python train.py --config=configs/augmented.py --workdir=runs/augmented

Cost: 22,312 steps of 8 images at 512x1024; a GPU (not measured yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.augmentation.scale_range = (0.5, 2.0)
  config.augmentation.crop_size = (512, 1024)
  config.augmentation.flip_probability = 0.5
  config.augmentation.brightness = 0.2
  config.augmentation.contrast = 0.2
  config.augmentation.saturation = 0.2
  return config
