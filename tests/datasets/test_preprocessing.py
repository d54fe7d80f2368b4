import pytest

from dense_aspp_jax.datasets.preprocessing import Preprocessing


@pytest.mark.parametrize(
  ('native', 'expected'),
  [
    ((1024, 2048), (256, 512)),
    ((256, 512), (256, 512)),
    ((100, 201), (256, 512)),  # 0.5 % off
    ((100, 210), (248, 528)),  # 5 % off: its own ratio
    ((360, 480), (312, 416)),
    ((1000, 10), (3624, 40)),
  ],
)
def test_input_size(native, expected):
  assert Preprocessing((256, 512)).input_size(native) == expected
  assert Preprocessing((256, 512), keep_aspect=False).input_size(native) == (256, 512)
  height, width = expected
  assert height * width == pytest.approx(256 * 512, rel=0.12)
