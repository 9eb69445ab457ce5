"""Arrays in .npy files and pipes: every dtype and order, and refusals of headers that lie."""

from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from convmat.errors import FileError
from convmat.files import members
from convmat.files.npy import NpyInput, is_array, write_npy
from tests.strategies import DTYPES
from tests.tools import environment

VERSIONS = ((1, 0), (2, 0), (3, 0))
HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("npy")


def npy_bytes(array: NDArray[Any], version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    npy_format.write_array(stream, array, version=version)
    return stream.getvalue()


def archived(**arrays: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{}, None]), allow_pickle=True)
    return stream.getvalue()


def crafted(header: str, data: bytes = bytes(8), major: int = 1, length: int | None = None) -> bytes:
    """An .npy file with any header text, and any claim of its length."""
    text = header.encode("latin-1")
    claimed = len(text) if length is None else length
    return b"\x93NUMPY" + bytes((major, 0)) + claimed.to_bytes(2 if major == 1 else 4, "little") + text + data


@contextmanager
def as_file(folder: Path, content: bytes, piece: int = 0) -> Iterator[str]:
    path = folder / "in.npy"
    path.write_bytes(content)
    yield str(path)


@contextmanager
def as_pipe(folder: Path, content: bytes, piece: int = 1 << 16) -> Iterator[str]:
    """A named pipe that a thread fills, a piece at a time, for as long as anyone reads."""
    path = folder / "pipe"
    os.mkfifo(path)

    def fill() -> None:
        with suppress(BrokenPipeError), open(path, "wb", buffering=0) as stream:
            for start in range(0, len(content), piece):
                stream.write(content[start : start + piece])

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        # A reader that never opened the pipe would leave the thread waiting for one.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(10)
        path.unlink()
    assert not thread.is_alive(), "the pipe is still open, and nobody reads"


SOURCES = (as_file, as_pipe)


def read(name: str) -> NDArray[Any]:
    return NpyInput(name).read()


def read_blocks(name: str, block_bytes: int = 64) -> NDArray[Any]:
    """The array put together from its blocks."""
    source, data = NpyInput(name), b""
    for block in source.blocks(block_bytes):
        assert (block.dtype, block.shape[1:]) == (source.dtype, source.shape[1:])
        data += block.tobytes()
    return np.frombuffer(data, source.dtype).reshape(source.shape)


READERS = (read, read_blocks)


def assert_same(got: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Equal to the last bit, NaN included."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert got.tobytes() == wanted.tobytes()


# Reading


arrays = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=1, max_dims=5, min_side=0)
)


@given(arrays, st.sampled_from(VERSIONS), st.booleans(), st.integers(1, 200), st.integers(1, 50))
def test_reads_what_numpy_wrote(
    folder: Path, array: NDArray[Any], version: tuple[int, int], fortran: bool, block_bytes: int, piece: int
) -> None:
    content = npy_bytes(np.asfortranarray(array) if fortran else array, version)
    for opened in SOURCES:
        with opened(folder, content, piece) as name:
            source = NpyInput(name)
            assert (source.shape, source.dtype, source.nbytes) == (array.shape, array.dtype, array.nbytes)
            assert_same(source.read(), array)
        with opened(folder, content, piece) as name:
            assert_same(read_blocks(name, block_bytes), array)


@pytest.mark.parametrize("opened", SOURCES)
def test_reads_a_single_number(opened: Any, folder: Path) -> None:
    with opened(folder, npy_bytes(np.array(2.5))) as name:
        assert_same(read(name), np.array(2.5))


@pytest.mark.parametrize("opened", SOURCES)
def test_reads_headers_of_python_2(opened: Any, folder: Path) -> None:
    with opened(folder, crafted(HEADER % ("'<i8'", "(1L, 1L)"), bytes([7, *bytes(7)]))) as name:
        assert_same(read(name), np.array([[7]]))


@given(st.integers(0, 12), st.integers(0, 5), st.integers(1, 200))
def test_blocks_are_whole_steps_no_larger_than_asked(
    folder: Path, rows: int, columns: int, block_bytes: int
) -> None:
    array = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    for opened in SOURCES:
        with opened(folder, npy_bytes(array)) as name:
            blocks = list(NpyInput(name).blocks(block_bytes))
        assert len({len(block) for block in blocks[:-1]}) <= 1
        assert all(block.nbytes <= block_bytes or len(block) == 1 for block in blocks)
        assert sum(map(len, blocks)) == rows


