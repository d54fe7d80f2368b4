r"""The slides' model #3 on Cityscapes: the full extractor, larger dilation rates, larger images.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/slides_model3.py --workdir=runs/slides_model3 \
    --config.init.extractor_weights=weights/densenet121

DenseASPP and head have 1,266,580 parameters, as in the slides (structure derived from that count).
Cost: 29,750 steps of 8 images at 512x512; a GPU (not measured yet). The slides report 41.4 % mean IoU on
validation and 63.3 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.dilation_rates = (6, 12, 18, 24)
  config.model.growth_rate = 32
  config.model.bottleneck_width = 0  # no 1x1 before the 3x3
  config.data.image_size = (512, 512)
  config.data.keep_aspect = False  # images are squeezed to a square, in training and evaluation
  config.training.num_epochs = 80.0
  return config
