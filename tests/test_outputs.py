"""Outputs that appear whole or not at all, whatever fails and whatever the name stands for."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from convmat.errors import FileError
from convmat.files import outputs
from convmat.files.outputs import open_output, reading, writing
from tests.tools import environment

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def umask() -> Iterator[Any]:
    """Set the umask for one test."""
    old = os.umask(0o022)
    yield os.umask
    os.umask(old)


def put(name: str, *pieces: bytes) -> None:
    with open_output(name) as stream:
        for piece in pieces:
            stream.write(piece)


def mode(name: str) -> int:
    return stat.S_IMODE(os.stat(name).st_mode)


def everything() -> dict[str, bytes | str]:
    """All there is in the folder: files with what they hold, links with where they lead."""
    return {p.name: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in Path().iterdir()}


def python(code: str, redirection: str = "", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run code in a process of its own, with its streams as a shell redirects them."""
    script = f'exec "$0" -c "$1" {redirection}'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, code],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        check=False,
        env=environment(),
        timeout=60,
    )


TO_STDOUT = """
import sys
from convmat.files.outputs import *
try:
    with open_output("-") as stream:
        for _ in range(COUNT):
            stream.write(bytes(1000))
except (FileError, BrokenPipeError) as error:
    print(repr(error), file=sys.stderr)
"""


def to_stdout(count: int = 1000) -> str:
    return TO_STDOUT.replace("COUNT", str(count))


# Whole


@pytest.mark.parametrize("old", [None, b"", b"old content, longer than the new"])
@pytest.mark.parametrize("pieces", [(), (b"",), (b"new",), (b"a" * 100_000, b"b", b"c" * 100_000)])
def test_appears_when_complete_and_not_before(old: bytes | None, pieces: tuple[bytes, ...]) -> None:
    before = {} if old is None else {"out": old}
    if old is not None:
        Path("out").write_bytes(old)
    with open_output("out") as stream:
        for piece in pieces:
            stream.write(piece)
            stream.flush()
            assert {name: content for name, content in everything().items() if name == "out"} == before
    assert everything() == {"out": b"".join(pieces)}


@pytest.mark.parametrize(
    "name", ["out.bin", "-", "--help", "a b", "[red]", "new\nline", "café", "out.npy.npy", "~"]
)
def test_writes_that_very_name(name: str) -> None:
    put(os.path.join(".", name), b"new")
    assert everything() == {name: b"new"}


def test_names_that_are_not_text() -> None:
    name = os.fsdecode(b"\xff\xfe")
    put(name, b"new")
    assert os.listdir(b".") == [b"\xff\xfe"]


@pytest.mark.parametrize("length", [1, 226, 255])
def test_names_as_long_as_they_may_be(length: int) -> None:
    put("n" * length, b"new")
    assert everything() == {"n" * length: b"new"}


def test_a_name_in_another_folder() -> None:
    Path("there").mkdir()
    with open_output("there/../there/out") as stream:
        stream.write(b"new")
        # Beside the target, since a file cannot be renamed from one disk to another.
        assert len(os.listdir("there")) == 1
    assert os.listdir("there") == ["out"]
    assert os.listdir() == ["there"]


def test_is_on_the_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").write_bytes(b"old")
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, Path("out").read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    put("out", b"new content")
    assert synced == [(11, b"old")]


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    """Of files, folders and links, those of processes that are no more, numbered as here."""
    code = """
import os, signal
from convmat.files.folders import new_folder
from convmat.files.outputs import open_output
with new_folder("folder") as folder, open_output(f"{folder}/file"), open_output("out") as stream:
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(code).returncode in (-9, 137)
    left = sorted(os.listdir())
    assert [name[:9] for name in left] == [".convmat-"] * 2
    others = [re.sub(r"-\d+-", f"-{os.getppid()}-", left[0]), re.sub(r"t-[^-]+", "t-01234567", left[0])]
    others += [left[0].replace(".tmp", ".old"), left[0] + "~"]
    for name in others:
        Path(name).write_bytes(b"another's")
    outputs._sweep.cache_clear()
    put("out", b"new")
    assert sorted(os.listdir()) == sorted([*others, "out"])


def test_two_writers_of_one_name_do_not_mix() -> None:
    with open_output("out") as first, open_output("out") as second:
        for _ in range(1000):
            first.write(b"1" * 100)
            second.write(b"2" * 100)
    # The outer block ends last.
    assert everything() == {"out": b"1" * 100_000}


# Or not at all


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("written", [0, 1, 1 << 20])
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), MemoryError("no"), KeyboardInterrupt("no"), SystemExit("no"), FileError("in", "no")],
)
def test_a_failure_inside_changes_nothing(error: BaseException, written: int, old: bytes | None) -> None:
    if old is not None:
        Path("out").write_bytes(old)
    before = everything()
    with pytest.raises(type(error), match=r"no$"), open_output("out") as stream:
        stream.write(bytes(written))
        raise error
    assert everything() == before


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("call", ["fsync", "fchmod", "replace"])
def test_a_failure_of_the_system_changes_nothing(
    call: str, old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old is not None:
        Path("out").write_bytes(old)
    before = everything()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "fchmod" and old is None:
            put("out", b"new")  # there is no mode to keep
            before = {"out": b"new"}
        else:
            with pytest.raises(FileError, match=r"^out: cannot be written: No space left on device$"):
                put("out", b"new")
    assert everything() == before


def test_a_full_disk_changes_nothing() -> None:
    Path("out").write_bytes(b"old")
    code = """
