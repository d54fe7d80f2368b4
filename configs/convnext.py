r"""The slides' best model on ConvNeXt-Tiny (the slides name no size), one of the improvements they propose.

  dense-aspp convert --architecture convnext_tiny --download --output weights/convnext_tiny
  python train.py --config=configs/convnext.py --workdir=runs/convnext \
    --config.init.extractor_weights=weights/convnext_tiny

Cost: 11,156 steps of 8 images at 512x1024; a GPU (not measured yet). The slides report 53.0 % mean IoU on
validation and 65.9 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.extractor = 'convnext_tiny'
  config.training.num_epochs = 30.0
  return config
