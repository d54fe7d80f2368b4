r"""The slides' model #5 on Cityscapes: six layers, 19 classes.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/slides_model5.py --workdir=runs/slides_model5 \
    --config.init.extractor_weights=weights/densenet121

DenseASPP and head have 2,748,179 parameters, as in the slides (structure derived from that count).
Cost: 22,312 steps of 8 images at 512x1024; a GPU (not measured yet). The slides report 39.5 % mean IoU on
validation and 55.0 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  config = default.get_config()
  config.model.dilation_rates = (3, 6, 9, 12, 18, 24)
  config.model.first_norm = False  # DenseNet's last BN has normalized the features
  config.model.final_norm = True
  config.model.num_classes = 19
  config.data.label_set = 'cityscapes19'
  return config