@pytest.mark.parametrize(
    ("opened", "reader", "limit"),
    [
        (as_file, lambda source: [source.read()], MIB),  # large enough to be mapped
        (as_file, lambda source: source.blocks(1 << 16), MIB),
        (as_pipe, lambda source: source.blocks(1 << 16), MIB),
    ],
)
def test_holds_little(
    opened: Any,
    reader: Callable[[NpyInput], Any],
    limit: int,
    folder: Path,
) -> None:
    array = np.arange(32 * MIB // 8).reshape(-1, 64)
    with opened(folder, npy_bytes(array)) as name:
        total = 0
        tracemalloc.start()
        try:
            for block in reader(NpyInput(name, mapped_from=MIB)):
                total += int(block[-1, -1])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total >= array[-1, -1]
    assert peak < limit


READ_AND_WRITE = """
import sys
from convmat.files.npy import NpyInput, write_npy
source = NpyInput("-")
blocks = source.blocks(64) if sys.argv[1] == "blocks" else [source.read()]
write_npy("-", source.shape, source.dtype, blocks)
"""


@pytest.mark.parametrize("how", ["read", "blocks"])
@pytest.mark.parametrize("fortran", [False, True])
def test_standard_input_and_output_of_a_real_process(how: str, fortran: bool) -> None:
    array = np.arange(300, dtype=">i4").reshape(10, 6, 5)
    content = npy_bytes(np.asfortranarray(array) if fortran else array)
    with subprocess.Popen(
        [sys.executable, "-c", READ_AND_WRITE, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment(),
    ) as child:
        assert child.stdin is not None
        for start in range(0, len(content), 7):  # so that its reads come short
            child.stdin.write(content[start : start + 7])
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert out == npy_bytes(array)


def test_standard_input_may_be_a_file(folder: Path) -> None:
    content = npy_bytes(np.arange(20).reshape(4, 5))
    with as_file(folder, content) as name, open(name, "rb") as stream:
        command = [sys.executable, "-c", READ_AND_WRITE, "read"]
        done = subprocess.run(
            command, stdin=stream, stdout=subprocess.PIPE, check=True, env=environment(), timeout=60
        )
    assert done.stdout == content


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("reader", [read, read_blocks])
def test_arrays_of_an_archive(save: Any, reader: Any, folder: Path) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "y 1": np.arange(4, dtype=">i2"), "z/w": np.zeros((0, 2))}
    arrays["fortran"] = np.asfortranarray(np.arange(20).reshape(4, 5))
    save(folder / "a.npz", **arrays)
    for member, array in arrays.items():
        assert_same(reader(f"{folder}/a.npz:{member}"), array)


def test_a_file_of_that_name_comes_before_an_archive(folder: Path) -> None:
    (folder / "b.npz").write_bytes(archived(a=np.zeros(3)))
    (folder / "b.npz:a").write_bytes(npy_bytes(np.ones(2)))
    assert_same(read(f"{folder}/b.npz:a"), np.ones(2))


def _damaged(archive: bytes) -> bytes:
    where = archive.index(np.arange(50.0).tobytes()) + 100
    return archive[:where] + bytes([archive[where] ^ 1]) + archive[where + 1 :]


def _lying(header: str, data: bytes = bytes(8)) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", crafted(header, data))
    return stream.getvalue()


def _packed(kind: int, at: int, change: int = 0xFF) -> bytes:
    """An archive whose member `a` is damaged where it is packed, `at` bytes after its header."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("a.npy", npy_bytes(np.random.default_rng(0).random(500)))
    content = bytearray(stream.getvalue())
    content[30 + len("a.npy") + at] ^= change
    return bytes(content)


def _claiming(field: str, value: int, name: str = "a.npy") -> bytes:
    """An archive whose headers say another thing of its member (APPNOTE, 4.3.7 and 4.3.12)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, npy_bytes(np.arange(5.0)))
    content = bytearray(stream.getvalue())
    directory = content.rindex(b"PK\1\2")
    # Of the local header, and of the directory.
    for start, skip in ((0, 0), (directory, 2)):
        offset, width = {"version": (4, 2), "flags": (6, 2), "kind": (8, 2), "sizes": (18, 8)}[field]
        at = start + skip + offset
        content[at : at + width] = value.to_bytes(width, "little")
    return bytes(content)


