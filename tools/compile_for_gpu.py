"""Compiles for a GPU on a machine without one, and reports what the compiler makes of the program.

  python -m tools.compile_for_gpu
  python -m tools.compile_for_gpu --parts train --card h200 --config.seed=1 --output out.json

Parts: the training step, inference, the initial values, and each kernel of the dense blocks at layers of
the slides' model #4. It reports the launches of a program, the bytes moved, operations, memory, kernels of
ours, and the CPU seconds for tracing, lowering and compiling; for each kernel the registers, spilled bytes
and shared memory of a program, how many programs fit on a multiprocessor, and how often the important
instructions occur. This finds what interpreting the kernels on a CPU does not: operations that a backend
lacks, too much shared memory, registers that spill. The milliseconds are predicted, not measured
(tools/gpu/prediction.py).

Needs jax 0.11 or later with the packages of the extra [cuda], which install without a GPU. XLA takes the
first algorithm of each convolution and matrix product: comparing them needs a GPU.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import sys
from typing import Any

os.environ['JAX_PLATFORMS'] = 'cpu'  # where constants are computed

from tabulate import tabulate

from dense_aspp_jax.benchmark.steps import resized
from dense_aspp_jax.commands.config_file import CONFIG_HELP, read_config_file
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import write_json
from dense_aspp_jax.models.fused.gpu_form import forms
from dense_aspp_jax.models.fused.kernel_calls import Layer
from dense_aspp_jax.provenance import provenance
from tools.gpu.kernels import kernel_reports
from tools.gpu.layers import LAYERS
from tools.gpu.step import PROGRAMS, initial_values_report, program_report
from tools.gpu.target import CARDS, target

PARTS = (*PROGRAMS, 'init', 'kernels')
WORST = ('threads', 'registers', 'spilled', 'fixed', 'shared_memory')


def main() -> None:
  """Compiles the parts asked for, prints tables, and writes JSON if requested."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', default='configs/default.py', help=CONFIG_HELP)
  parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
  parser.add_argument('--forms', nargs='+', choices=forms(), default=forms()[:-1], help='of the kernels')
  parser.add_argument('--card', choices=CARDS, default='h100')
  parser.add_argument('--batch', type=int, default=8, help='images')
  parser.add_argument('--image-size', type=int, nargs=2, default=(512, 1024), metavar=('HEIGHT', 'WIDTH'))
  parser.add_argument('--top', type=int, default=0, help='also print so many sets of like launches')
  parser.add_argument('--dump', type=pathlib.Path, help='folder for what the compiler writes')
  parser.add_argument('--output', type=pathlib.Path, help='JSON file')
  args, args.config_arguments = parser.parse_known_args()
  result: dict[str, Any] = {
    'card': CARDS[args.card].name,  # provenance names the machine that compiled
    'batch': args.batch,
    'image_size': tuple(args.image_size),
    'config_arguments': args.config_arguments,
    'provenance': provenance(),
  }
  read_config_file(args)  # so that a wrong field is said at once
  # A process for each part: what one has compiled, another finds compiled.
  with concurrent.futures.ProcessPoolExecutor(
    1, multiprocessing.get_context('spawn'), max_tasks_per_child=1
  ) as processes:
    for part in args.parts:
      result[part] = processes.submit(report_part, part, args).result()
      print_part(part, result[part], args.top)
      sys.stdout.flush()
      if args.output:
        write_json(args.output, result)


def report_part(part: str, args: argparse.Namespace) -> Any:
  """What is known of one of `PARTS`."""
  with target(args.card) as mesh:
    if part == 'kernels':
      return [
        report
        for form in args.forms
        for name, layer in LAYERS.items()
        for report in kernel_reports(name, layer, form, mesh)
      ]
    config = resized(read_config_file(args), args.batch, tuple(args.image_size))
    if part == 'init':
      return initial_values_report(config)
    return program_report(part, config, mesh, args.dump and str(args.dump / part))


def print_part(part: str, report: Any, top: int) -> None:
  """What `report_part` returned, as tables."""
  if part == 'kernels':
    print_kernels(report)
  elif part == 'init':
    print(f'{report["cpu_seconds"]:.1f} CPU seconds to draw the initial values', end='\n\n')
  else:
    print_program(part, report)
    columns = ('group', 'launches', 'GB', 'H100 ms', 'kind', 'origin')
    rows = [
      (row['group'], row['launches'], row['bytes'] / 1e9, row['h100_ms'], row['kind'], row['path'][-80:])
      for row in report['alike'][:top]
    ]
    print(tabulate(rows, columns, tablefmt='plain', floatfmt='.2f') + '\n\n' if rows else '', end='')


def print_program(name: str, report: dict[str, Any]) -> None:
  """Two tables: the groups of launches, and everything that is one number."""
  columns = ('launches', 'GB', 'TFLOP', 'H100 ms', 'H200 ms')
  rows = [
    (group, g['launches'], g['bytes'] / 1e9, g['flops'] / 1e12, g['h100_ms'], g['h200_ms'])
    for group, g in report['groups'].items()
  ]
  print(tabulate(rows, (name, *columns), tablefmt='plain', floatfmt='.2f'))
  memory = {key: f'{value / 2**30:.3f} GiB' for key, value in report['memory'].items()}
  facts = {
    'launches': report['launches'],
    'kernel calls': report['kernel_calls'],
    'kernel calls that declare no cost': report['kernel_calls_without_cost'],
    'distinct kernels': report['distinct_kernels'],
    'bytes spilled by them': report['spilled_bytes'],
    **memory,
    'CPU seconds to trace and lower': f'{report["lower_cpu_seconds"]:.1f}',
    'CPU seconds to compile': f'{report["compile_cpu_seconds"]:.1f}',
  }
  print(tabulate(facts.items(), tablefmt='plain', stralign='right'))
  if report['kernels']:
    print(tabulate(summaries(report['kernels']), 'keys', tablefmt='plain'))
  print()


def summaries(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """A row for all kernels of a form and name: how many, and the worst of each figure."""
  named = collections.defaultdict(list)
  for kernel in kernels:
    named[kernel['form'], re.sub(r'__\d+$', '', kernel['entry'])].append(kernel)
  return [
    {
      'form': form,
      'kernel': name,
      'distinct': len(alike),
      'programs': min(kernel['programs'] for kernel in alike),
      **{column: max(kernel[column] for kernel in alike) for column in WORST},
    }
    for (form, name), alike in named.items()
  ]


def print_kernels(reports: list[dict[str, Any]]) -> None:
  """One row for each kernel and layer."""
  columns = [name for name in reports[0] if name not in Layer._fields]
  print(tabulate([[report[c] for c in columns] for report in reports], columns, tablefmt='plain'))


if __name__ == '__main__':
  try:
    main()
  except (InputError, RunError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2 if isinstance(error, InputError) else 1)
