"""The index and the cards are what the tool makes of the files."""

import dataclasses
import json

import pytest

from dense_aspp_jax.pretrained import INDEX, pretrained_models
from dense_aspp_jax.results.runs import Row
from dense_aspp_jax.training.model_file import read_model_file
from tools import index_pretrained as tool

MODELS = pretrained_models()


@pytest.mark.parametrize('name', MODELS)
def test_the_index_and_the_cards_are_those_of_the_files(name):
  record, _ = read_model_file(MODELS[name].path)
  model = tool.describe(name, MODELS[name].path, record)
  stored = next(entry for entry in json.loads(INDEX.read_text(encoding='utf-8')) if entry['name'] == name)
  assert json.loads(json.dumps(dataclasses.asdict(model))) == stored
  card = tool.card(model, record)
  assert card == model.card.read_text(encoding='utf-8'), 'python -m tools.index_pretrained'
  assert model.sha256 in card
  for name, iou in model.scores[0]['scores']['iou'].items():
    if iou is not None:
      assert f'| {name} ' in card
      assert f'{100 * iou:.2f}' in card
  assert f'{100 * Row.from_json(model.scores[0]).scores.mean_iou:.2f}' in card


def test_a_file_that_nobody_described_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(tool, 'FOLDER', tmp_path)
  (tmp_path / 'mine.safetensors').touch()
  with pytest.raises(tool.InputError, match='mine: say what it is for'):
    tool.main([])
