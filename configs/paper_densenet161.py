r"""The paper's DenseASPP-161 on Cityscapes: Yang et al., CVPR 2018.

  dense-aspp convert --architecture densenet161 --download --output weights/densenet161
  python train.py --config=configs/paper_densenet161.py --workdir=runs/paper_densenet161 \
    --config.init.extractor_weights=weights/densenet161

35,395,427 parameters, as in the authors' code (facts from DeepMotionAIResearch/DenseASPP: a fourth
transition, widths 512/128, biases, no BN in the first layer).
Recipe: configs/paper_densenet121.py. The authors report 79.9 % mean IoU on validation (published, not
reproduced).
Cost: 29,750 steps of 8 crops of 512x512; a GPU (not measured yet).
"""

from configs import paper_densenet121
from dense_aspp_jax.models.segmentation import PAPER_MODELS


def get_config():
  config = paper_densenet121.get_config()
  config.model.update(PAPER_MODELS['denseaspp161'])
  return config
