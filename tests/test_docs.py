"""The pages: their transcripts are run and compared to the letter, their examples, links and prose checked.

`python -m tests.docs` writes transcripts, options and the import graph anew.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from graphlib import CycleError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

import convmat as cm
from convmat.cli import manual
from convmat.cli.manual import contexts
from tests import docs
from tests.benchmarks import __main__ as benchmarks
from tests.docs import MARKED, PAGES, README, ROOT, TRANSCRIPT, fill, generated, rerun
from tests.test_structure import MODULES, part_of

DOCS = ROOT / "docs"
COMMANDS = [ctx for ctx in contexts() if ctx.parent and not isinstance(ctx.command, click.Group)]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
EXAMPLES = [
    source for text in TEXTS.values() for source in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]
every_page = pytest.mark.parametrize("page", TEXTS)


# Transcripts, examples, pictures


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page == "README.md" else pytest.mark.slow)
        for page, text in TEXTS.items()
        if TRANSCRIPT.search(text)
    ],
)
def test_transcripts_are_true(page: str) -> None:
    if ".zarr" in TEXTS[page]:
        pytest.importorskip("dask")
    assert rerun(TEXTS[page]) == TEXTS[page]


@pytest.mark.parametrize(
    "source",
    [source for source in EXAMPLES if "def test_" not in source],
)
def test_python_examples_run(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What an example prints is what its comments say."""
    if "dask" in source:
        pytest.importorskip("dask")
    exec(compile(source, "example", "exec"), {})
    said = re.findall(r"^print\(.*?\)\s+# (.*?)(?:: X_col.*|: and that.*)?$", source, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in said]


