"""`convmat probe judge`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convmat.cli import options
from convmat.cli.command import Command, refuse
from convmat.cli.types import File
from convmat.files.described import is_raw_name, with_default

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from convmat.shown import Fact
    from convmat.verification.diagnosis import Findings
    from convmat.verification.golden import OwnLayer
    from convmat.verification.probes import Inputs, Judge, Probe
    from convmat.verification.verdict import Report

_ARRAY_OF = {"convolve": "y", "unroll": "x_col", "flatten-filters": "w_col"}


@click.command("judge", cls=Command)
@click.argument("probe", metavar="DIR", type=File(is_folder=True))
@click.argument("result", metavar="RESULT", type=File())
@click.option(
    "--case",
    metavar="NAME",
    help="The case that RESULT is of.  [default: what it can be; all of a folder, or of a stack]",
)
@options.choice("--stage", tuple(_ARRAY_OF), "Whose result it is.")
@options.diagnose_option
@options.bytes_options
@options.report_options
def command(probe: str, result: str, case: str | None, stage: str, diagnose: bool) -> None:
    """Judge your result of a probe, which has to be equal.

    \b
    Example:
      convmat probe write probe --k 3 --stride 2
      convmat probe judge probe probe/integers/y.npy

    DIR is a folder that probe write made; it is itself checked against the definition. RESULT is an .npy
    file, - for standard input, .bin, whose bytes are of the probe's dtype and shape, or a folder of
    integers.npy, one-hot.npy and so on, all of which are judged. A file is the result of one case, or of all,
    stacked in the order of the table of probe write: Y in the layout of the probe, or its rows.

    Of a layer of one's own integers must be equal, floats within each element's error bound.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.judged import Judged
    from convmat.cli.output import asked, watching
    from convmat.cli.probe_folder import read_case
    from convmat.cli.probes import open_probe
    from convmat.report.checks import judged_facts, judged_grid

    if stage != "convolve" and diagnose:
        refuse(["diagnose"], "goes with --stage convolve")
    opened, key = open_probe(probe), _ARRAY_OF[stage]
    layer, layouts, cases = opened
    if case is not None and case not in cases:
        raise click.UsageError(f"--case {case!r} is not in {probe}; give one of {', '.join(cases)}")
    names = [case] if case else list(cases)
    read = {name: read_case(probe, name, opened) for name in watching("case")(names, len(names))}
    wanted = {name: _Wanted(made[key], layer.judges(key, x, made)) for name, (x, made) in read.items()}
    if is_raw_name(result):  # of bytes alone it is known what they are
        outline = layouts.written(key, wanted[names[0]].array)
        result = with_default(result, outline.dtype.name, outline.shape)
    verdicts = _verdicts(result, wanted, layouts.images, stage)
    reports = {name: one.report for name, one in verdicts.items()}
    facts = judged_facts(probe, stage, reports, [name for name in cases if name not in reports])
    if stage == "convolve" and diagnose and not asked("quiet"):
        inputs = {name: of_case for name, (of_case, _) in read.items()}
        facts[-1:-1] = _diagnosis(layer, layouts.images, inputs, verdicts)
    Judged(all(reports.values()), facts, [judged_grid(reports, layer.geometry, stage)]).tell()


class _Wanted(NamedTuple):
    """What a result has to be, and what judges it, any of these."""

    array: NDArray[Any]
    judges: list[Judge]


class _Verdict(NamedTuple):
    """A case's result as its file has it, the form that it is read in, and the verdict on it."""

    array: NDArray[Any]
    read_as: str
    report: Report


def _verdicts(result: str, wanted: Mapping[str, _Wanted], layout: str, stage: str) -> dict[str, _Verdict]:
    """The verdict on each case of which there is a result, in a folder or a file."""
    from convmat.errors import FileError
    from convmat.files.described import Described, said_of
    from convmat.files.npy import NpyInput

    if not os.path.isdir(result):
        return _verdicts_on(NpyInput(result).read(), wanted, layout, stage)
    arrays = {}
    for name in wanted:
        file = os.path.join(result, f"{name}.npy")
        if not os.path.exists(file):
            raise FileError(file, f"is not there; write your result of {name} to it, or give --case")
        arrays[name] = NpyInput(Described(file, said_of(result))).read()
    return {name: _verdict(arrays[name], right, layout, stage) for name, right in wanted.items()}


