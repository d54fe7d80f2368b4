"""The report in a real browser, as wide as a phone and as a laptop, in a light and in a dark scheme."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import report_example
from report_example import METRICS, report

from dense_aspp_jax.labels import LabelClass, LabelSet

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [
  pytest.mark.slow,  # starts a browser
  pytest.mark.skipif(CHROMIUM is None, reason='no chromium or google-chrome on the PATH'),
]
FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--window-size=1400,900',
  '--dump-dom',
)
# A frame has a layout of its own width, narrower than the narrowest window that chromium opens. Scripts run
# in the page around it alone: the report's policy forbids them, and what it allows for pictures is in force.
FRAME = """<!doctype html><pre id="found"></pre>
<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<script>
const frame = document.querySelector('iframe');
frame.onload = () => {{
  const page = frame.contentDocument, view = frame.contentWindow, images = [...page.images];
  page.querySelectorAll('details').forEach(details => details.open = true);
  const root = page.documentElement, boxes = [...page.querySelectorAll('.scroll')];
  const backgroundOf = element => view.getComputedStyle(element).backgroundColor;
  document.getElementById('found').textContent = JSON.stringify({{
    width: view.innerWidth,
    images: images.length,
    broken: images.filter(image => image.naturalWidth === 0).map(image => image.alt),
    content: root.scrollWidth,
    visible: root.clientWidth,
    scrolling: boxes.filter(box => box.scrollWidth > box.clientWidth).length,
    panels_in_a_row: images.slice(1, 5).filter(image => image.y === images[1].y).length,
    background: backgroundOf(page.body),
    behind_plots: [...new Set([...page.querySelectorAll('.plot')].map(backgroundOf))],
  }});
}};
</script>"""


def look(page, width, tmp_path, *flags):
  """Opens a page in a frame and returns what is found there."""
  page = page.replace(' loading="lazy"', '')  # so that all pictures are there when the frame is loaded
  path = tmp_path / 'frame.html'
  path.write_text(FRAME.format(width=width, page=html.escape(page)), encoding='utf-8')
  command = [CHROMIUM, *FLAGS, *flags, f'--user-data-dir={tmp_path / "profile"}', path.as_uri()]
  result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
  found = re.search(r'<pre id="found">(\{.*?\})</pre>', result.stdout)
  assert found, result.stderr
  return json.loads(html.unescape(found[1]))


@pytest.fixture(scope='module')
def page():
  """Names, values and pictures as long and as wide as they get."""
  names = [f'a class whose name is quite long, number {i}' for i in range(20)]
  label_set = LabelSet('wide', tuple(LabelClass(n, (i,), (9 * i, 90, 200)) for i, n in enumerate(names)))
  counts = np.random.default_rng(0).integers(1, 1000, (21, 21))
  path = '/a/path' * 40
  removal = report_example.layer_removal(
    lost_first=[{'class': n, 'layers_removed': 1, 'kept': 0.2} for n in names]
  )
  for setting in removal.data['settings']:
    setting['scores']['iou'] = dict.fromkeys(names, 0.1 if setting['kind'] == 'top' else 0.5)
  return report(
    workdir='run_' * 30,
    config={'model': {'extractor': 'an_extractor_of_a_long_name'}, 'data': {'dataset': f'folder:{path}'}},
    confusion=report_example.confusion(counts, label_set),
    examples=[report_example.example(path, (64, 128))] * 6,
    layer_removal=removal,
    metrics=METRICS,
  )


@pytest.mark.parametrize(('width', 'panels'), [(390, 2), (1280, 4)])
def test_all_pictures_are_drawn_and_the_page_does_not_scroll_sideways(page, width, panels, tmp_path):
  found = look(page, width, tmp_path)
  assert found['width'] == width
  assert found['images'] == page.count('<img ') == 1 + 24 + 2 + 4 + 4 + 2
  assert found['broken'] == []
  assert found['content'] <= found['visible']
  assert found['panels_in_a_row'] == panels


def test_on_a_phone_wide_tables_and_pictures_scroll_in_their_boxes(page, tmp_path):
  found = look(page, 390, tmp_path)
  assert found['scrolling'] >= 8


@pytest.mark.parametrize(
  ('flags', 'background'), [((), 'rgb(245, 246, 244)'), (('dark',), 'rgb(16, 22, 26)')]
)
def test_plots_lie_on_white_in_both_schemes(page, flags, background, tmp_path):
  found = look(page, 1280, tmp_path, *['--blink-settings=preferredColorScheme=0' for _ in flags])
  assert found['background'] == background
  assert found['behind_plots'] == ['rgb(255, 255, 255)']


def test_what_is_looked_for_would_be_found(page, tmp_path):
  broken = page.replace('base64,', 'base64,AAAA', 1).replace(
    '<nav', '<div style="width: 500px; height: 1px"></div><nav', 1
  )
  found = look(broken, 390, tmp_path)
  assert len(found['broken']) == 1
  assert found['content'] > found['visible']