def _unreadable_name() -> bytes:
    return _claiming("flags", 0x800, "\xe9a.npy").replace(b"\xc3\xa9", b"\xff\xfe")


def _listing(length: int, wide: bool) -> bytes:
    """An archive whose end says that its directory has so many bytes (APPNOTE, 4.3.14 and 4.3.16)."""
    content = archived(a=np.zeros(1))
    end = content.rindex(b"PK\5\6")
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, length, 0)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    told = b"\xff" * 4 if wide else length.to_bytes(4, "little")
    return content[:end] + (record + locator) * wide + content[end : end + 12] + told + content[end + 16 :]


def _twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (1.0, 2.0):
            archive.writestr("a.npy", npy_bytes(np.full(1, value)))
    return stream.getvalue()


NO_ARCHIVE = r"(:a)?: cannot be read: .*c\.npz is no \.npz archive: "


@pytest.mark.parametrize("reader", [read, read_blocks])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((_packed(zipfile.ZIP_LZMA, at), r":a: (is damaged|truncated): ") for at in (4, 9, 300)),
        *((_packed(zipfile.ZIP_BZIP2, at), r":a: (is damaged|truncated): ") for at in (0, 9, 300)),
        *((_packed(zipfile.ZIP_DEFLATED, at), r":a: (is damaged|truncated): ") for at in (0, 300)),
        (_claiming("version", 99), NO_ARCHIVE + "zip file version 9.9$"),
        (_claiming("kind", 97), NO_ARCHIVE + "That compression method is not supported$"),
        (_claiming("flags", 1), NO_ARCHIVE + ".* is encrypted, password required"),
        (_unreadable_name(), NO_ARCHIVE + ".*codec can't decode"),
        (_claiming("sizes", (1 << 63) | (1 << 31)), r":a: too long: .* has 40 bytes of data, got 41 or more"),
        (
            _listing(1 << 30, False),
            NO_ARCHIVE + "it lists members in 1073741824 bytes, expected at most 4194304$",
        ),
        (
            _listing(1 << 30, True),
            NO_ARCHIVE + "it lists members in 1073741824 bytes, expected at most 4194304$",
        ),
        (_listing(1 << 62, True), NO_ARCHIVE + ".*"),
        (_twice(), r":a: is 2 arrays of one name; write the archive again$"),
    ],
)
def test_refuses_archives_that_zipfile_stumbles_over(
    reader: Any, content: bytes, message: str, folder: Path
) -> None:
    (folder / "c.npz").write_bytes(content)
    with pytest.raises(FileError, match=message):
        reader(f"{folder}/c.npz:a")


