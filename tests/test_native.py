"""The compiled library, at each level that the processor has: right, safe, the same on any threads."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convmat import native, reference
from tests import native_cases, sanitize
from tests.native_cases import Case, convolve

COMPILED = native.library()
LEVELS = native.LEVELS[: COMPILED.best + 1] if COMPILED else ()
ROOT = Path(__file__).parents[1]
needs_library = pytest.mark.skipif(COMPILED is None, reason=native.status())
needs_compiler = pytest.mark.skipif(not shutil.which(sanitize.compiler()[0]), reason="no C compiler")
LAYER = Case(2, (31, 45), 1, 24, 40, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), "zeros")
DEEP = LAYER._replace(groups=40, channels=1, filters=2)
FEW = LAYER._replace(channels=3, filters=5, stride=(2, 1))


@pytest.fixture(params=LEVELS)
def compiled(request: pytest.FixtureRequest) -> native.Native:
    return native.Native(request.param)


def arrays(case: Case, dtype: Any = "f4", seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, w, bias = (rng.standard_normal(shape) for shape in (case.x_shape, case.w_shape, case.w_shape[:1]))
    return x.astype(dtype), w.astype(dtype), bias.astype(dtype)


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, that may crash."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("seed", range(0, 60, 10))
@pytest.mark.parametrize("check", [native_cases.check_convolve, native_cases.check_unroll])
def test_random_layers(check: Callable[..., None], seed: int, compiled: native.Native) -> None:
    for more in range(10):
        check(compiled, seed + more)


def test_threads_keep_to_their_rows(compiled: native.Native) -> None:
    native_cases.check_race(compiled)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", [LAYER, DEEP, FEW], ids=["wide", "deep", "few"])
def test_rounding_stays_within_the_bound(case: Case, dtype: str, compiled: native.Native) -> None:
    x, w, bias = arrays(case, dtype)
    expected = reference.convolve_by_taps(x, w, *case.where, case.groups, bias)
    size = reference.convolve_by_taps(abs(x), abs(w), *case.where, case.groups, abs(bias))
    terms = int(np.prod(case.w_shape[1:])) + 2
    for kernel in case.kernels(compiled.lanes(x.dtype)):
        y = convolve(compiled, case, x, w, bias, kernel, 2)
        assert np.all(abs(y - expected) <= terms * np.finfo(dtype).eps * size), kernel


@pytest.mark.parametrize("case", [LAYER, DEEP, FEW], ids=["wide", "deep", "few"])
def test_what_is_not_finite_stays_where_the_definition_has_it(case: Case, compiled: native.Native) -> None:
    """In x, in the filters (where zeros of the padding meet infinity), in the bias."""
    rng = np.random.default_rng(3)
    x, w = (native_cases.whole_numbers(rng, shape, "f4") for shape in (case.x_shape, case.w_shape))
    bias = native_cases.whole_numbers(rng, case.w_shape[:1], "f4")
    for value, array in ((np.nan, x), (np.inf, x), (-np.inf, w), (np.nan, w), (np.inf, bias)):
        array = array.reshape(-1)
        array[rng.integers(len(array))] = value
        with np.errstate(invalid="ignore"):
            expected = reference.convolve_by_taps(x, w, *case.where, case.groups, bias)
        for kernel in case.kernels(compiled.lanes(x.dtype)):
            y = convolve(compiled, case, x, w, bias, kernel, 2)
            assert np.array_equal(y, expected, equal_nan=True), (kernel, value)


@pytest.mark.parametrize("case", [LAYER, DEEP, FEW], ids=["wide", "deep", "few"])
def test_the_same_bits_on_any_number_of_threads(case: Case, compiled: native.Native) -> None:
    x, w, bias = arrays(case)
    for kernel in case.kernels(compiled.lanes(x.dtype)):
        one = convolve(compiled, case, x, w, bias, kernel, 1)
        for threads in (2, 5, 1000):
            assert np.array_equal(convolve(compiled, case, x, w, bias, kernel, threads), one)


def test_arrays_with_any_steps(compiled: native.Native) -> None:
    """Pixels with gaps and backwards, filters turned around, y between other things."""
    case = LAYER
    x, w, bias = arrays(case, "f8")
    wide = np.full((2, 31, 90, 30), 7.0)
    seen = wide[:, ::-1, ::2, 3:27]
    seen[...] = x
    out = np.full((2, 62, 45, 50), 9.0)
    y = out[:, 1::2, :, 5:45]
    turned = w[:, ::-1, ::-1]

    def steps(a: np.ndarray, *skip: int) -> tuple[int, ...]:
        return tuple(step // a.itemsize for axis, step in enumerate(a.strides) if axis not in skip)

    sizes = case.sizes(x_steps=steps(seen, 3), w_steps=(0, *steps(turned)), y_steps=steps(y, 3))
    for kernel in ("wide", "planes"):
        out[...] = 9.0
        compiled.convolve(compiled.layer(sizes, x.dtype, kernel, 2), seen, turned, bias, y, 2)
        np.testing.assert_allclose(
            y, reference.convolve_by_taps(x, turned, *case.where, 1, bias), 1e-12, 1e-12
        )
        y[...] = 9.0
        assert (out == 9.0).all()
    x_col = np.empty((2 * 31 * 45, 9 * 24))
    compiled.unroll(sizes, seen, x_col, "hwc", 0, len(x_col), 2)
    assert np.array_equal(x_col, reference.unroll_by_taps(x, case.kernel, *case.where))


def test_an_empty_batch_is_nothing_to_do(compiled: native.Native) -> None:
    case = LAYER._replace(batch=0)
    for kernel in ("wide", "planes"):
        assert convolve(compiled, case, *arrays(case), kernel, 2).shape == case.y_shape
    compiled.unroll(case.sizes(), np.empty(0), np.empty(0), "hwc", 0, 0, 2)
    compiled.fold(case.sizes(), np.empty(0), 0, np.empty(0), "sum", "hwc", 0, 0, 2)


def test_depthwise_takes_at_least_a_register_of_channels(compiled: native.Native) -> None:
    case = DEEP._replace(groups=1)
    with pytest.raises(ValueError, match="does not do this"):
        convolve(compiled, case, *arrays(case), "depthwise", 1)


@pytest.mark.parametrize("value", [0.1, 1e308, -1e308, np.inf, np.nan])
def test_the_mean_of_equal_numbers_is_that_number(value: float, compiled: native.Native) -> None:
    case = Case(1, (9, 9), 1, 1, 1, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), "zeros")
    x = np.empty(case.x_shape)
    compiled.fold(case.sizes(), np.full((81, 9), value), 0, x, "mean", "hwc", 0, 9, 1)
    assert np.array_equal(x, np.full_like(x, value), equal_nan=True)


@pytest.mark.parametrize("source", ["?", "i1", "u1", "i2", "u2", "i4"])
@pytest.mark.parametrize("target", ["f4", "f8"])
def test_integers_are_converted(source: str, target: str, compiled: native.Native) -> None:
    low, high = (0, 2) if source == "?" else (np.iinfo(source).min, np.iinfo(source).max + 1)
    values = np.random.default_rng(1).integers(low, high, 300_000).astype(source)
    found = np.empty(values.shape, target)
    compiled.convert(values, found, 3)
    assert np.array_equal(found, values.astype(target))
    with pytest.raises(ValueError, match="does not do this"):
        compiled.convert(values.astype("u8"), found, 1)


@pytest.mark.parametrize(("dtype", "most"), [("f4", 1 << 24), ("f8", 1 << 53)])
@pytest.mark.parametrize("case", [LAYER, DEEP, FEW], ids=["wide", "deep", "few"])
def test_sums_of_integers_come_out_exactly(
    case: Case, dtype: str, most: int, compiled: native.Native
) -> None:
    """As int64, up to the largest that the float holds."""
    case = case._replace(kernel=(1, 1), pads=((0, 0),) * 2)
    x, w = np.ones(case.x_shape), np.zeros(case.w_shape)
    w[..., 0] = most - 1 - np.arange(len(w))[:, None, None]
    w[::2] *= -1
    for kernel in case.kernels(compiled.lanes(np.dtype(dtype))):
        y = convolve(compiled, case, x.astype(dtype), w.astype(dtype), None, kernel, 2, integers=True)
        assert y.dtype == np.int64
        assert (y == w[:, 0, 0, 0].astype("i8")).all(), kernel


def test_several_callers_at_once(compiled: native.Native) -> None:
    """One has the helpers, the others work alone."""
    work = [(case, arrays(case, seed=seed)) for seed in range(3) for case in (LAYER, FEW)]
    expected = [convolve(compiled, case, *given, "wide", 1) for case, given in work]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            found = pool.map(lambda todo: convolve(compiled, todo[0], *todo[1], "wide", 3), work)
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


FORK = """
import os, threading
from tests.test_native import *
compiled, given = native.Native({level!r}), arrays(LAYER)
one = convolve(compiled, LAYER, *given, "wide", 1)
over = threading.Event()
def busy():
    while not over.is_set():
        convolve(compiled, LAYER, *given, "wide", 2)
