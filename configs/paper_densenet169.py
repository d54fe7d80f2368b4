r"""The paper's DenseASPP-169 on Cityscapes: Yang et al., CVPR 2018.

  dense-aspp convert --architecture densenet169 --download --output weights/densenet169
  python train.py --config=configs/paper_densenet169.py --workdir=runs/paper_densenet169 \
    --config.init.extractor_weights=weights/densenet169

18,420,675 parameters, as in the authors' code (facts from DeepMotionAIResearch/DenseASPP: a fourth
transition, widths 336/168, biases, no BN in the first layer).
Recipe: configs/paper_densenet121.py.
Cost: 29,750 steps of 8 crops of 512x512; a GPU (not measured yet).
"""

from configs import paper_densenet121
from dense_aspp_jax.models.segmentation import PAPER_MODELS


def get_config():
  config = paper_densenet121.get_config()
  config.model.update(PAPER_MODELS['denseaspp169'])
  return config