def test_a_list_of_many_members_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "c.npz").write_bytes(archived(**{f"a{n}": np.zeros(0) for n in range(20)}))
    assert len(read(f"{folder}/c.npz:a7")) == 0
    monkeypatch.setattr(members, "_DIRECTORY_LIMIT", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(
        FileError, match=r"is no \.npz archive: it lists members in \d+ bytes, expected at most 1000$"
    ):
        read(f"{folder}/c.npz:a7")


@pytest.mark.parametrize("reader", [read, read_blocks])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archived(b=np.zeros(1), c=np.zeros(1)), r":a: has no such array; .*c\.npz has b, c$"),
        (archived(), r":a: has no such array; .*c\.npz has none$"),
        (_damaged(archived(a=np.arange(50.0))), r":a: is damaged: Bad CRC-32 for file 'a\.npy'$"),
        (archived(a=np.zeros(1))[:-10], r":a: cannot be read: .*c\.npz is no \.npz archive: "),
        (b"PK" + bytes(100), r":a: cannot be read: .*c\.npz is no \.npz archive: File is not a zip file$"),
        (npy_bytes(np.zeros(1)), r":a: cannot be read: .*c\.npz is no \.npz archive: File is not a zip fil"),
        (_lying("{"), r":a: has a damaged \.npy header; write the file again$"),
        (
            _lying(HEADER % ("'<f8'", "(10, 10)")),
            r":a: truncated: a float64 .* has 800 bytes of data, got 8;",
        ),
        (
            _lying(HEADER % ("'<f8'", "(1,)"), bytes(9)),
            r":a: too long: .* has 8 bytes of data, got 9 or more",
        ),
        (_lying(HEADER % ("'|O'", "(1,)")), r":a: holds pickled Python objects, which are never loaded; sav"),
    ],
)
def test_refuses_bad_archives(reader: Any, content: bytes, message: str, folder: Path) -> None:
    (folder / "c.npz").write_bytes(content)
    with pytest.raises(FileError, match=message):
        reader(f"{folder}/c.npz:a")


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("a.npz", archived(a=np.zeros(3)), True),
        ("-", None, False),  # a pipe is asked as it is read
        ("a.npy", npy_bytes(np.zeros(1)), True),
        ("a.png", npy_bytes(np.zeros(1)), True),  # what it holds counts, not what it is called
        ("b.npy", b"\x89PNG", False),
        ("b.npy", b"", False),
        ("missing", None, False),
        ("a.txt", b"1 2", True),
        ("a.csv", b"1,2", True),
        ("missing.csv", None, False),
        (".", None, False),
    ],
)
def test_is_array(
    name: str, content: bytes | None, answer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    assert is_array(name) is answer


def test_asking_takes_nothing_from_a_pipe(folder: Path) -> None:
    array = np.arange(6)
    with as_pipe(folder, npy_bytes(array)) as name:
        assert not is_array(name)
        assert_same(read(name), array)


# Refusing


VALID = npy_bytes(np.arange(6.0).reshape(2, 3))
TEN_TO_30 = f"({10**30},)"

BAD_HEADERS = {
    "empty": (b"", "is empty; expected an .npy array$"),
    "text": (b"1 2 3\n4 5 6\n", "is not an .npy array; write it with numpy.save$"),
    "half the magic": (b"\x93NUM", "is not an .npy array; write it with numpy.save$"),
    "version 4": (crafted("", major=4), r"has .npy format version \(4, 0\); expected 1.0, 2.0 or 3.0$"),
    "header cut": (VALID[:50], r"truncated: the header has 118 bytes, got 40$"),
    "4 GB of header": (
        crafted("{", major=2, length=2**32 - 1),
        "claims a header of 4294967295 bytes; expected at most 10000$",
    ),
    "10001 bytes of header": (
        crafted(" " * 10_001),
        "claims a header of 10001 bytes; expected at most 10000$",
    ),
    "objects": (pickled(), "holds pickled Python objects, which are never loaded; save numbers$"),
    "records": (npy_bytes(np.zeros(2, "i4,f8")), r"holds \[\('f0', '<i4'\), \('f1', '<f8'\)\] values; exp"),
    "strings": (npy_bytes(np.array(["ab"])), "holds <U2 values; expected booleans, integers, floats or com"),
    "bytes": (npy_bytes(np.array([b"ab"])), r"holds \|S2 values; expected booleans"),
    "dates": (npy_bytes(np.array([0], "M8[s]")), r"holds datetime64\[s\] values; expected booleans"),
    "spans": (npy_bytes(np.array([0], "m8[s]")), r"holds timedelta64\[s\] values; expected booleans"),
    "subarrays": (crafted(HEADER % ("('<f8', (2,))", "(1,)")), r"holds \('<f8', \(2,\)\) values; expected"),
    "void": (crafted(HEADER % ("'|V8'", "(1,)")), r"holds \|V8 values; expected booleans"),
    "10^30": (crafted(HEADER % ("'<f8'", TEN_TO_30)), "claims an impossible shape; write the file again$"),
    "negative": (crafted(HEADER % ("'<f8'", "(-1,)")), "claims an impossible shape; write the file again$"),
    "true": (crafted(HEADER % ("'<f8'", "(True,)")), "claims an impossible shape; write the file again$"),
    "65 axes": (crafted(HEADER % ("'<f8'", f"({'1, ' * 65})")), "claims an impossible shape|axes"),
    "none of 2^62": (crafted(HEADER % ("'<f8'", f"(0, {2**62})"), b""), "claims an impossible shape"),
}
DAMAGED = {
    "float dimension": HEADER % ("'<f8'", "(1.0,)"),
    "expression": HEADER % ("'<f8'", "(10**30,)"),
    "list shape": HEADER % ("'<f8'", "[1]"),
    "unknown dtype": HEADER % ("'<q7'", "(1,)"),
    "no dtype": HEADER % ("None", "(1,)"),
    "endless dtype": HEADER % ("'<f99999999999999'", "(1,)"),
    "order of 1": "{'descr': '<f8', 'fortran_order': 1, 'shape': (1,)}",
    "missing key": "{'descr': '<f8', 'shape': (1,)}",
    "further key": "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 0}",
    "keys of two types": "{1: 2, 'descr': '<f8'}",
    "unhashable key": "{[]: 1}",
    "number": "5",
    "nothing": "",
    "zeros": "\0" * 64,
    "code": "__import__('os').getcwd()",
    "1+1+…": "1" + "+1" * 4900,
    "----…": "-" * 9000 + "1",
    "((((…": "(" * 150 + ")" * 150,
    "[[[[…": "[" * 4000,
    "digits": "9" * 9000,
    "bracket left open": "{'descr': '<f8', 'fortran_order': False, 'shape': (2",
    "string left open": "'''descr",
    "indentation": "  a\n b\n  c",
}
REFUSED = BAD_HEADERS | {
    name: (crafted(header), "has a damaged .npy header; write the file again$")
    for name, header in DAMAGED.items()
}


@pytest.mark.parametrize("opened", SOURCES)
@pytest.mark.parametrize(
    "case",
    REFUSED,
)
def test_refuses_bad_headers(opened: Any, case: str, folder: Path) -> None:
    content, message = REFUSED[case]
    with opened(folder, content) as name, pytest.raises(FileError, match=message) as caught:
        NpyInput(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.npy", "missing.npy: cannot be read: No such file or directory$"),
        (".", "^.: cannot be read: Is a directory$"),
    ],
)
def test_refuses_what_is_no_file(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=message):
        NpyInput(name)


