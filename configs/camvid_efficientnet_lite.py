r"""configs/camvid.py on EfficientNet-Lite0, from ImageNet weights.

  dense-aspp convert --architecture efficientnet_lite0 --input FILE --output weights/lite0
  python train.py --config=configs/camvid_efficientnet_lite.py --workdir=runs/camvid_lite_seed0 \
    --config.init.extractor_weights=weights/lite0

FILE: see configs/efficientnet_lite.py. Without the last option it starts from scratch, for comparison.
Cost: 13,762 steps of 8 images; a GPU (not measured yet).
"""

from configs import camvid


def get_config():
  config = camvid.get_config()
  config.model.extractor = 'efficientnet_lite0'
  config.data.mean = (0.5, 0.5, 0.5)  # what its weights were trained with
  config.data.std = (0.5, 0.5, 0.5)
  return config
