"""What an HTML page says, for tests."""

import html.parser


class Page(html.parser.HTMLParser):
  """Reads a page.

  Attributes:
    text: All it says, words separated by one space; a space too where there is a tag.
    rows: Texts of the cells of each row of each table.
    tags: Name and attributes of each start tag.
  """

  def __init__(self, text):
    super().__init__()
    self.tags, self.rows, self._texts = [], [], []
    self._skip = self._cell = False
    self.feed(text)
    self.text = ' '.join(' '.join(self._texts).split())

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    self._skip = tag == 'style'
    if tag == 'tr':
      self.rows.append([])
    elif tag in ('th', 'td'):
      self.rows[-1].append('')
    self._cell = tag in ('th', 'td') or (self._cell and tag in ('small', 'span'))

  def handle_endtag(self, tag):
    self._skip = self._skip and tag != 'style'
    if tag in ('th', 'td'):
      self._cell = False

  def handle_data(self, data):
    if not self._skip:
      self._texts.append(data)
    if self._cell:
      self.rows[-1][-1] = ' '.join(f'{self.rows[-1][-1]} {data}'.split())

  def images(self):
    """The attributes of each <img>."""
    return [attributes for tag, attributes in self.tags if tag == 'img']