@pytest.mark.parametrize("opened", SOURCES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VALID[:-1], r"truncated: a float64 array of shape \(2, 3\) has 48 bytes of data, got 47; write"),
        (VALID[:-48], r"truncated: a float64 array of shape \(2, 3\) has 48 bytes of data, got 0; write"),
        (VALID + b"x", r"too long: a float64 array of shape \(2, 3\) has 48 bytes of data, got 49 or more;"),
        (VALID + VALID, r"too long: a float64 array of shape \(2, 3\) has 48 bytes of data, got \d+ or more"),
        (npy_bytes(np.zeros((0, 3))) + b"x", r"too long: .* has 0 bytes of data, got 1 or more; write"),
        (npy_bytes(np.zeros((3, 0))) + b"x", r"too long: .* has 0 bytes of data, got 1 or more; write"),
    ],
)
def test_refuses_another_amount_of_data(
    opened: Any, reader: Any, content: bytes, message: str, folder: Path
) -> None:
    with opened(folder, content) as name, pytest.raises(FileError, match=message):
        reader(name)


@pytest.mark.parametrize("opened", SOURCES)
def test_refuses_every_beginning_of_a_file(opened: Any, folder: Path) -> None:
    for end in range(len(VALID)):
        with (
            opened(folder, VALID[:end]) as name,
            pytest.raises(
                FileError, match=r"is empty|is not an \.npy|version|truncated|damaged \.npy header"
            ),
        ):
            read(name)


