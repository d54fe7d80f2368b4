r"""The slides' model #4 on Cityscapes: their best one, the same as configs/default.py.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/slides_model4.py --workdir=runs/slides_model4 \
    --config.init.extractor_weights=weights/densenet121

DenseASPP and head have 2,252,820 parameters, as in the slides (structure derived from that count).
Cost: 22,312 steps of 8 images at 512x1024; a GPU (not measured yet). The slides report 54.0 % mean IoU on
validation and 73.5 % on training images (published, not reproduced yet).
"""

from configs import default


def get_config():
  return default.get_config()
