"""README's table and docs/results.md are those of docs/results.json, and it is what our rows give."""

import json
import pathlib

from dense_aspp_jax.results.summary import read_results, summarize
from dense_aspp_jax.results.table import markdown, readme_block, replace_block

ROOT = pathlib.Path(__file__).parents[2]
MAKE = 'dense-aspp results docs/results.json --output docs/results.md --readme README.md'


def test_the_documented_tables_are_those_of_the_scores():
  results = summarize(read_results(ROOT / 'docs/results.json'))
  stored = json.loads((ROOT / 'docs/results.json').read_text(encoding='utf-8'))
  assert results.to_json(stored['provenance']) == stored
  assert (ROOT / 'docs/results.md').read_text(encoding='utf-8') == markdown(results), MAKE
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert replace_block(readme, readme_block(results), 'README.md') == readme, MAKE
