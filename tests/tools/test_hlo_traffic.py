"""What launches read, write and compute, from small programs in HLO."""
# ruff: noqa: E501 (lines as XLA writes them)

import pytest

from tools.gpu.hlo import read_program
from tools.gpu.prediction import alike, by_group, predict
from tools.gpu.traffic import launches_of

SLICES = """\
HloModule jit_step

%fused_slice (p0: f32[8,100], p1: f32[8,20]) -> f32[8,20] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = f32[8,20]{1,0} parameter(1)
  %slice.1 = f32[8,20]{1,0} slice(%p0), slice={[0:8], [0:20]}
  ROOT %add.1 = f32[8,20]{1,0} add(%slice.1, %p1)
}

%fused_update (p0: bf16[8,100], p1: bf16[8,20], p2: s32[]) -> (bf16[8,100], f32[8]) {
  %p0 = bf16[8,100]{1,0} parameter(0)
  %p1 = bf16[8,20]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %update = bf16[8,100]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
  %bitcast.9 = bf16[8,100]{1,0} bitcast(%update)
  %sums = f32[8]{0} reduce(%p1, %p2), dimensions={1}, to_apply=%sum
  ROOT %both = (bf16[8,100]{1,0}, f32[8]{0}) tuple(%bitcast.9, %sums)
}

ENTRY %main.1 (a: f32[8,100], b: f32[8,20], c: bf16[8,100], d: bf16[8,20], i: s32[]) -> f32[8,20] {
  %a = f32[8,100]{1,0} parameter(0)
  %b = f32[8,20]{1,0} parameter(1)
  %c = bf16[8,100]{1,0} parameter(2)
  %d = bf16[8,20]{1,0} parameter(3)
  %i = s32[] parameter(4)
  %loop_add_fusion.1 = f32[8,20]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(f)/add"}
  %input_update_fusion.2 = (bf16[8,100]{1,0}, f32[8]{0}) fusion(%c, %d, %i), kind=kInput, calls=%fused_update
  %copy.1 = f32[8]{0} copy(%input_update_fusion.2#1)
  ROOT %done = f32[8,20]{1,0} bitcast(%loop_add_fusion.1)
}
"""

PRODUCTS = r"""HloModule jit_step

ENTRY main (x: bf16[2,8,8,16], w: bf16[3,3,16,4], m: f32[64,32], n: f32[32,10]) -> bf16[2,8,8,4] {
  %x = bf16[2,8,8,16]{3,2,1,0} parameter(0)
  %w = bf16[3,3,16,4]{3,2,1,0} parameter(1)
  %m = f32[64,32]{1,0} parameter(2)
  %n = f32[32,10]{1,0} parameter(3)
  %conv = (bf16[2,8,8,4]{3,2,1,0}, u8[1000]{0}) custom-call(%x, %w), window={size=3x3}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward", backend_config={"x":")"}
  %gemm.3.0 = (f32[64,10]{1,0}, s8[4096]{0}) custom-call(%m, %n), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %dot.3 = f32[64,10]{1,0} dot(%m, %n), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %out = bf16[2,8,8,4]{3,2,1,0} get-tuple-element(%conv), index=0
}
"""

_TRITON = (
  'custom-call(%x, %y), custom_call_target="__gpu$xla.gpu.triton", '
  'metadata={{op_name="jit(f)/dense/{path}/pallas_call"}}, backend_config={{ir = "{code}", grid_x = 2 : i32}}'
)
_MOSAIC = (
  'custom-call(%x, %y), custom_call_target="mosaic_gpu_v2", '
  'metadata={{op_name="jit(f)/{path}/kernel/mpmd_map"}}, backend_config={{kernel_hash = "{code}", module = "M"}}'
)
KERNELS = f"""HloModule jit_step

ENTRY main (x: bf16[64,256], y: bf16[128,64]) -> bf16[64,64] {{
  %x = bf16[64,256]{{1,0}} parameter(0)
  %y = bf16[128,64]{{1,0}} parameter(1)
  %pallas_call.1 = bf16[64,64]{{1,0}} {_TRITON.format(path='one[bytes=30000,flops=7]', code='A')}
  %pallas_call.2 = bf16[64,64]{{1,0}} {_TRITON.format(path='one[bytes=40000,flops=8]', code='A')}
  %pallas_call.3 = bf16[64,64]{{1,0}} {_TRITON.format(path='plain', code='B')}
  ROOT %mpmd_map.1 = bf16[64,64]{{1,0}} {_MOSAIC.format(path='two[bytes=50000,flops=9]', code='C')}
}}
"""

WRAPPED = """HloModule jit_step

%dynamic-slice-fusion (p0: bf16[128,256], p1: bf16[256,64]) -> bf16[64,64] {
  %p0 = bf16[128,256]{1,0} parameter(0)
  %p1 = bf16[256,64]{1,0} parameter(1)
  %slice.2 = bf16[64,256]{1,0} slice(%p0), slice={[0:64], [0:256]}
  ROOT %gemm = (bf16[64,64]{1,0}, s8[4096]{0}) custom-call(%slice.2, %p1), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
}

ENTRY main (x: bf16[128,256], y: bf16[256,64]) -> bf16[64,64] {
  %x = bf16[128,256]{1,0} parameter(0)
  %y = bf16[256,64]{1,0} parameter(1)
  ROOT %address.1 = bf16[64,64]{1,0} fusion(%x, %y), kind=kCustom, calls=%dynamic-slice-fusion
}
"""

