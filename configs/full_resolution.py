r"""The slides' best model at the full input size of 1024x2048, in crops: an improvement they propose.

  python train.py --config=configs/full_resolution.py --workdir=runs/full_resolution

Cost: 22,312 steps of 8 images at 768x768; a GPU (not measured yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.image_size = (1024, 2048)
  config.augmentation.crop_size = (768, 768)
  config.evaluation.batch_size = 1
  return config
