"""Damage to files: by chance, and with a plan that keeps checksums right."""

import random
import struct
from collections.abc import Callable

import plain_png

# Values at the edges of what headers hold.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(data: bytes, rng: random.Random) -> bytes:
  """Turns over 1 to 3 bits."""
  result = bytearray(data)
  for _ in range(rng.randint(1, 3)):
    result[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(result)


def truncate(data: bytes, rng: random.Random) -> bytes:
  """Cuts the end off."""
  return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
  """Adds up to 20 random bytes somewhere."""
  at = rng.randint(0, len(data))
  return data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:]


def remove(data: bytes, rng: random.Random) -> bytes:
  """Takes up to 20 bytes out."""
  start, end = _span(data, rng)
  return data[:start] + data[end:]


def duplicate(data: bytes, rng: random.Random) -> bytes:
  """Writes a span twice."""
  start, end = _span(data, rng)
  return data[:end] + data[start:]


def swap_spans(data: bytes, rng: random.Random) -> bytes:
  """Exchanges two neighbouring spans."""
  a, b, c = sorted(rng.randint(0, len(data)) for _ in range(3))
  return data[:a] + data[b:c] + data[a:b] + data[c:]


def write_edge(data: bytes, rng: random.Random) -> bytes:
  """Puts an extreme integer of 1, 2 or 4 bytes somewhere, most often near the beginning."""
  value, (code, size) = rng.choice(_EDGES), rng.choice((('B', 1), ('H', 2), ('I', 4)))
  at = rng.randrange(min(len(data), rng.choice((64, len(data)))))
  return data[:at] + struct.pack(rng.choice('<>') + code, value % 256**size) + data[at + size :]


ANY_FILE: tuple[Mutation, ...] = (flip_bits, truncate, insert, remove, duplicate, swap_spans, write_edge)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
  start = rng.randrange(len(data))
  return start, min(len(data), start + rng.randint(1, 20))


def _some_bytes(data: bytes, rng: random.Random) -> bytes:
  return rng.choice(ANY_FILE)(data, rng) if data else rng.randbytes(4)


def flip_last_bits(data: bytes, rng: random.Random) -> bytes:
  """Turns over 1 to 3 bits of the last 40 bytes: in weights files without checksums, of the values."""
  return data[:-40] + flip_bits(data[-40:], rng)


def reorder_png(data: bytes, rng: random.Random) -> bytes:
  """Swaps, removes or repeats a chunk; no checksum tells."""
  chunks = list(plain_png.chunks(data))
  _reorder(chunks, rng)
  return _png(chunks)


def change_png_chunk(data: bytes, rng: random.Random) -> bytes:
  """Damages the data of a chunk and makes its checksum right again."""
  chunks = list(plain_png.chunks(data))
  i = rng.randrange(len(chunks))
  chunks[i] = chunks[i][0], _some_bytes(chunks[i][1], rng)
  return _png(chunks)


def change_png_header(data: bytes, rng: random.Random) -> bytes:
  """Gives a field of the header another value, with the right checksum."""
  (kind, header), *others = plain_png.chunks(data)
  fields = list(struct.unpack('>IIBBBBB', header))
  i = rng.randrange(len(fields))
  fields[i] = rng.choice((*_EDGES, *range(9), fields[i] + 1, fields[i] - 1)) % (2**32 if i < 2 else 256)
  return _png([(kind, struct.pack('>IIBBBBB', *fields)), *others])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
  return plain_png.SIGNATURE + b''.join(plain_png.chunk(*chunk) for chunk in chunks)


def reorder_jpeg(data: bytes, rng: random.Random) -> bytes:
  """Swaps, removes or repeats a segment of a JPEG's header."""
  segments, rest = _jpeg_segments(data)
  _reorder(segments, rng)
  return b'\xff\xd8' + b''.join(segments) + rest


def change_jpeg_segment(data: bytes, rng: random.Random) -> bytes:
  """Damages the content of a segment of a JPEG's header and makes its length right again."""
  segments, rest = _jpeg_segments(data)
  i = rng.randrange(len(segments))
  content = _some_bytes(segments[i][4:], rng)
  segments[i] = segments[i][:2] + struct.pack('>H', len(content) + 2) + content
  return b'\xff\xd8' + b''.join(segments) + rest


def _jpeg_segments(data: bytes) -> tuple[list[bytes], bytes]:
  """What stands between the start mark and the first scan, and what follows."""
  segments, at = [], 2
  while data[at : at + 2] != b'\xff\xda':
    (length,) = struct.unpack_from('>H', data, at + 2)
    segments.append(data[at : at + 2 + length])
    at += 2 + length
  return segments, data[at:]


def change_safetensors_header(data: bytes, rng: random.Random) -> bytes:
  """Damages the JSON text of a .safetensors file and makes its length right again."""
  (length,) = struct.unpack_from('<Q', data)
  header = _some_bytes(data[8 : 8 + length], rng)
  return struct.pack('<Q', len(header)) + header + data[8 + length :]


def _reorder(parts: list, rng: random.Random) -> None:
  """Swaps two parts, removes one, or repeats one elsewhere."""
  i, j = (rng.randrange(len(parts)) for _ in range(2))
  match rng.randrange(3):
    case 0:
      parts[i], parts[j] = parts[j], parts[i]
    case 1:
      del parts[i]
    case 2:
      parts.insert(j, parts[i])