@pytest.mark.parametrize("source", [source for source in EXAMPLES if "def test_" in source])
def test_examples_of_tests_pass_and_fail(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a right kernel, and with one whose filter is flipped; those of torch where that is."""
    compile(source, "example", "exec")
    torch: Any = pytest.importorskip("torch") if "import torch" in source else None

    def conv2d(x: Any, w: Any, padding: int) -> Any:
        w = w.flip(2) if torch and flipped else w[:, :, ::-1] if flipped else w
        if torch:
            return torch.nn.functional.conv2d(x, w, padding=padding)
        return np.moveaxis(cm.convolve(np.moveaxis(x, 1, -1), np.moveaxis(w, 1, -1), 1, padding), -1, 1)

    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(conv2d=conv2d))
    flipped, names = False, {}
    exec(compile(source.replace("cuda", "cpu"), "example", "exec"), names)
    names["test_conv2d"]()
    flipped = True
    with pytest.raises(AssertionError, match=r"(?s)different: .*worst element .*the filter flipped up-down$"):
        names["test_conv2d"]()


@pytest.mark.slow
def test_pictures_are_those_that_the_commands_draw(tmp_path: Path) -> None:
    kept = DOCS / "pictures"
    spec = importlib.util.spec_from_file_location("draw_docs", kept / "draw.py")
    assert spec and spec.loader
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.main(tmp_path)
    drawn = sorted((tmp_path / "docs" / "pictures").iterdir())
    shown = {
        name
        for text in TEXTS.values()
        for name in re.findall(r"!\[[^]]+\]\([\w./]*pictures/(\w+\.\w+)\)", text)
    }
    assert shown == {
        *(path.name for path in drawn),
        "divergence_adam.png",
    }  # which train draws, from its digits
    assert shown == {path.name for path in kept.iterdir() if path.suffix != ".py"}
    assert len(drawn) >= 6
    assert sum((kept / name).stat().st_size for name in shown) < 400_000
    embedded = re.compile(r"base64,[^\"]*")  # as it is packed by one version of zlib or another
    for path in drawn:
        if path.suffix == ".svg":
            new_text, old_text = (p.read_text(encoding="utf-8") for p in (path, kept / path.name))
            assert embedded.sub("", new_text) == embedded.sub("", old_text)
            continue
        with Image.open(path) as new, Image.open(kept / path.name) as old:
            assert new.size == old.size
            assert getattr(new, "n_frames", 1) == getattr(old, "n_frames", 1)
            for frame in range(getattr(new, "n_frames", 1)):
                new.seek(frame)
                old.seek(frame)
                pair = [np.asarray(picture.convert("RGB"), int) for picture in (new, old)]
                # Versions of FreeType shade the edges of letters, and palettes, each in their own way.
                assert (np.abs(pair[0] - pair[1]).max(-1) > 48).mean() < 5e-5


# Between marks


@every_page
def test_generated_parts_are_current(page: str) -> None:
    assert generated(TEXTS[page]) == TEXTS[page]


def test_stale_options_would_be_found() -> None:
    """And written anew between the marks, and nowhere else."""
    stale = fill(TEXTS["docs/commands/fold.md"], "options of convmat fold", "none\n")
    assert "--overlap [sum" not in stale
    assert generated(stale) == TEXTS["docs/commands/fold.md"]
    with pytest.raises(ValueError, match="no <!-- options --> … <!-- end --> on the page"):
        fill(stale, "options", "")


def test_parts_that_import_each_other_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.test_structure.imports", lambda module: {"convmat.cli.options", "convmat.files.npy"}
    )
    with pytest.raises(CycleError):
        docs.import_graph()


def test_benchmarks_write_the_page_as_it_is() -> None:
    """The table of `convolve`, read from the page, is written as it stands there; means of the others."""
    text = TEXTS["docs/performance.md"]
    [written] = [found[0] for found in MARKED.finditer(text) if found[2] == "measured"]
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in written.splitlines() if line.startswith("|")
    ]
    peers = cells[0][2:]
    assert peers == ["torch", "onnxruntime", "openvino"]
    by_name = {str(layer): layer for layer in benchmarks.TABLES["convolve"].layers}
    measured = {name: [] for name in benchmarks.TABLES}
    for line in cells[2 : cells.index(next(c for c in cells if c[0] == "geometric mean"))]:
        ratios = {peer: float(ratio) for peer, ratio in zip(peers, line[2:], strict=True) if ratio}
        measured["convolve"].append(benchmarks.Row(by_name.pop(line[0]), float(line[1]) / 1e3, ratios))
    assert not by_name
    told = next(line for line in written.splitlines() if line.startswith("`python"))
    table = written.split("| | beside")[0].split("-->\n", 1)[1]
    assert benchmarks.page(measured, told).split("| | beside")[0] == table
    two = [
        benchmarks.Row(layer, 1.0, {"torch": ratio})
        for layer, ratio in zip(benchmarks.layers.TINY, (2.0, 0.5), strict=False)
    ]
    said = benchmarks.page({**measured, "tiny": two}, told)
    assert f"| tiny calls | torch | 2 | 1.00 | 0.50, {two[1].layer} |" in said
    assert "| float64 |" not in said
    assert all(
        f"| {table.title} | {table.peers[0]} |" in written for table in [*benchmarks.TABLES.values()][1:]
    )


def test_benchmarks_write_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text = tmp_path / "performance.md", TEXTS["docs/performance.md"]
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(benchmarks, "measure_peak", lambda threads: benchmarks.Peak(1.0, 1.0))
    monkeypatch.setattr(
        benchmarks,
        "compare",
        lambda table, peak, options: [benchmarks.Row(table.layers[0], 0.5, {"numpy": 2.0})],
    )
    asked = ["benchmarks", "--rounds", "1", "--threads", "1", "--write", str(page), "--only"]
    monkeypatch.setattr(sys, "argv", [*asked, *benchmarks.TABLES])
    benchmarks.main()
    written = page.read_text(encoding="utf-8")
    assert f"| {benchmarks.layers.FIRST[0]} | 500 |" in written
    assert "`python -m tests.benchmarks --rounds 1 --seconds 0.05 --threads 1` on" in written
    assert MARKED.sub("", written) == MARKED.sub("", text)
    monkeypatch.setattr(sys, "argv", [*asked, "fold"])
    with pytest.raises(SystemExit):
        benchmarks.main()


# Every command


def test_every_command_is_in_the_table_and_has_a_page() -> None:
    """With its options and a transcript; every page of a command is reached from the front."""
    for ctx in COMMANDS:
        [page] = [name for name, text in TEXTS.items() if f"<!-- options of {ctx.command_path} -->" in text]
        assert page.startswith("docs/commands/")
        assert re.search(rf"^\$ .*{ctx.command_path}\b", TEXTS[page], re.MULTILINE), ctx.command_path
    linked = set(re.findall(r"\]\((docs/commands/[\w-]+\.md)\)", TEXTS["README.md"]))
    assert linked == {name for name in TEXTS if name.startswith("docs/commands/")}


def test_front_page_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 135


def test_contributing_names_what_is_there() -> None:
    """The map has every part of the package, and each file that is named exists."""
    text = TEXTS["CONTRIBUTING.md"]
    rooms = re.findall(r"^(\w+) +\S", text.split("```text\n")[1].split("```")[0], re.MULTILINE)
    assert sorted(rooms) == sorted({part_of(module) for module in MODULES} - {"__init__", "__main__"})
    files = re.findall(r"`((?:convmat|tests|docs)/[\w/.]*\.\w+)`", text)
    assert len(files) > 10
    assert [name for name in files if not ("NAME" in name or (ROOT / name).exists())] == []
    steps = re.findall(r"`([\w/]+\.(?:py|c)):(\w+)`", text)
    assert len(steps) > 20
    defined = r"^(?:def |class |int )?{}\b"
    sources = {file: (ROOT / "convmat" / file).read_text(encoding="utf-8") for file, _ in steps}
    assert [step for step in steps if not re.search(defined.format(step[1]), sources[step[0]], re.M)] == []


def test_manual_pages(tmp_path: Path) -> None:
    """One for the program and for each command, written by a process as the wheel's build starts it."""
    subprocess.run([sys.executable, "-m", "convmat.cli.manual", tmp_path], cwd=ROOT, check=True)
    names = {ctx.command_path.replace(" ", "-") for ctx in contexts()}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.1" for name in names}
    for ctx in COMMANDS:
        page = (tmp_path / f"{ctx.command_path.replace(' ', '-')}.1").read_text(encoding="utf-8")
        sections = re.findall(r"^\.SH (.*)$", page, re.MULTILINE)
        assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
        terms = re.findall(r"^\.TP\n\.B (.*)$", page, re.MULTILINE)
        for param in ctx.command.get_params(ctx):
            if isinstance(param, click.Option):
                assert any(manual.roff(param.opts[-1]) in term for term in terms), param
        assert "\b" not in page
        assert ".nf\nExample:\n  convmat " in page.replace("\\-", "-")
    assert manual.roff(".x \\y --z") == r"\&.x \ey \-\-z"


# Prose


def prose(text: str) -> str:
    """A page without its blocks of code, whose lines stay empty, and what is written between marks."""
    text = MARKED.sub("", text)
    return re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)