other = threading.Thread(target=busy)
other.start()
for _ in range(10):
    child = os.fork()
    if not child:
        same = all(np.array_equal(convolve(compiled, LAYER, *given, "wide", 2), one) for _ in range(3))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(convolve(compiled, LAYER, *given, "wide", 2), one)
over.set()
other.join()
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_fork_in_the_middle(level: str) -> None:
    done = run(FORK.format(level=level))
    assert (done.returncode, done.stderr) == (0, "")


FAIL = """
import ctypes
from tests.test_native import *
compiled = native.Native({level!r})
fail_at = ctypes.c_int.in_dll(compiled._library, "convmat_fail_at")
x_col = np.empty((LAYER.x_shape[0] * 31 * 45, 9 * 24), np.float32)
x, w, bias = arrays(LAYER)
calls = [
    lambda threads: compiled.unroll(LAYER.sizes(), x, x_col, "hwc", 0, len(x_col), threads),
    lambda threads: compiled.fold(LAYER.sizes(), x_col, 0, x.copy(), "sum", "hwc", 0, 62, threads),
    lambda threads: convolve(compiled, LAYER, x, w, bias, "wide", threads),
    lambda threads: convolve(compiled, LAYER, x, w, bias, "planes", threads),
]
for call in calls:  # each needs more than those before, whose memory is kept
    fail_at.value = 1
    try:
        call(1)
        raise SystemExit("no MemoryError")
    except MemoryError as error:
        assert "use fewer threads" in str(error)
    call(1)
for n in range(1, 6):  # the helpers' memory
    fail_at.value = n
    try:
        calls[-1](5)
    except MemoryError:
        pass
fail_at.value = 0
expected = reference.convolve_by_taps(x, w, *LAYER.where, 1, bias)
np.testing.assert_allclose(convolve(compiled, LAYER, x, w, bias, "wide", 5), expected, 1e-3, 1e-3)
"""