LOOP = """HloModule jit_step

%body (state: (s32[], f32[100])) -> (s32[], f32[100]) {
  %state = (s32[], f32[100]{0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %copy.2 = f32[100]{0} copy(%state#1)
  ROOT %next = (s32[], f32[100]{0}) tuple(%turn, %copy.2)
}

%condition (state: (s32[], f32[100])) -> pred[] {
  %state = (s32[], f32[100]{0}) parameter(0)
  ROOT %less = pred[] compare(%state#0, %state#0), direction=LT
}

%short (x: f32[100]) -> f32[100] {
  ROOT %x = f32[100]{0} parameter(0)
}

%long (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  ROOT %negate = f32[100]{0} negate(%x)
}

ENTRY main (x: (s32[], f32[100]), y: f32[100], b: pred[]) -> f32[100] {
  %x = (s32[], f32[100]{0}) parameter(0)
  %y = f32[100]{0} parameter(1)
  %b = pred[] parameter(2)
  %while.1 = (s32[], f32[100]{0}) while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %conditional = f32[100]{0} conditional(%b, %y, %y), true_computation=%long, false_computation=%short
}
"""


def launches(text):
  return {launch.name: launch for launch in launches_of(read_program(text))}


def test_a_fusion_reads_only_the_slice_that_it_takes():
  fusion = launches(SLICES)['loop_add_fusion.1']
  assert (fusion.read, fusion.written) == (2 * 8 * 20 * 4, 8 * 20 * 4)
  assert (fusion.kind, fusion.op_name) == ('loop_add_fusion', 'jit(f)/add')


def test_an_update_in_place_moves_only_what_it_changes():
  fusion = launches(SLICES)['input_update_fusion.2']
  assert fusion.read == 8 * 20 * 2 + 4
  assert fusion.written == 8 * 20 * 2 + 8 * 4


def test_an_element_of_a_tuple_is_read_alone():
  copy = launches(SLICES)['copy.1']
  assert (copy.read, copy.written) == (8 * 4, 8 * 4)


def test_what_only_names_memory_is_no_launch():
  assert set(launches(SLICES)) == {'loop_add_fusion.1', 'input_update_fusion.2', 'copy.1'}


def test_operations_of_convolutions_and_products():
  found = launches(PRODUCTS)
  assert found['conv'].flops == 2 * (2 * 8 * 8 * 4) * 3 * 3 * 16
  assert found['gemm.3.0'].flops == found['dot.3'].flops == 2 * 64 * 32 * 10


def test_scratch_memory_of_a_library_is_not_traffic():
  found = launches(PRODUCTS)
  assert found['conv'].written == 2 * 8 * 8 * 4 * 2
  assert found['conv'].read == 2 * 8 * 8 * 16 * 2 + 3 * 3 * 16 * 4 * 2
  assert found['gemm.3.0'].written == 64 * 10 * 4


def test_a_call_that_a_fusion_wraps_is_that_call():
  call = launches(WRAPPED)['address.1']
  assert call.kind == '__cublas$lt$matmul'
  assert call.read == (64 * 256 + 256 * 64) * 2
  assert call.flops == 2 * 64 * 64 * 256


def test_a_kernel_moves_what_it_declares():
  found = launches(KERNELS)
  first = found['pallas_call.1']
  assert (first.kind, first.kernel, first.num_bytes, first.flops) == ('triton', 'one', 30000, 7)
  mosaic = found['mpmd_map.1']
  assert (mosaic.kind, mosaic.kernel, mosaic.num_bytes, mosaic.flops) == ('mosaic', 'two', 50000, 9)


def test_a_kernel_that_declares_nothing_moves_all_operands():
  plain = launches(KERNELS)['pallas_call.3']
  assert plain.kernel == 'plain'
  assert not plain.declared
  assert (plain.read, plain.written) == ((64 * 256 + 128 * 64) * 2, 64 * 64 * 2)


def test_calls_at_other_costs_are_one_kernel():
  assert len({launch.code for launch in launches(KERNELS).values()}) == 3


def test_a_loop_counts_as_often_as_it_turns():
  copy = launches(LOOP)['copy.2']
  assert (copy.times, copy.num_bytes) == (5, 800)
  assert by_group([copy])['sum']['launches'] == 5


def test_of_a_conditional_the_longest_branch_counts():
  assert set(launches(LOOP)) == {'copy.2', 'negate'}


def test_a_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match='ENTRY'):
    read_program('HloModule jit_step')


def test_a_large_launch_takes_its_bytes_at_the_bandwidth():
  mosaic = launches(KERNELS)['mpmd_map.1']._replace(read=2_400_000_000, written=0)
  prediction = predict(mosaic)
  assert prediction.seconds['h100'] == pytest.approx(1e-3, rel=0.01)
  assert prediction.seconds['h200'] < prediction.seconds['h100']


def test_products_bound_a_launch_that_moves_little():
  gemm = launches(PRODUCTS)['gemm.3.0']._replace(flops=790_000_000_000, read=10_000_000)
  assert predict(gemm).seconds['h200'] == pytest.approx(1e-3, rel=0.01)


def test_launches_of_one_origin_are_alike():
  same = KERNELS.replace('/plain/', '/one[bytes=50000,flops=8]/')
  (triton,) = (row for row in alike(launches_of(read_program(same))) if row['kind'] == 'triton')
  assert (triton['launches'], triton['bytes']) == (3, 120000)
  assert triton['path'] == 'jit(f)/dense/one/pallas_call'


def test_groups_add_up_to_the_sum():
  groups = by_group(launches_of(read_program(KERNELS)))
  total = groups.pop('sum')
  for name, value in total.items():
    assert sum(group[name] for group in groups.values()) == pytest.approx(value)