@pytest.mark.parametrize("opened", SOURCES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", ["(1000000, 1000000)", "(1000000000000000000,)", "(2, 1000000000000)"])
def test_allocates_nothing_that_a_header_merely_claims(
    opened: Any, reader: Any, shape: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    with opened(folder, crafted(HEADER % ("'<f8'", shape))) as name:
        tracemalloc.start()
        try:
            with pytest.raises(FileError, match=r"truncated: a float64 array of .* bytes of data, got 8; "):
                reader(name)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 40 * MIB


@pytest.mark.parametrize("size", [0, 50, 130])
@pytest.mark.parametrize("reader", [NpyInput.read, lambda source: list(source.blocks(8))])
def test_refuses_a_file_that_shrinks_after_its_header_was_read(reader: Any, size: int, folder: Path) -> None:
    with as_file(folder, VALID) as name:
        source = NpyInput(name)
        os.truncate(name, size)
        with pytest.raises(FileError, match=r"truncated: a float64 array of shape \(2, 3\) has 48 bytes"):
            reader(source)


@given(st.lists(st.tuples(st.integers(6, 127), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_refused_or_harmless(folder: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(VALID)
    for where, value in changes:
        content[where] = value
    with as_file(folder, bytes(content)) as name:
        try:
            array = read(name)
        except FileError as error:
            assert "\n" not in str(error)
        else:
            assert array.nbytes <= len(content)


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("<&-", "standard input: is closed; pipe an image or .npy bytes into it, or name a file\n"),
        ("</dev/null", "standard input: is empty; expected an .npy array\n"),
    ],
)
def test_refuses_standard_input_without_an_array(redirection: str, message: str) -> None:
    code = "from convmat.files.npy import *\ntry: NpyInput('-')\nexcept FileError as e: print(e)"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code],
        stdout=subprocess.PIPE,
        check=True,
        env=environment(),
        timeout=60,
    )
    assert done.stdout.decode() == message


def test_refuses_a_terminal_as_standard_input() -> None:
    master, slave = os.openpty()
    code = "from convmat.files.npy import *\ntry: NpyInput('-')\nexcept FileError as e: print(e)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=slave,
            stdout=subprocess.PIPE,
            check=True,
            env=environment(),
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.stdout.decode() == (
        "standard input: is a terminal; pipe an image or .npy bytes into it, or name a file\n"
    )


# Writing


def saved(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@given(arrays, st.data())
def test_writes_what_numpy_would(folder: Path, array: NDArray[Any], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(array)), max_size=4)))
    given_order = data.draw(st.sampled_from(["C", "F"]))
    path = folder / "out.npy"
    write_npy(str(path), array.shape, array.dtype, np.split(array.copy(given_order), cuts))
    assert path.read_bytes() == saved(np.ascontiguousarray(array))
    assert_same(np.load(path), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_views_of_either_byte_order_as_the_dtype_that_was_promised(dtype: str, folder: Path) -> None:
    wide = np.arange(24).reshape(4, 6).astype(dtype)
    view = wide[::-2, ::3]
    other = view.astype(view.dtype.newbyteorder())
    path = folder / "out.npy"
    write_npy(str(path), view.shape, view.dtype, [other[:1], view[1:]])
    assert path.read_bytes() == saved(np.ascontiguousarray(view))


@pytest.mark.parametrize("name", ["out.bin", "out", "out.npy.tmp", ".hidden", "[red] x\n.npy"])
def test_writes_that_very_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_npy(name, (3,), np.dtype(int), [np.arange(3)])
    assert os.listdir() == [name]
    assert_same(np.load(name), np.arange(3))


def test_a_large_shape_has_numpys_header_too(folder: Path) -> None:
    shape = (10**9, 0, 10**6)
    path = folder / "out.npy"
    write_npy(str(path), shape, np.dtype(np.uint8), [])
    assert NpyInput(str(path)).shape == shape
    assert math.prod(shape) == 0


def test_work_that_fails_at_once_writes_nothing(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    def blocks() -> Iterator[NDArray[Any]]:
        raise FileError("in.npy", "truncated")
        yield

    with pytest.raises(FileError, match=r"^in.npy: truncated$"):
        write_npy("-", (3,), np.dtype(float), blocks())
    assert capfdbinary.readouterr().out == b""


def test_the_header_goes_ahead_of_all_but_the_first_block(folder: Path) -> None:
    path, headers = folder / "ahead", []
    seen = threading.Event()
    os.mkfifo(path)

    def reader() -> None:
        with open(path, "rb", buffering=0) as stream:
            headers.append(stream.read(1000)[:128])
            seen.set()
            while stream.read(1000):
                pass

    def blocks() -> Iterator[NDArray[Any]]:
        yield np.zeros(2)
        # A step further down the pipe prepares itself while this one computes.
        assert seen.wait(10)
        yield np.zeros(1)

    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    write_npy(str(path), (3,), np.dtype(float), blocks())
    thread.join(10)
    assert headers == [saved(np.zeros(3))[:128]]


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.tiff"])
def test_refuses_the_name_of_a_picture(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"is a picture's name, and this is written as \.npy; name it \.npy$"):
        write_npy(str(tmp_path / name), (3,), np.dtype(float), [np.zeros(3)])
    assert list(tmp_path.iterdir()) == []


def test_refuses_more_than_the_disk_has(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    with pytest.raises(
        FileError, match=r"needs 8000000000000000000 bytes, its disk has \d+ free; name anoth"
    ):
        write_npy(str(path), (10**18,), np.dtype(float), [np.zeros(1)])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.npy", b"old")]


def test_blocks_that_fail_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")

    def blocks() -> Iterator[NDArray[Any]]:
        yield np.arange(3)
        raise FileError("in.npy", "truncated")

    with pytest.raises(FileError, match=r"^in.npy: truncated$"):
        write_npy(str(path), (6,), np.dtype(int), blocks())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.npy", b"old")]