import resource, signal
from convmat.files.outputs import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in range(0, 40_000, 4_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with open_output("out") as stream:
            for _ in range(50):
                stream.write(bytes(1000))
    except FileError as error:
        assert str(error) == "out: cannot be written: File too large", error
    else:
        assert False, limit
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, b"")
    assert everything() == {"out": b"old"}


def test_an_error_has_the_systems_as_its_cause() -> None:
    with pytest.raises(FileError, match=r"^none/out: cannot be written: No such file") as caught:
        put("none/out", b"new")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out", "^missing/out: cannot be written: No such file or directory$"),
        ("file/out", "^file/out: cannot be written: Not a directory$"),
        ("folder", "^folder: is a folder; name a file$"),
        ("folder/", "^folder/: is a folder; name a file$"),
        ("to folder", "^to folder: is a folder; name a file$"),
        (".", r"^\.: is a folder; name a file$"),
        ("/", "^/: is a folder; name a file$"),
        ("n" * 256, "^n+: cannot be written: File name too long$"),
        ("new/", "^new/: "),  # writes "new"
        ("endless", "^endless: cannot be written: "),  # destroys the link
    ],
)
def test_refuses_what_cannot_be_a_file(name: str, message: str) -> None:
    Path("file").write_bytes(b"old")
    Path("folder").mkdir()
    Path("to folder").symlink_to("folder")
    Path("endless").symlink_to("endless")
    before = sorted(os.listdir())
    with pytest.raises(FileError, match=message):
        put(name, b"new")
    assert sorted(os.listdir()) == before
    assert os.listdir("folder") == []
    assert Path("file").read_bytes() == b"old"


def test_refuses_a_write_protected_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").write_bytes(b"old")
    # Root may write anything, so the system is not asked.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FileError, match=r"^out: is write-protected; name another file$"):
        put("out", b"new")
    assert everything() == {"out": b"old"}


# Modes and links


