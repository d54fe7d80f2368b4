r"""The slides' model #2 on Cityscapes: the extractor cut one transition earlier than #1.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/slides_model2.py --workdir=runs/slides_model2 \
    --config.init.extractor_weights=weights/densenet121

DenseASPP and head have 1,266,580 parameters, as in the slides (structure derived from that count).
Cost: 22,312 steps of 8 images at 224x224; a GPU (not measured yet). The slides report 29.9 % mean IoU on
validation and 54.9 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.last_layer = 'denseblock3'  # transition 3 is removed too: 1024 channels
  config.model.dilation_rates = (3, 6, 9, 12)
  config.model.growth_rate = 32
  config.model.bottleneck_width = 0  # no 1x1 before the 3x3
  config.data.image_size = (224, 224)
  config.data.keep_aspect = False  # images are squeezed to a square, in training and evaluation
  config.training.num_epochs = 60.0
  return config
