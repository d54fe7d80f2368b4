"""The report of a program from what its compiler has dumped."""
# ruff: noqa: E501 (lines as XLA writes them)

import pytest

from dense_aspp_jax.errors import RunError
from tools.gpu.step import dump_report
from tools.gpu.target import OPTIMIZED, thunks

THUNKS = """\
000: kCommandBuffer  [source       | next=263 (1)]
    001: kCustomKernel [source | sink] loop_add_fusion_1 grid: [1, 1, 1] threads: [64, 1, 1]  shared_memory: 128 bytes
    002: kCustomKernel [source | sink] loop_add_fusion_2 grid: [1, 1, 1] threads: [64, 1, 1]  shared_memory: 0 bytes
003: kDynamicSliceFusion [prev=110 (1)    | next=113 (1)   ] params=2, results=2
    004: kCustomCall   [source       | sink        ] kCustomCall
"""
PROGRAM = """\
HloModule jit_step

ENTRY main (x: bf16[64,256], y: bf16[128,64]) -> bf16[64,64] {
  %x = bf16[64,256]{1,0} parameter(0)
  %y = bf16[128,64]{1,0} parameter(1)
  %mpmd_map.1 = bf16[64,64]{1,0} custom-call(%x, %y), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)/one[bytes=30000,flops=7]/mpmd_map"}, backend_config={kernel_hash = "A", module = "M"}
  %mpmd_map.2 = bf16[64,64]{1,0} custom-call(%x, %y), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)/two/mpmd_map"}, backend_config={kernel_hash = "A", module = "M"}
  ROOT %add = bf16[64,64]{1,0} add(%mpmd_map.1, %mpmd_map.2)
}
"""
PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 24 bytes smem
"""


@pytest.fixture
def dump(tmp_path):
  (tmp_path / 'module_0001.jit_f.thunk_sequence.txt').write_text(THUNKS)
  (tmp_path / f'module_0001.jit_f.sm_9.0a_{OPTIMIZED}').write_text(PROGRAM)
  mosaic = tmp_path / 'mosaic'
  mosaic.mkdir()
  (mosaic / 'kernel_0.ptx').write_text('.visible .entry one(\n)\n.maxntid 384, 1, 1\nwgmma.mma_async\n')
  (mosaic / 'kernel_0.ptxas').write_text(PTXAS)
  launch = '%1 = gpu.launch async [%4] threads(%2) dynamic_shared_memory_size %c100024_i32 {'
  (mosaic / 'kernel_0.mlir-passes.log').write_text(f'module\n{launch}\n')
  return tmp_path


def test_launches_are_those_of_graphs_and_the_rest(dump):
  assert [(thunk.kind, thunk.shared_memory) for thunk in thunks(dump)] == [
    ('CustomKernel', 128),
    ('CustomKernel', 0),
    ('CustomCall', 0),
  ]


@pytest.mark.parametrize('name', ['thunk_sequence.txt', 'thunk_sequence_after_thunk_passes.txt'])
def test_each_version_of_xla_names_the_sequence_its_way(dump, name):
  (path,) = dump.glob('*thunk_sequence.txt')
  path.rename(dump / f'module_0001.jit_f.{name}')
  assert dump_report(dump)['launches'] == 3


def test_calls_of_one_kernel_are_one_distinct_kernel(dump):
  report = dump_report(dump)
  assert (report['kernel_calls'], report['distinct_kernels']) == (2, 1)
  assert report['kernel_calls_without_cost'] == 1


def test_bytes_and_operations_of_all_launches(dump):
  report = dump_report(dump)
  result, operands = 64 * 64 * 2, (64 * 256 + 128 * 64) * 2
  assert report['bytes'] == 30000 + (operands + result) + 3 * result
  assert report['flops'] == 7
  assert report['predicted_ms']['h100'] >= report['predicted_ms']['h200'] > 0


def test_resources_of_a_kernel(dump):
  (kernel,) = dump_report(dump)['kernels']
  assert kernel['registers'] == 168
  assert kernel['spilled'] == 12
  assert not kernel['fixed']
  assert kernel['shared_memory'] == 100_024
  assert kernel['threads'] == 384
  assert kernel['programs'] == 1  # 168 x 384 registers are all of a multiprocessor's
  assert kernel['wgmma'] == 1


def test_registers_that_warpgroups_cannot_exchange(dump):
  log = dump / 'mosaic' / 'kernel_0.ptxas'
  log.write_text(f"ptxas info : (C7504) Potential Performance Loss: 'setmaxnreg' ignored to\n{PTXAS}")
  (kernel,) = dump_report(dump)['kernels']
  assert kernel['fixed']


def test_a_dump_without_the_program_is_refused(tmp_path):
  with pytest.raises(RunError, match='found no file'):
    dump_report(tmp_path)
