r"""The slides' best model on MobileNetV3-Large (the slides name no size).

  dense-aspp convert --architecture mobilenet_v3_large --download --output weights/mobilenet_v3_large
  python train.py --config=configs/mobilenet_v3.py --workdir=runs/mobilenet_v3 \
    --config.init.extractor_weights=weights/mobilenet_v3_large

Cost: 14,875 steps of 8 images at 512x1024; a GPU (not measured yet). The slides report 41.9 % mean IoU on
validation and 67.7 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.extractor = 'mobilenet_v3_large'
  config.training.num_epochs = 40.0
  return config
