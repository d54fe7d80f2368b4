r"""The slides' best model on DenseNet-201.

  dense-aspp convert --architecture densenet201 --download --output weights/densenet201
  python train.py --config=configs/densenet201.py --workdir=runs/densenet201 \
    --config.init.extractor_weights=weights/densenet201

Cost: 22,312 steps of 8 images at 512x1024; a GPU (not measured yet). The slides report 54.2 % mean IoU on
validation and 73.9 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.extractor = 'densenet201'
  return config
