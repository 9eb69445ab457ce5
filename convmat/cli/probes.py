"""`convmat verify` without INPUT: the self-check, and probes, written and judged."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convmat.cli import options
from convmat.files.schema import SEED, Anything, Fields, Items, Kind, OneOf, Rows, Text, Then, Whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convmat.geometry import ConvGeometry
    from convmat.verification import Report
    from convmat.verification.diagnosis import Findings
    from convmat.verification.probes import Inputs, Probe
    from convmat.watching import Watch

_MANIFEST = "probe.json"
_FORMATS = ("npy", "c", "hex")


class Formats(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Formats of a probe, joined by commas."""

    name = "formats"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "npy|c|hex[,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        formats = tuple(value.lower().split(","))
        for wanted in formats:
            if wanted not in _FORMATS:
                self.fail(f"{wanted!r} is none of {', '.join(_FORMATS)}", param, ctx)
        return formats


probe_options = options.together(
    click.option(
        "--write-probe",
        metavar="DIR",
        type=options.OutputName("folder"),
        help="Make this folder: inputs and kernels whose sums are exact in any order, and what they give.",
    ),
    click.option(
        "--filters",
        type=options.NumberType(),
        help="Of the probe.  [default: 4, or to fit the groups]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float64", "float16", "int8", "uint8", "int16"], case_sensitive=False),
        default="float32",
        show_default=True,
        help="Of the probe's inputs and kernels; of integers the results are int32.",
    ),
    click.option(
        "--format",
        "formats",
        type=Formats(),
        default="npy",
        show_default=True,
        help="Of the probe, besides .npy: c, a header; hex, for $readmemh.",
    ),
    click.option(
        "--probe",
        metavar="DIR",
        type=options.File("dir"),
        help="Judge --expected against this probe: it must be equal.",
    ),
    click.option(
        "--case",
        metavar="NAME",
        help="The case that --expected is of.  [default: what it can be; all of a folder, or of a stack]",
    ),
    click.option(
        "--seed",
        type=options.NumberType(SEED),
        default=2017,
        show_default=True,
        help="Of the random numbers of the self-check, or of --write-probe.",
    ),
    click.option(
        "--cases",
        type=options.NumberType(Whole(0, 1_000_000)),
        default=0,
        help="Random geometries to add to the self-check, to soak it.",
    ),
)
"""Those of `verify` that are not about an INPUT."""

WITHOUT_INPUT = ("write_probe", "filters", "dtype", "formats", "probe", "case", "seed", "cases")
_SHOWN = ("as_json", "brief", "quiet")
_GEOMETRY = ("stride", "padding", "padding_mode", "dilation", "groups", "depthwise", "flip", "dims")
_LAID_OUT = ("layout", "kernel_layout", "order")
_PROBED = ("write_probe", "kernel_size", "input_shape", "filters", "dtype", "formats", "seed")
_WRITES = (*_GEOMETRY, *_LAID_OUT, *_PROBED)


def without_input(ctx: click.Context, needs_input: bool) -> int | None:
    """Do what `verify` is asked to do without an INPUT; the exit status, or None where there is one, or where
    the stage to be judged needs none.
    """
    given = ctx.params
    if given["inputs"] or not (needs_input or given["write_probe"] or given["probe"]):
        _refuse(ctx, [name for name in given if name not in WITHOUT_INPUT], "goes without INPUT")
        return None
    if given["write_probe"] is not None:
        _refuse(ctx, _WRITES, "does not go with --write-probe")
        return write_probe(**{name: given[name] for name in (*_WRITES, *_SHOWN) if name in given})
    if given["probe"] is not None:
        _refuse(
            ctx,
            ("probe", "case", "expected", "stage", "diagnose"),
            "does not go with --probe, which has its own layer",
        )
        return judge_probe(
            given["probe"],
            given["expected"],
            given["case"],
            given.get("stage") or "convolve",
            given["as_json"],
            given["quiet"],
            given["diagnose"],
        )
    _refuse(ctx, ("seed", "cases"), "")
    return check_itself(given["seed"], given["cases"], given["as_json"], given["quiet"])


