"""`dense-aspp results`."""

import json

import pytest
from results_example import make_config, make_run

from dense_aspp_jax.commands.main import main

README = '# Name\n\n<!-- results: begin -->\n<!-- results: end -->\n'


@pytest.fixture
def runs(tmp_path):
  """Two seeds."""
  return [
    str(make_run(tmp_path / f'camvid_s{seed}', mean, config=make_config(seed)))
    for seed, mean in enumerate((0.5, 0.54))
  ]


def test_without_an_output_the_table_goes_to_the_terminal(runs, capsys):
  assert main(['results', *runs]) == 0
  title, header, row = capsys.readouterr().out.splitlines()
  assert title == 'camvid, in %'
  assert header.split()[:2] == ['run', 'parameters']
  assert row.split('  ')[0] == 'camvid'
  assert '52.00 ± 2.83' in row


def test_files_of_both_kinds_and_the_readme_are_written_and_made_again_from_the_json(runs, tmp_path, capsys):
  (tmp_path / 'README.md').write_text(README)
  outputs = [f'--output={tmp_path}/results.json', f'--output={tmp_path}/new/results.md']
  assert main(['results', *runs, *outputs, f'--readme={tmp_path}/README.md']) == 0
  assert capsys.readouterr().out.splitlines() == [
    f'{tmp_path}/results.json: 1 scores',
    f'{tmp_path}/new/results.md: 1 scores',
    f'{tmp_path}/README.md: 1 scores',
  ]
  written = json.loads((tmp_path / 'results.json').read_text())
  assert list(written) == ['standard', 'ours', 'published', 'provenance']
  assert [row['run'] for row in written['ours'][0]['rows']] == ['camvid_s0', 'camvid_s1']
  assert str(tmp_path) not in (tmp_path / 'results.json').read_text()
  document = (tmp_path / 'new' / 'results.md').read_text(encoding='utf-8')
  readme = (tmp_path / 'README.md').read_text(encoding='utf-8')
  assert '52.00 ± 2.83' in document
  assert '52.00 ± 2.83' in readme
  assert 'DABNet' in document
  (tmp_path / 'README.md').write_text(README)
  again = ['results', f'{tmp_path}/results.json', f'--output={tmp_path}/again.md']
  assert main([*again, f'--readme={tmp_path}/README.md']) == 0
  assert (tmp_path / 'again.md').read_text(encoding='utf-8') == document
  assert (tmp_path / 'README.md').read_text(encoding='utf-8') == readme


def test_runs_may_be_added_to_scores_gathered_before(runs, tmp_path, capsys):
  assert main(['results', runs[0], f'--output={tmp_path}/results.json']) == 0
  assert main(['results', f'{tmp_path}/results.json', runs[1]]) == 0
  assert '52.00 ± 2.83' in capsys.readouterr().out
  assert main(['results', f'{tmp_path}/results.json', runs[0]]) == 2
  assert 'camvid_s0 and camvid_s0: both' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--output=x.csv'], '--output x.csv: expected the name of a .json or .md file'),
    (['--output=x.json', '--output=folder.md'], 'folder.md: expected the name of'),
    (['--output=x.json', '--readme=missing.md'], 'missing.md: cannot be read'),
    (['--output=x.json', '--readme=bare.md'], 'bare.md: expected one line <!-- results: begin -->'),
    (['unknown', '--output=x.json'], 'unknown: no config.json there, so it is not the directory of a run'),
    (['bare.md', '--output=x.json', '--cards=cards'], '--cards: bare.md'),
  ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
  arguments, message, runs, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'bare.md').write_text('# Name\n')
  (tmp_path / 'folder.md').mkdir()
  before = sorted(path.name for path in tmp_path.iterdir())
  assert main(['results', *runs, *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1
  assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_run_that_is_not_finished_is_named_with_its_step(runs, tmp_path, capsys):
  workdir = make_run(tmp_path / 'half', num_steps=9)
  assert main(['results', *runs, str(workdir)]) == 2
  assert 'half: this run is not finished, its scores.json is of step 4 of 9' in capsys.readouterr().err