def _verdicts_on(
    array: NDArray[Any], wanted: Mapping[str, _Wanted], layout: str, stage: str
) -> dict[str, _Verdict]:
    """The cases that one array is judged as, and how.

    It is the result of one case, and does not say which: of each that it equals. Or it is the results of all,
    one after another. Or it is wrong, of the case that most of its elements equal, or of the first.
    """
    each = {name: _verdict(array, right, layout, stage) for name, right in wanted.items()}
    if equal := {name: one for name, one in each.items() if one.report}:
        return equal
    if array.shape[:1] == (len(wanted),) and len(wanted) > 1:
        stacked = {
            name: _verdict(part, right, layout, stage)
            for part, (name, right) in zip(array, wanted.items(), strict=True)
        }
        if all(one.report.shape == one.report.expected_shape for one in stacked.values()):
            return stacked
    nearest = min(each, key=lambda name: each[name].report.outside)
    if each[nearest].report.outside_share >= 0.5:  # of others it may have a number or two by chance
        nearest = next(iter(each))
    return {nearest: each[nearest]}


def _verdict(array: NDArray[Any], wanted: _Wanted, layout: str, stage: str) -> _Verdict:
    """An array as it is read to be a case's result, any of those wanted, and the verdict on it."""
    from convmat.cli.judged import first_equal, results

    readings = {"": array}
    if stage == "convolve":
        readings = results(array, wanted.array.shape, layout)
    elif array.ndim == 3:  # as unroll --per-image
        readings = {"": array.reshape(-1, array.shape[-1])}
    verdicts = [first_equal(readings, judge) for judge in wanted.judges]
    name, verdict = next((one for one in verdicts if one[1]), verdicts[0])
    return _Verdict(array, name, verdict)


def _diagnosis(
    layer: Probe | OwnLayer, layout: str, inputs: Mapping[str, Inputs], verdicts: Mapping[str, _Verdict]
) -> list[Fact]:
    """What is to be told of the cases that are wrong: the mistakes that explain all of them."""
    from convmat.files.memory import check_memory
    from convmat.report.verdicts import diagnosis_facts
    from convmat.verification.diagnosis import diagnosis_bytes, may_be_explained

    wrong = {name: one for name, one in verdicts.items() if not one.report}
    arrays = [one.array for one in wrong.values()]
    size = layer.geometry, layer.filters
    if not wrong or not all(may_be_explained(array.shape, *size) for array in arrays):
        return []
    check_memory("RESULT", sum(diagnosis_bytes(*size, array) for array in arrays), "add --no-diagnose")
    told = diagnosis_facts(_diagnosed(layer, layout, inputs, wrong))
    if any(one.report.equal_as for one in wrong.values()):  # the verdict says which rounding it is
        return [fact._replace(brief="") for fact in told]
    return told


def _diagnosed(
    probe: Probe | OwnLayer, layout: str, inputs: Mapping[str, Inputs], wrong: Mapping[str, _Verdict]
) -> Findings:
    """The mistakes that explain every case that is wrong.

    An exception is its index in the file, after the case's name where several are wrong.
    """
    from convmat.cli.judged import places_in, results
    from convmat.cli.output import watching
    from convmat.verification.diagnosis import diagnose_all

    shape = (probe.geometry.batch, *probe.geometry.output_size, probe.filters)
    cases, places = [], []
    for name, one in wrong.items():

        def read(array: NDArray[Any], read_as: str = one.read_as) -> NDArray[Any]:
            return results(array, shape, layout)[read_as]

        x, filters, bias = inputs[name]
        cases.append({"x": x, "filters": filters, "bias": bias, "expected": read(one.array), **probe.how})
        places.append(places_in(one.array, read))
    findings = diagnose_all(cases, probe.rules, watch=watching("mistake"))
    if len(cases) == 1:
        return findings.with_places(places[0])
    names = list(wrong)
    return findings.with_places(lambda at: (names[at[0]], *places[at[0]](at[1:])))
