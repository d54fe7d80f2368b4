r"""The slides' model #1 on Cityscapes: a cut extractor and small square images.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/slides_model1.py --workdir=runs/slides_model1 \
    --config.init.extractor_weights=weights/densenet121

DenseASPP and head have 662,420 parameters, as in the slides (structure derived from that count).
Cost: 18,593 steps of 8 images at 224x224; a GPU (not measured yet). The slides report 31.6 % mean IoU on
validation and 51.4 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.last_layer = 'transition3'  # dense block 4 is removed: 512 channels
  config.model.dilation_rates = (3, 6, 9, 12)
  config.model.growth_rate = 32
  config.model.bottleneck_width = 0  # no 1x1 before the 3x3
  config.data.image_size = (224, 224)
  config.data.keep_aspect = False  # images are squeezed to a square, in training and evaluation
  config.training.num_epochs = 50.0
  return config
