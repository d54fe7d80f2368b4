r"""DenseASPP-121 on CamVid: 367 training images, 11 classes, 360x480, from scratch.

  dense-aspp prepare camvid --source FOLDER     (or --download)
  python train.py --config=configs/camvid.py --workdir=runs/camvid

Cost: 13,762 steps of 8 images; a GPU (not measured yet). Validation shares a drive with the training
images, so its score stands above the test score.

A look on a CPU, about 5 minutes on 2 cores:
  python train.py --config=configs/camvid.py --workdir=runs/camvid_cpu \
    --config.model.extractor=densenet_small --config.model.growth_rate=16 \
    --config.model.bottleneck_width=32 --config.model.compute_dtype=float32 \
    --config.augmentation.crop_size='(160, 224)' --config.training.batch_size=4 \
    --config.training.num_epochs=10.0
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.num_classes = 11
  config.data.dataset = 'camvid'
  config.data.label_set = 'camvid11'
  config.data.image_size = (360, 480)
  config.augmentation.scale_range = (0.5, 2.0)
  config.augmentation.crop_size = (360, 480)
  config.augmentation.flip_probability = 0.5
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-4
  config.optimizer.schedule = 'poly'
  config.optimizer.warmup_steps = 100
  config.training.num_epochs = 300.0
  config.evaluation.every_epochs = 10.0
  config.checkpoint.every_epochs = 10.0
  return config