@pytest.mark.parametrize(("mask", "wanted"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
def test_a_new_file_obeys_the_umask(mask: int, wanted: int, umask: Any) -> None:
    umask(mask)
    put("out", b"new")
    assert mode("out") == wanted


@pytest.mark.parametrize("wanted", [0o600, 0o640, 0o666, 0o755])
def test_an_old_file_keeps_its_mode(wanted: int) -> None:
    Path("out").touch()
    os.chmod("out", wanted)
    put("out", b"new")
    assert mode("out") == wanted
    assert everything() == {"out": b"new"}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("links", [1, 3])
def test_what_a_link_leads_to_is_replaced(links: int, old: bytes | None) -> None:
    folder = Path("there")
    folder.mkdir()
    if old is not None:
        (folder / "target").write_bytes(old)
        os.chmod(folder / "target", 0o604)
    names = ["link", *(f"link{i}" for i in range(1, links))]
    for name, target in zip(names, [*names[1:], "there/target"], strict=True):
        os.symlink(target, name)
    put("link", b"new")
    assert [os.readlink(name) for name in names] == [*names[1:], "there/target"]
    assert (folder / "target").read_bytes() == b"new"
    assert os.listdir(folder) == ["target"]
    if old is not None:
        assert mode("there/target") == 0o604


def test_a_failure_behind_a_link_changes_nothing() -> None:
    Path("target").write_bytes(b"old")
    Path("link").symlink_to("target")
    with pytest.raises(ValueError, match=r"^no$"), open_output("link") as stream:
        stream.write(b"new")
        raise ValueError("no")
    assert everything() == {"target": b"old", "link": "target"}


# Pipes, devices and terminals


class Reader(threading.Thread):
    """Reads a named pipe in the background: all of it, or no more than `limit` bytes."""

    def __init__(self, name: str, limit: int = -1) -> None:
        super().__init__()
        os.mkfifo(name)
        self.name_, self.limit, self.data = name, limit, b""
        self.start()

    def run(self) -> None:
        with open(self.name_, "rb") as stream:
            self.data = stream.read(self.limit)


def test_a_named_pipe_is_written_directly() -> None:
    reader = Reader("pipe")
    with open_output("pipe") as stream:
        assert os.listdir() == ["pipe"]
        stream.write(b"a" * 200_000)
        stream.write(b"b")
    reader.join()
    assert reader.data == b"a" * 200_000 + b"b"
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_reader_that_leaves_is_told_as_itself() -> None:
    reader = Reader("pipe", limit=10)
    with pytest.raises(BrokenPipeError, match="Broken pipe"), open_output("pipe") as stream:
        for _ in range(100):
            stream.write(bytes(100_000))
    reader.join()
    assert reader.data == bytes(10)
    assert os.listdir() == ["pipe"]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
def test_a_device_is_written_directly(device: str) -> None:
    if not os.path.exists(device):
        pytest.skip(f"this system has no {device}")
    if device == "/dev/null":
        put(device, b"new")
    else:
        with pytest.raises(FileError, match=r"^/dev/full: cannot be written: No space left on device$"):
            put(device, b"new")
    assert stat.S_ISCHR(os.stat(device).st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_the_shells_names_of_pipes(name: str) -> None:
    code = f"from convmat.files.outputs import *\nwith open_output({name!r}) as stream: stream.write(b'new')"
    done = python(code)
    assert (done.stdout, done.stderr) == (b"new", b"")


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("numbers", ["/dev/fd", "/proc/self/fd"])
def test_what_is_open_already_is_written_where_it_is(numbers: str, link: bool) -> None:
    """A file that is gone from its folder; and one that is, which goes on after what it has."""
    for gone in (True, False):
        with open("open", "w+b") as stream:
            stream.write(b"old ")
            stream.flush()
            if gone:
                os.unlink("open")
            name = f"{numbers}/{stream.fileno()}"
            if link:
                os.symlink(name, "link")
            put("link" if link else name, b"new")
            stream.seek(0)
            assert stream.read() == b"old new"
        if link:
            os.unlink("link")
    assert everything() == {"open": b"old new"}
    with pytest.raises(FileError, match=r"^/dev/fd/999: cannot be written: Bad file descriptor$"):
        put("/dev/fd/999", b"new")


def test_standard_output_of_a_real_process() -> None:
    done = python(to_stdout())
    assert (done.returncode, done.stdout, done.stderr) == (0, bytes(1_000_000), b"")


def test_standard_output_to_a_file_that_is_appended_to() -> None:
    Path("out").write_bytes(b"old")
    done = python(to_stdout(), ">> out")
    assert (done.returncode, done.stderr) == (0, b"")
    assert everything() == {"out": b"old" + bytes(1_000_000)}


@pytest.mark.parametrize(
    ("redirection", "error"),
    [
        (">&-", "FileError('standard output', 'is closed; name a file with -o')"),
        ("> /dev/full", "FileError('standard output', 'cannot be written: No space left on device')"),
        ("| head -c 10", "BrokenPipeError(32, 'Broken pipe')"),
    ],
)
@pytest.mark.parametrize("count", [1, 1000])
def test_standard_output_that_takes_nothing(redirection: str, error: str, count: int) -> None:
    if count == 1 and "head" in redirection:
        return  # it fits in the pipe
    if "full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    done = python(to_stdout(count), redirection)
    assert done.stderr.decode().splitlines()[0] == error


def test_refuses_a_terminal_as_standard_output() -> None:
    master, slave = os.openpty()
    try:
        done = python(to_stdout(), stdout=slave)
        os.set_blocking(master, False)
        shown = b""
        with suppress(BlockingIOError):
            shown = os.read(master, 100)
    finally:
        os.close(slave)
        os.close(master)
    assert shown == b""
    assert "standard output', 'is a terminal; send .npy bytes to a pipe, or name" in done.stderr.decode()


def test_refuses_a_terminal_by_name() -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(FileError, match="is a terminal"):
            put(os.ttyname(slave), b"new")
    finally:
        os.close(slave)
        os.close(master)


# Errors of the system


@pytest.mark.parametrize(("context", "done"), [(reading, "read"), (writing, "written")])
def test_errors_of_the_system_are_told_with_the_name(context: Any, done: str) -> None:
    with (
        pytest.raises(FileError, match=rf"^a b: cannot be {done}: Input/output error$") as caught,
        context("a b"),
    ):
        raise OSError(5, "Input/output error", "another name")
    assert caught.value.filename == "a b"
    with pytest.raises(FileError, match=rf"^a: cannot be {done}: no number$"), context("a"):
        raise OSError("no number")
    with pytest.raises(FileError, match=r"^b: told already$"), context("a"):
        raise FileError("b", "told already")
    with pytest.raises(ValueError, match=r"^not the system's$"), context("a"):
        raise ValueError("not the system's")


def test_a_closed_pipe_is_no_error_of_a_file() -> None:
    with pytest.raises(BrokenPipeError, match=r"^gone$"), writing("a"):
        raise BrokenPipeError("gone")