def _refuse(ctx: click.Context, allowed: Any, why: str) -> None:
    """Refuse options that the command line sets and that mean nothing here."""
    for name, option in options.given_options(ctx).items():
        if name in allowed or name in _SHOWN:
            continue
        if not why:
            need = {"case": "--probe", "kernel_size": "--write-probe"}.get(name)
            why = (
                f"Missing option '{need}'"
                if need
                else f"Missing argument 'INPUT'; name the image or array {option} is for"
            )
            raise click.UsageError(why)
        raise click.UsageError(f"{option} {why}")


def check_itself(seed: int, cases: int, as_json: bool, quiet: bool) -> int:
    """Check convmat itself, and tell; the exit status."""
    from convmat.cli.output import progress, report
    from convmat.report.checks import checks_facts, checks_grids
    from convmat.verification.selfcheck import self_check

    checks = list(
        self_check(
            seed,
            cases,
            watch=lambda groups, total: progress(groups, total, quiet, unit="group", size=lambda _: 1),
        )
    )
    report(checks_facts(checks, seed), checks_grids(checks), as_json=as_json, quiet=quiet, facts_last=True)
    return 0 if all(checks) else 1


def write_probe(
    write_probe: str,
    kernel_size: Any,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    dtype: str,
    formats: tuple[str, ...],
    seed: int,
    layout: str,
    kernel_layout: str,
    as_json: bool,
    quiet: bool,
    order: str = "hwc",
    **layer: Any,
) -> int:
    """Write a probe, its folder whole or not at all; the exit status."""
    import numpy as np

    from convmat.cli.output import report, watching
    from convmat.files.folders import check_new_folder, new_folder
    from convmat.files.npy import write_npy
    from convmat.files.outputs import open_output
    from convmat.files.sources import c_header, hex_lines
    from convmat.layouts import output_layout
    from convmat.report.checks import probe_facts, probe_grid
    from convmat.shown import Fact
    from convmat.verification.probes import CASES, Probe

    check_new_folder(write_probe)
    geometry, filters = _geometry(kernel_size, input_shape, filters, layout, **layer)
    layout = output_layout(layout)
    probe = Probe(geometry, filters, np.dtype(dtype), layer["flip"], layer["padding_mode"], order)
    cases = {
        name: {
            key: _laid_out(key, array, layout, kernel_layout)
            for key, array in (inputs._asdict() | probe.results(inputs)).items()
        }
        for name, inputs in watching(quiet, "case")(probe.inputs(seed), len(CASES))
    }
    manifest = _manifest(probe, layout, kernel_layout, seed, cases, CASES)

    def write(name: str, lines: Any) -> None:
        with open_output(name) as stream:
            for line in lines:
                stream.write(f"{line}\n".encode())

    with new_folder(write_probe) as folder:
        for name, arrays in cases.items():
            os.mkdir(os.path.join(folder, name))
            for key, array in arrays.items():
                path = os.path.join(folder, name, key)
                write_npy(f"{path}.npy", array.shape, array.dtype, [array])
                if "hex" in formats:
                    write(f"{path}.hex", hex_lines(f"{name}/{key}", array))
        if "c" in formats:
            flat = {
                f"{name.replace('-', '_')}_{key}": array
                for name, arrays in cases.items()
                for key, array in arrays.items()
            }
            write(os.path.join(folder, "probe.h"), c_header("PROBE_H_", _macros(probe), flat))
        write(os.path.join(folder, _MANIFEST), [json.dumps(manifest, indent=1)])
    report(
        [
            *probe_facts(probe, write_probe, layout, kernel_layout, formats, seed),
            Fact("cases", "", manifest["cases"], ""),
        ],
        [probe_grid(manifest["cases"], probe)],
        as_json=as_json,
        quiet=quiet,
    )
    return 0


