r"""The paper's DenseASPP-121 on Cityscapes: Yang et al., CVPR 2018.

  dense-aspp convert --architecture densenet121 --download --output weights/densenet121
  python train.py --config=configs/paper_densenet121.py --workdir=runs/paper_densenet121 \
    --config.init.extractor_weights=weights/densenet121

8,280,851 parameters, as in the authors' code (facts from DeepMotionAIResearch/DenseASPP: a fourth
transition, widths 128/64, biases, no BN in the first layer). The training recipe is the paper's, as others
report it: 80 epochs, crops of 512x512, scale 0.5 to 2, flips, brightness, poly 0.9.
Images are normalized with ImageNet's mean and standard deviation, to fit the weights; the authors use
Cityscapes'.
Cost: 29,750 steps of 8 crops; a GPU (not measured yet).
"""

from configs import default
from dense_aspp_jax.models.segmentation import PAPER_MODELS


def get_config():
  config = default.get_config()
  config.model.update(PAPER_MODELS['denseaspp121'])
  config.data.label_set = 'cityscapes19'
  config.data.image_size = (1024, 2048)
  config.augmentation.scale_range = (0.5, 2.0)
  config.augmentation.crop_size = (512, 512)
  config.augmentation.flip_probability = 0.5
  config.augmentation.brightness = 0.1  # a factor; the paper adds up to 10 of 255
  config.optimizer.schedule = 'poly'
  config.training.num_epochs = 80.0
  config.evaluation.batch_size = 1
  return config
