r"""configs/camvid.py on the 468 images of training and validation together, like many published results.

  python train.py --config=configs/camvid_trainval.py --workdir=runs/camvid_trainval_seed0
  dense-aspp evaluate --workdir=runs/camvid_trainval_seed0 --split=test --checkpoint=latest --record

Cost: 17,550 steps of 8 images; a GPU (not measured yet). It is scored once, at the end, on images that it was
trained on. Only the test split gives a meaningful score.
"""

from configs import camvid


def get_config():
  config = camvid.get_config()
  config.data.train_split = 'train+validation'
  config.evaluation.every_epochs = config.training.num_epochs
  return config
