"""Gather the scores of runs over seeds, beside published ones.

Takes the directories of finished runs, and results.json files that were written before. Without --output
the table goes to the terminal.
"""

from __future__ import annotations

import argparse
import pathlib

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_writable, write_file, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.results.model_card import write_cards
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.results.summary import read_results, summarize
from dense_aspp_jax.results.table import markdown, readme_block, replace_block, text


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.add_argument(
    'runs',
    nargs='+',
    type=path_argument,
    metavar='RUN',
    help='directory of a finished run, or a results.json',
  )
  parser.add_argument(
    '--output',
    type=path_argument,
    action='append',
    default=[],
    metavar='FILE',
    help='results.json (all there is) or results.md (tables, with the published scores); may be given twice',
  )
  parser.add_argument(
    '--readme',
    type=path_argument,
    metavar='FILE',
    help='put the table between the lines "results: begin" and "results: end" of this Markdown file',
  )
  parser.add_argument(
    '--cards',
    type=path_argument,
    metavar='DIR',
    help='write a folder to publish for each run: model card, weights, configuration, log, checksums',
  )


def run(args: argparse.Namespace) -> int:
  """Reads all runs, then writes."""
  for output in args.output:
    if output.suffix not in ('.json', '.md') or output.is_dir():
      raise InputError(f'--output {output}: expected the name of a .json or .md file')
    check_writable(output.parent, '--output')
  files = [path for path in args.runs if path.is_file()]
  if args.cards and files:
    raise InputError(f'--cards: {files[0]} holds only scores; give the directory of the run')
  rows_of = {path: read_results(path) if path in files else read_run(path) for path in args.runs}
  results = summarize([row for rows in rows_of.values() for row in rows])
  readme = None
  if args.readme:
    readme = replace_block(_read_text(args.readme), readme_block(results), str(args.readme))
  if args.cards:
    for card in write_cards(rows_of, args.cards):
      print(f'{card}: model card, weights, configuration, log and checksums')
  for output in args.output:
    if output.suffix == '.json':
      write_json(output, results.to_json(provenance()))
    else:
      write_file(output, markdown(results).encode())
    print(f'{output}: {len(results.groups)} scores')
  if readme is not None:
    write_file(args.readme, readme.encode())
    print(f'{args.readme}: {len(results.groups)} scores')
  if not args.output:
    print(text(results))
  return 0


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: cannot be read ({error})') from error