def _geometry(
    kernel_size: Any,
    input_shape: tuple[int, ...] | None,
    filters: int | None,
    layout: str,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    depthwise: bool,
    dims: int | None,
    **_: Any,
) -> tuple[ConvGeometry, int]:
    """The geometry and the number of filters that the options of a probe mean."""
    from convmat.checks import got, whole
    from convmat.cli.inputs import shape_batch
    from convmat.geometry import ConvGeometry
    from convmat.verification.probes import MOST_ELEMENTS

    groups = whole("groups", groups, 1, MOST_ELEMENTS)
    if kernel_size is None:
        raise click.UsageError("Missing option '--k'; give the size of the probe's kernels: 3 or 3,5")
    axes = options.axes_of(dims, kernel_size, stride, dilation)
    if input_shape is None:
        channels = 3 if groups == 1 else 2 * groups
        # Under `full` every kernel fits, so only what is wrong for any input is refused.
        asked = ConvGeometry((1,) * (axes + 2), kernel_size, stride, "full", dilation)
        # Room for a few patches, and no two axes of one size: a transposed image must show.
        size = [
            max(8, extent + 2 * s) + 2 * axis
            for axis, (extent, s) in enumerate(zip(asked.extent, asked.stride, strict=True))
        ]
        shape = (1, *size, channels)
    else:
        shape = shape_batch(input_shape, axes, layout).shape
    if depthwise:
        if groups not in (1, shape[-1]):
            raise click.UsageError(
                f"--depthwise means {shape[-1]} groups here, got {got(groups)}; leave it out"
            )
        groups = shape[-1]
    geometry = ConvGeometry(shape, kernel_size, stride, options.pads_of(padding, axes), dilation, groups)
    if filters is None:
        filters = groups * -(-4 // groups)
    if filters % groups:
        raise click.UsageError(
            f"--filters {got(filters)} cannot be shared by {groups} groups; give a multiple"
        )
    return geometry, filters


_ON_OUTPUTS = ("x", "accumulators", "y")  # the arrays that are images


def _laid_out(key: str, array: NDArray[Any], layout: str, kernel_layout: str) -> NDArray[Any]:
    """An array of a probe in the layout of its file."""
    import numpy as np

    from convmat.layouts import from_batch

    if key in _ON_OUTPUTS:
        array = from_batch(array, layout)
    elif key == "kernel" and kernel_layout != "ohwi":
        array = np.moveaxis(array, -1, 1) if kernel_layout == "oihw" else np.moveaxis(array, 0, -1)
    return np.ascontiguousarray(array)


def _manifest(
    probe: Probe, layout: str, kernel_layout: str, seed: int, cases: Any, about: dict[str, str]
) -> dict[str, Any]:
    """What probe.json says: sizes are of channels last, whatever the layout of the files."""
    import numpy as np

    geometry = probe.geometry
    return {
        "convmat_probe": 1,
        "input_shape": list(geometry.input_shape),
        "kernel_size": list(geometry.kernel_size),
        "filters": probe.filters,
        "stride": list(geometry.stride),
        "padding": geometry.rule,
        "pads": [list(pair) for pair in geometry.pads],
        "padding_mode": probe.padding_mode,
        "dilation": list(geometry.dilation),
        "groups": geometry.groups,
        "flip": probe.flip,
        "output_size": list(geometry.output_size),
        "matrix_shape": list(geometry.matrix_shape),
        "layout": layout,
        "kernel_layout": kernel_layout,
        "order": probe.order,
        "dtype": str(probe.dtype),
        "seed": seed,
        "terms": probe.terms,
        "exact_below": probe.limit,
        "cases": [
            {
                "name": name,
                "about": about[name],
                **{
                    f"largest_{key}": int(np.abs(arrays[key].astype(float)).max())
                    for key in ("x", "kernel", "bias", "y")
                },
            }
            for name, arrays in cases.items()
        ],
    }


def _macros(probe: Probe) -> dict[str, int]:
    """The sizes of a probe as a C header names them."""
    from convmat.words import SIDE_NAMES

    geometry = probe.geometry
    found = {"PROBE_N": geometry.batch}
    for axis, name in enumerate(geometry.axis_names):
        upper = name.upper()
        found |= {
            f"PROBE_INPUT_{upper}": geometry.input_size[axis],
            f"PROBE_KERNEL_{upper}": geometry.kernel_size[axis],
            f"PROBE_STRIDE_{upper}": geometry.stride[axis],
            f"PROBE_DILATION_{upper}": geometry.dilation[axis],
            f"PROBE_OUTPUT_{upper}": geometry.output_size[axis],
        }
        for side, count in zip(SIDE_NAMES[name], geometry.pads[axis], strict=True):
            found[f"PROBE_PAD_{side.upper()}"] = count
    rows, columns = geometry.matrix_shape
    return found | {
        "PROBE_CHANNELS": geometry.channels,
        "PROBE_FILTERS": probe.filters,
        "PROBE_GROUPS": geometry.groups,
        "PROBE_X_COL_ROWS": rows,
        "PROBE_X_COL_COLUMNS": columns,
    }


_RESULT_OF = {"unroll": "x_col", "flatten-filters": "w_col", "convolve": "y"}


def judge_probe(
    folder: str,
    expected: str | None,
    case: str | None,
    stage: str,
    as_json: bool,
    quiet: bool,
    diagnose: bool = True,
) -> int:
    """Judge results against a probe, which is itself checked against the definition; the exit status."""
    from convmat.cli.output import report, watching
    from convmat.errors import FileError
    from convmat.files.npy import NpyInput
    from convmat.report.checks import judged_facts, judged_grid
    from convmat.report.verdicts import diagnosis_facts

    if expected is None:
        raise click.UsageError("Missing option '--expected'; give your result of the probe as .npy")
    if stage not in _RESULT_OF:
        raise click.UsageError(f"--stage {stage} is not in a probe; give one of {', '.join(_RESULT_OF)}")
    if diagnose and stage != "convolve":
        options.refuse(["diagnose"], "goes with --stage convolve")
    probe, manifest = _read_manifest(folder)
    names = [found["name"] for found in manifest["cases"]]
    if case is not None and case not in names:
        raise click.UsageError(f"--case {case!r} is not in {folder}; give one of {', '.join(names)}")
    chosen = [case] if case else names
    read = {
        name: _read_case(folder, name, probe, manifest)
        for name in watching(quiet, "case")(chosen, len(chosen))
    }
    wanted = {name: results[_RESULT_OF[stage]] for name, (_, results) in read.items()}
    layout = manifest["layout"]
    if os.path.isdir(expected):
        mine = {}
        for name in wanted:
            file = os.path.join(expected, f"{name}.npy")
            if not os.path.exists(file):
                raise FileError(file, f"is not there; write your result of {name} to it, or give --case")
            mine[name] = NpyInput(file).read()
        judged = {name: _judged(mine[name], wanted[name], layout, stage) for name in wanted}
    else:
        judged = _cases_of(NpyInput(expected).read(), wanted, layout, stage)
    reports = {name: one.report for name, one in judged.items()}
    wrong = {name: one for name, one in judged.items() if not one.report}
    facts = judged_facts(folder, stage, reports, [name for name in names if name not in reports])
    if wrong and stage == "convolve" and diagnose and not quiet:
        inputs = {name: given for name, (given, _) in read.items()}
        mistakes = _diagnosed(probe, layout, inputs, wrong, watching(quiet, "mistake"))
        facts[-1:-1] = diagnosis_facts(mistakes)
    grid = judged_grid(reports, probe.geometry, stage)
    report(facts, [grid], as_json=as_json, quiet=quiet, facts_last=True)
    return 1 if wrong else 0


class _Judged(NamedTuple):
    """A case's result as its file has it, the form that it is read in, and the verdict on it."""

    array: NDArray[Any]
    read_as: str
    report: Report


def _judged(array: NDArray[Any], wanted: NDArray[Any], layout: str, stage: str) -> _Judged:
    """An array as it is read to be a case's result, and the verdict on it."""
    from convmat.cli.layers import first_equal, results
    from convmat.verification import compare_exactly

    readings = {"": array}
    if stage == "convolve":
        readings = results(array, wanted.shape, layout)
    elif array.ndim == 3:  # as unroll --per-image
        readings = {"": array.reshape(-1, array.shape[-1])}
    name, found = first_equal(readings, lambda result: compare_exactly(result, wanted))
    return _Judged(array, name, found)


def _cases_of(
    array: NDArray[Any], wanted: dict[str, NDArray[Any]], layout: str, stage: str
) -> dict[str, _Judged]:
    """The cases that one array is judged as, and how.

    It is the result of one case, and does not say which: of each that it equals. Or it is the results of all,
    one after another. Or it is wrong, of the case that most of its elements equal, or of the first.
    """
    each = {name: _judged(array, right, layout, stage) for name, right in wanted.items()}
    if equal := {name: one for name, one in each.items() if one.report}:
        return equal
    if array.shape[:1] == (len(wanted),) and len(wanted) > 1:
        stacked = {
            name: _judged(part, right, layout, stage)
            for part, (name, right) in zip(array, wanted.items(), strict=True)
        }
        if all(one.report.shape == one.report.expected_shape for one in stacked.values()):
            return stacked
    nearest = min(each, key=lambda name: each[name].report.outside)
    if each[nearest].report.outside_share >= 0.5:  # of others it may have a number or two by chance
        nearest = next(iter(each))
    return {nearest: each[nearest]}


def _diagnosed(
    probe: Probe, layout: str, inputs: dict[str, Inputs], wrong: dict[str, _Judged], watch: Watch
) -> Findings:
    """The mistakes that explain every case that is wrong.

    An exception is its index in the file, after the case's name where several are wrong.
    """
    from convmat.cli.layers import places_in, results
    from convmat.verification.diagnosis import diagnose_all

    shape = (probe.geometry.batch, *probe.geometry.output_size, probe.filters)
    cases, places = [], []
    for name, one in wrong.items():

        def read(array: NDArray[Any], read_as: str = one.read_as) -> NDArray[Any]:
            return results(array, shape, layout)[read_as]

        x, filters, bias = inputs[name]
        layer = {"x": x, "filters": filters, "bias": bias, "flip": probe.flip, **probe.where}
        cases.append({**layer, "groups": probe.geometry.groups, "expected": read(one.array)})
        places.append(places_in(one.array, read))
    found = diagnose_all(cases, judged={"exact": True}, watch=watch)
    if len(cases) == 1:
        return found.with_places(places[0])
    names = list(wrong)
    return found.with_places(lambda at: (names[at[0]], *places[at[0]](at[1:])))


def _read_manifest(folder: str) -> tuple[Probe, dict[str, Any]]:
    """What probe.json says, checked whole."""
    import numpy as np

    from convmat.errors import ConvmatError, FileError
    from convmat.files.outputs import reading
    from convmat.files.schema import from_json, record_of
    from convmat.geometry import ConvGeometry
    from convmat.verification.probes import CASES, Probe

    name = os.path.join(folder, _MANIFEST)
    with reading(name):
        if not os.path.isdir(folder):
            raise FileError(folder, "is no folder; name one that verify --write-probe made")
        with open(name, "rb") as stream:
            text = stream.read(1 << 20)
    with record_of(name, "write the probe again"):
        said: dict[str, Any] = from_json(text)
        _manifest_kind().check(said)
        try:
            geometry = ConvGeometry(
                said["input_shape"],
                said["kernel_size"],
                said["stride"],
                said["padding"] or said["pads"],
                said["dilation"],
                said["groups"],
            )
            probe = Probe(
                geometry,
                said["filters"],
                np.dtype(said["dtype"]),
                said["flip"],
                said["padding_mode"],
                said["order"],
            )
        except ConvmatError as error:
            raise FileError(name, f"is damaged: {error}; write the probe again") from None
        derived = _manifest(probe, said["layout"], said["kernel_layout"], said["seed"], {}, CASES)
        kinds = {key: OneOf((value,)) for key, value in derived.items()}
        Fields({**kinds, "cases": Anything()}).check(said)
    return probe, said


def _manifest_kind() -> Kind:
    """What probe.json must be, but for what follows from its geometry."""
    from convmat.axis import PADDING_MODES, PADDING_NAMES
    from convmat.checks import STEP_LIMIT
    from convmat.geometry import KERNEL_LIMIT, ORDERS
    from convmat.layouts import KERNEL_LAYOUTS
    from convmat.verification.probes import CASES, MOST_ELEMENTS, PROBE_DTYPES

    count, step, pixels = Whole(1, MOST_ELEMENTS), Whole(1, STEP_LIMIT), Whole(0, STEP_LIMIT)
    largest = dict.fromkeys(("largest_x", "largest_kernel", "largest_bias", "largest_y"), pixels)
    names = dict.fromkeys(("output_size", "matrix_shape", "terms", "exact_below"), Anything())
    kinds: dict[str, Kind] = {
        **names,
        "convmat_probe": OneOf((1,)),
        "input_shape": Rows((3, 4, 5), lambda _: count),
        "filters": count,
        "padding": OneOf((None, *PADDING_NAMES)),
        "padding_mode": OneOf(PADDING_MODES),
        "groups": count,
        "flip": OneOf((False, True)),
        "layout": OneOf(("nhwc", "nchw")),
        "kernel_layout": OneOf(KERNEL_LAYOUTS),
        "order": OneOf(ORDERS),
        "dtype": OneOf(PROBE_DTYPES),
        "seed": SEED,
        "cases": Items(tuple(Fields({"name": OneOf((name,)), "about": Text(), **largest}) for name in CASES)),
    }
    sizes: dict[str, Kind] = {"kernel_size": Whole(1, KERNEL_LIMIT), "stride": step, "dilation": step}
    sizes["pads"] = Items((pixels, pixels))

    def sized(said: dict[str, Any]) -> Kind:
        axes = len(said["input_shape"]) - 2
        return Fields(kinds | {key: Items((kind,) * axes) for key, kind in sizes.items()})

    return Then(Fields(kinds | dict.fromkeys(sizes, Anything())), sized)


def _read_case(
    folder: str, case: str, probe: Probe, manifest: dict[str, Any]
) -> tuple[Inputs, dict[str, NDArray[Any]]]:
    """A case's inputs, and its results, (N, *out, K), by the definition; the files must say the same."""
    import numpy as np

    from convmat.errors import ConvmatError, FileError
    from convmat.files.npy import NpyInput
    from convmat.layouts import to_batch, to_filters
    from convmat.verification.probes import ARRAYS, Inputs

    def path(key: str) -> str:
        return os.path.join(folder, case, f"{key}.npy")

    dims, stored = len(probe.geometry.kernel_size), {}
    for key in ARRAYS:
        array = NpyInput(path(key)).read()
        try:
            if key in _ON_OUTPUTS:
                array = to_batch(array, dims, manifest["layout"])
            elif key == "kernel":
                array = to_filters(array, dims, manifest["kernel_layout"])
        except ConvmatError as error:
            raise FileError(path(key), f"is damaged: {error.problem}; write the probe again") from None
        stored[key] = array
    try:
        inputs = Inputs(*(stored[key] for key in Inputs._fields))
        results = probe.results(inputs)
    except ConvmatError as error:
        raise FileError(path(error.subject), f"is damaged: {error.problem}; write the probe again") from None
    for key, wanted in results.items():
        if not np.array_equal(stored[key], wanted):
            raise FileError(
                path(key), "is damaged: it is not what x.npy and kernel.npy give; write the probe again"
            )
    return inputs, results