def debris(text: str) -> list[str]:
    """What is left over from editing: comments' ends, marks without their other half, words said twice."""
    left = ["a fence that is not closed"] if len(re.findall("^```", text, re.MULTILINE)) % 2 else []
    for paragraph in re.split(r"\n\s*\n", prose(text)):
        said = re.sub(r"`[^`]*`", "code", paragraph)
        left += [f"{mark!r} in {said!r}" for mark in ("-->", "<!--", "<<<<", ">>>>", "TODO") if mark in said]
        left += [f"an odd {mark} in {said!r}" for mark in ("`", '"', "**") if said.count(mark) % 2]
        left += [f"{a}{b} in {said!r}" for a, b in ("()", "[]", "{}") if said.count(a) != said.count(b)]
        words = "" if said.lstrip().startswith("|") else said
        left += re.findall(r"\b([^\W\d]+)\s+\1\b", words, re.IGNORECASE)
    return left


def anchors(text: str) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def dead_links(text: str, page: str = "README.md") -> list[str]:
    """Links to files, pictures and headings that are not there."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve()
        if re.match(r"https?://", target):
            continue
        there = not file or path.exists()
        if there and anchor:
            there = anchor in anchors(path.read_text(encoding="utf-8") if file else text)
        if not there:
            dead.append(target)
    return dead


def strange_options(text: str) -> set[str]:
    """Options named in prose that no help has; those of other programs, in code, are theirs."""
    said = re.sub(r"`(?:python|pip|cc|cat)\b[^`]*`", "", prose(text))
    known = {
        o for ctx in contexts() for p in ctx.command.get_params(ctx) for o in (*p.opts, *p.secondary_opts)
    }
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)) - known


@every_page
def test_prose_has_no_debris(page: str) -> None:
    assert debris(TEXTS[page]) == []
    assert dead_links(TEXTS[page], page) == []
    assert strange_options(TEXTS[page]) == set()


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        ('Alone it checks itself …") -->', debris),
        ("It is is so.", debris),
        ("One `tick too many.", debris),
        ("It says (so.", debris),
        ("It says so].", debris),
        ('A "quote.', debris),
        ("**Bold.", debris),
        ("```console", debris),
        ("<!-- options of convmat fold -->", debris),
        ("[a page](docs/none.md)", dead_links),
        ("![a picture](docs/none.png)", dead_links),
        ("[a heading](#none)", dead_links),
        ("[a heading](docs/reference.md#none)", dead_links),
        ("Give `--kernel-height`.", strange_options),
    ],
)
def test_debris_would_be_found(planted: str, check: Callable[[str], object]) -> None:
    text = TEXTS["README.md"]
    assert check(f"{text}\n{planted}\n")
    links = "[commands](#commands), [a folder](docs), [files](docs/reference.md#files)"
    assert not check(f'{text}\n{links}, `--kernel`, (so) "it" is\n')


def test_ci_runs_the_test_command() -> None:
    """.ci/run takes the command out of the front page; here, that it can, and that there is only one."""
    [command] = re.findall(
        r"^python3 -m venv .*pytest -n auto --dist loadfile$", TEXTS["README.md"], re.MULTILINE
    )
    assert README.name in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".[test]" in command
