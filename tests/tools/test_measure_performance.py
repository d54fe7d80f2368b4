import argparse
import importlib.util
import json
import pathlib
import sys

from dense_aspp_jax.benchmark.peers.installed import PEERS
from dense_aspp_jax.commands import benchmark

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'measure_performance.py'
spec = importlib.util.spec_from_file_location('measure_performance', SCRIPT)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def step(milliseconds, **fields):
  return {'ms_per_step': milliseconds, 'cpu_ms_per_step': 2 * milliseconds, **fields}


def record(entry, ours=100.4, peers=()):
  result = step(
    ours,
    mode=entry.mode,
    batch_size=entry.batch,
    image_size=[entry.height, entry.width],
    threads=entry.threads,
    share_of_peak_flops=0.456,
    peers={
      name: step(ms, our_speed_over_theirs=ms / ours, our_speed_over_theirs_range=[0.5, 2.5])
      for name, ms in peers
    },
  )
  config = {'model': {'extractor': entry.extractor}}
  return {'config_file': entry.config, 'config': config, 'results': [result]}


def test_every_family_is_measured_in_both_modes_and_each_entry_once():
  entries = tool.entries(2)
  assert all(set(peers) <= set(PEERS) for peers in entries.values())
  assert {entry.extractor for entry in entries} >= {'densenet121', 'mobilenet_v3_large', 'convnext_tiny'}
  steps = {(entry._replace(threads=1), entry.threads) for entry in entries}
  assert steps == {(step, threads) for step, _ in steps for threads in (1, 2)}
  assert {entry.mode for entry in entries} == {'inference', 'train'}
  assert {entry.threads for entry, peers in entries.items() if 'compile' in peers} == {2}
  assert 2 * len(tool.entries(1)) == len(entries)


def test_what_is_in_the_file_is_found_again_and_printed(tmp_path, monkeypatch, capsys):
  first, second, *others = tool.entries(2)
  train = next(entry for entry in others if (entry.mode, entry.batch) == ('train', 4))
  records = [
    record(first, ours=50.0),
    record(first, peers=[('eager', 200.8), ('openvino', 100.4)]),  # the last counts
    record(second, peers=[('eager', 50.2)]),
    record(train, peers=[('compile', 99.96)]),
  ]
  path = tmp_path / 'results.json'
  path.write_text(json.dumps(records))
  assert set(tool.measured(records)) == {first, second, train}
  monkeypatch.setattr(sys, 'argv', [str(SCRIPT), str(path), '--table'])
  assert tool.main() == 0
  inference, training = capsys.readouterr().out.split('\n\n')[1:]
  header, _, *rows = ([cell.strip() for cell in line.split('|')[1:-1]] for line in inference.splitlines())
  assert header[5:7] == ['eager', 'openvino']
  assert rows[0][4:] == ['100 (201)', '201 (402)', '100 (201)', '1.00 (0.50 to 2.50)', '46 %']
  assert rows[1][4:7] == ['100 (201)', '50.2 (100.4)', '']
  assert '100.0 (199.9)' in training


def test_the_arguments_are_those_of_the_command():
  parser = argparse.ArgumentParser()
  benchmark.add_arguments(parser)
  entry = next(entry for entry in tool.entries(2) if entry.batch == 8)
  args, overrides = parser.parse_known_args(entry.arguments())
  assert (args.mode, args.batch, args.image_size, args.threads) == ('train', 8, [288, 384], 2)
  assert overrides == ['--config.model.extractor=efficientnet_lite0']