@pytest.mark.parametrize("level", LEVELS)
def test_memory_that_is_not_there_is_an_error(level: str) -> None:
    done = run(FAIL.format(level=level))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_nothing_outside_the_arrays_is_touched(level: str) -> None:
    """Pages that nobody may read or write stand right before and behind all of them."""
    command = [
        sys.executable,
        "-m",
        "tests.native_cases",
        "--guard",
        "--cases",
        "60",
        "--seconds",
        "60",
        level,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{level}: 60 layers\n"


@needs_library
def test_status_and_levels(tmp_path: Path) -> None:
    """What is chosen, and why there is none; from the package's folder alone."""
    show = "from convmat import native; print(native.status(), native.library() is None)"
    assert run(show, CONVMAT_LEVEL="").stdout == f"native, {LEVELS[-1]} False\n"
    assert run(show, CONVMAT_LEVEL="baseline").stdout == "native, baseline False\n"
    assert run(show, CONVMAT_NATIVE="0").stdout == "NumPy: CONVMAT_NATIVE=0 True\n"
    home = tmp_path / "convmat" / "native"
    home.mkdir(parents=True)
    (home.parent / "__init__.py").touch()
    (home / "__init__.py").write_bytes((ROOT / "convmat/native/__init__.py").read_bytes())

    def there() -> str:
        return subprocess.check_output([sys.executable, "-c", show], cwd=tmp_path, text=True)

    assert there() == "NumPy: not compiled True\n"
    (home / "built.txt").write_text("no C compiler when installed\n")
    assert there() == "NumPy: no C compiler when installed True\n"
    (home / "_baseline.so").write_bytes(b"\x7fELF, cut short")
    assert there().startswith(f"NumPy: {home / '_baseline.so'}: ")


# Each a mistake, planted in conv.c, that the random layers must find.
MUTATIONS = [
    (
        "Int j = tap % s->kernel[WIDTH] * s->dilation[WIDTH];",
        "Int j = tap % s->kernel[WIDTH];",
    ),  # a wrong tap
    ("source(column + j * s->dilation[WIDTH],", "source(column + j,"),
    ("t->bias && i < lanes ?", "0 ?"),  # no bias
    ("k->bias[f] = t->bias ?", "k->bias[f] = 0 ?"),
    ("k->bias[m * c + l] = t->bias ?", "k->bias[m * c + l] = 0 ?"),
    ("p + pixels <= t.outputs, direct", "p + pixels <= t.outputs + 1, direct"),  # a tile's tail
    ("least(pixels, t.outputs - p)", "least(pixels, t.outputs - p - 1)"),
    ("f = least(f, length - wide * LANES);", ""),
    ("k = least(k, c - LANES);\n        V sum = ", "V sum = "),
    ("p = least(p, n - some);", "p = p;"),
    ("sweep.bias = l ? NULL : k.bias", "sweep.bias = k.bias"),  # sums begun anew
    ("m > last ? period - m : m", "m > last ? period - m - 1 : m"),
    (
        "const char *end = t->x_col + (stop - t->start) * bytes;",
        "const char *end = t->x_col + (t->stop - t->start) * bytes;",
    ),  # a race
    ("for (int i = 0; pool.active; i++)", "for (int i = 0; 0; i++)"),
    ("some = least(some, -q);", ";"),  # fold's borders
    ("found = found < low[i] ?", "found = 0 ?"),
    ("Int low = most(0, -at), high", "Int low = 0, high"),
    ("(int64_t)from[k * from_step + i];", "(int32_t)from[k * from_step + i] + 1;"),  # of integers
    ("madd_epi16((__m128i)a, (__m128i)b)", "madd_epi16((__m128i)a, (__m128i)a)"),  # of pairs
    ("left = most(0, -column);", "left = most(0, -column - 1);"),  # a box's border
    (
        "source(column + q, s->in[WIDTH], s->mode);\n            Int n",
        "source(q, s->in[WIDTH], s->mode);\n            Int n",
    ),
]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The exit status of the random layers on each mistaken library; first on the right one."""

    def verdict(mutation: tuple[str, str]) -> int:
        folder = tmp_path_factory.mktemp("copy")
        sanitize.copy_compiled(folder, ["-O0", "-w"], mutation)
        command = [sys.executable, "-m", "tests.native_cases", "baseline", "--guard", "--cases", "120"]
        env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        return subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(verdict, [("", ""), *MUTATIONS]))


@needs_compiler
@pytest.mark.slow
def test_the_copy_itself_is_right(verdicts: list[int]) -> None:
    assert verdicts[0] == 0


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(MUTATIONS)), ids=lambda n: MUTATIONS[n][1][:40] or MUTATIONS[n][0][:40]
)
def test_a_mistake_in_c_is_found(number: int, verdicts: list[int]) -> None:
    assert verdicts[number + 1] != 0


@pytest.fixture(scope="module")
def hook() -> Any:
    """The build hook's module, without hatchling, which only builds have."""
    name = "hatchling.builders.hooks.plugin.interface"
    stub = types.ModuleType(name)
    stub.BuildHookInterface = object  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "convmat/native/build_hook.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for end in range(1, name.count(".") + 2):
            patch.setitem(sys.modules, ".".join(name.split(".")[:end]), stub)
        spec.loader.exec_module(module)
    return module


def built(hook: Any, root: Path, version: str = "standard") -> tuple[dict[str, Any], list[str]]:
    """What a build of a package with a tiny source adds to the wheel, and says."""
    home = root / "convmat" / "native"
    home.mkdir(parents=True, exist_ok=True)
    (home / "conv.c").write_text("int convmat_level(void) { return 0; }\n")
    said: list[str] = []
    one = hook.NativeBuildHook()
    one.target_name, one.root = "wheel", str(root)
    one.app = types.SimpleNamespace(display_warning=said.append)
    one.add_manual = lambda pages: pages.update({"pages": "share/man/man1"})
    data: dict[str, Any] = {"force_include": {}, "shared_data": {}}
    one.initialize(version, data)
    return data, said


@needs_compiler
def test_a_build_compiles_once_and_tags_the_wheel(
    hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    data, said = built(hook, tmp_path)
    names = [Path(name).name for name in data["force_include"].values()]
    assert {"_baseline.so", "built.txt"} <= set(names)
    assert (data["pure_python"], said) == (False, [])
    assert data["shared_data"] == {"pages": "share/man/man1"}
    assert data["tag"].startswith("py3-none-") and "-" not in data["tag"].removeprefix("py3-none-")
    monkeypatch.setattr(hook, "compile_levels", None)
    assert built(hook, tmp_path)[0] == data  # what pip asks for the second time is there
    built(hook, tmp_path, "editable")
    assert (tmp_path / "convmat/native/_baseline.so").exists()


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"CC": "/bin/false"}, "/bin/false could not compile when installed: it ended with status 1"),
        ({"CC": "/no/cc -m64"}, "no C compiler when installed: /no/cc: No such file or directory"),
        ({"CC": "", "PATH": "/nowhere"}, "no C compiler when installed"),
    ],
)
def test_a_build_without_a_compiler_is_pure_and_says_so(
    env: dict[str, str], reason: str, hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    data, said = built(hook, tmp_path)
    assert said == [f"convmat: {reason}; NumPy will compute"]
    assert "tag" not in data and "pure_python" not in data
    (note,) = data["force_include"]
    assert Path(note).read_text() == f"{reason}\n"
    built(hook, tmp_path, "editable")
    assert not list((tmp_path / "convmat/native").glob("*.so"))
    assert (tmp_path / "convmat/native/built.txt").read_text() == f"{reason}\n"


def test_a_build_writes_manual_pages_or_says_why_not(hook: Any, tmp_path: Path) -> None:
    one, said = hook.NativeBuildHook(), list[str]()
    one.app = types.SimpleNamespace(display_warning=said.append)
    one.root, shared = str(ROOT), dict[str, str]()
    one.add_manual(shared)
    [(folder, target)] = shared.items()
    assert target == "share/man/man1" and not said
    assert Path(folder, "convmat-fold.1").read_text(encoding="utf-8").startswith(".TH CONVMAT-FOLD 1")
    (tmp_path / "convmat").mkdir()
    (tmp_path / "convmat" / "__init__.py").write_text("import no_click\n")
    one.root, shared = str(tmp_path), {}
    one.add_manual(shared)
    assert shared == {}
    assert said == ["convmat: no manual pages: ModuleNotFoundError: No module named 'no_click'"]
