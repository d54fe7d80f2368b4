r"""The slides' best model with longer training, 80 epochs: an improvement they propose.

  python train.py --config=configs/longer.py --workdir=runs/longer

Cost: 29,750 steps of 8 images at 512x1024; a GPU (not measured yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.training.num_epochs = 80.0
  return config
