import http.server
import threading

import pytest

from dense_aspp_jax.download import download_file
from dense_aspp_jax.errors import RunError


@pytest.fixture
def server():
  """Serves ten bytes and, under /short, breaks off after four of them."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header('Content-Length', '10')
      self.end_headers()
      self.wfile.write(b'0123456789'[: 4 if self.path == '/short' else 10])

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()
    thread.join()


def test_a_file_comes_whole(server, tmp_path):
  download_file(f'{server}/whole', tmp_path / 'a', 'downloading', 'copy it')
  assert (tmp_path / 'a').read_bytes() == b'0123456789'


def test_a_download_that_breaks_off_is_noticed(server, tmp_path):
  with pytest.raises(RunError, match=r'short: download failed \(4 of 10 bytes came\); copy it'):
    download_file(f'{server}/short', tmp_path / 'a', 'downloading', 'copy it')
