"""How much of its picture a JPEG holds, by ITU-T T.81 (1992), Annex B.

libjpeg fills with gray what a scan lacks, and only warns, which Pillow keeps to itself. But of a scan that
lacks nothing it does not look at what more there is. So the two can be told apart: bytes that are put at its
end change the picture, or do not.
"""

from __future__ import annotations

import itertools
import re

_MARKER = re.compile(rb"\xff+[\x01-\xfe]")  # in a scan FF 00 is a byte of it
_FRAMES = {
    0xC0: 2,
    0xC1: 2,
    0xC2: 1,
}  # Huffman's, with the bits that a block takes at least: DC and end, or DC
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}  # lossless or arithmetic: other rules
_PROGRESSIVE = 0xC2
_RESTARTS = range(0xD0, 0xD8)
_ALONE = {0x01, *_RESTARTS, 0xD8}  # markers without a segment
_END, _SCAN = 0xD9, 0xDA
_MORE = bytes((37 * i + 11) % 251 for i in range(64))


def with_longer_scans(data: bytes) -> bytes | None:
    """A JPEG with more bytes and restarts at the end of each scan, and of its parts between restarts.

    None where that tells nothing.

    Raises:
        ValueError: it lacks scans, or has fewer bytes than its picture takes at least.
    """
    parts, done, at, least, scanned = list[bytes](), 0, 2, 0, 0
    missing, progressive = set[tuple[int, int]](), False
    while marker := _MARKER.search(data, at):
        code, at = data[marker.end() - 1], marker.end()
        if code == _END:
            break
        if code in _ALONE:
            continue
        if code in _OTHER_FRAMES:
            return None
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(segment)
        if code in _FRAMES:
            least = _FRAMES[code] * _blocks(segment)
            progressive = code == _PROGRESSIVE
            missing = set(itertools.product(segment[6::3], range(64)))
        if code == _SCAN:
            missing -= _last_of(segment, progressive)
            start = at
            for count, marker in enumerate(_MARKER.finditer(data, start)):
                at = marker.start()
                parts += [data[done:at], _MORE]
                done = at
                if marker[0][-1] not in _RESTARTS:
                    parts += [bytes((0xFF, _RESTARTS[(count + i) % 8])) + _MORE for i in range(8)]
                    break
            else:
                return None  # it has no end, which Pillow tells of
            scanned += at - start
    if 8 * scanned < least:
        raise ValueError(f"its picture takes {-(-least // 8)} bytes at least, got {scanned}")
    if missing:
        raise ValueError("it lacks scans")
    return b"".join([*parts, data[done:at]]) if least else None


def _last_of(scan: bytes, progressive: bool) -> set[tuple[int, int]]:
    """The coefficients whose last bits a scan has, by its header: (component, number)."""
    count = 2 * scan[0] if scan else 0
    first, last, bits = scan[count + 1 : count + 4] if progressive and len(scan) > count + 3 else (0, 63, 0)
    return set() if bits & 15 else set(itertools.product(scan[1 : count + 1 : 2], range(first, last + 1)))


def _blocks(frame: bytes) -> int:
    """Of 8 × 8 samples, in all components of a frame's header; 0 of one that is cut off."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    each = [(sampling >> 4, sampling & 15) for sampling in frame[7::3]]
    across, down = (max((sampling[axis] for sampling in each), default=0) or 1 for axis in (0, 1))
    return sum(-(-width * h // (8 * across)) * -(-height * v // (8 * down)) for h, v in each)
