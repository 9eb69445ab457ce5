"""`convmat probe judge`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from convmat.cli import options
from convmat.cli.command import Command, refuse
from convmat.cli.types import File

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from convmat.verification.diagnosis import Findings
    from convmat.verification.probes import Inputs, Probe
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
    file, - for standard input, or a folder of integers.npy, one-hot.npy and so on, all of which are judged. A
    file is the result of one case, or of all, stacked in the order of the table of probe write: Y in the
    layout of the probe, or its rows.

    Exit status: 0 equal, 1 different, 2 trouble.
    """
    from convmat.cli.judged import Judged
    from convmat.cli.output import asked, watching
    from convmat.cli.probes import open_probe, read_case
    from convmat.report.checks import judged_facts, judged_grid
    from convmat.report.verdicts import diagnosis_facts
    from convmat.verification.probes import CASES

    if stage != "convolve" and diagnose:
        refuse(["diagnose"], "goes with --stage convolve")
    layer, layouts = open_probe(probe)
    if case is not None and case not in CASES:
        raise click.UsageError(f"--case {case!r} is not in {probe}; give one of {', '.join(CASES)}")
    names = [case] if case else list(CASES)
    read = {name: read_case(probe, name, layer, layouts) for name in watching("case")(names, len(names))}
    wanted = {name: [results[_ARRAY_OF[stage]]] for name, (_, results) in read.items()}
    if stage == "convolve":  # a result wider than Y need not be rounded
        for name, (inputs, _) in read.items():
            wanted[name].append(layer.sums(inputs) + inputs.bias)
    verdicts = _verdicts(result, wanted, layouts.images, stage)
    wrong = {name: one for name, one in verdicts.items() if not one.report}
    reports = {name: one.report for name, one in verdicts.items()}
    facts = judged_facts(probe, stage, reports, [name for name in CASES if name not in reports])
    if wrong and stage == "convolve" and diagnose and not asked("quiet"):
        given = {name: inputs for name, (inputs, _) in read.items()}
        facts[-1:-1] = diagnosis_facts(_diagnosed(layer, layouts.images, given, wrong))
    Judged(not wrong, facts, [judged_grid(reports, layer.geometry, stage)]).tell()


class _Verdict(NamedTuple):
    """A case's result as its file has it, the form that it is read in, and the verdict on it."""

    array: NDArray[Any]
    read_as: str
    report: Report


def _verdicts(
    result: str, wanted: Mapping[str, list[NDArray[Any]]], layout: str, stage: str
) -> dict[str, _Verdict]:
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
    array: NDArray[Any], wanted: Mapping[str, list[NDArray[Any]]], layout: str, stage: str
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


def _verdict(array: NDArray[Any], wanted: list[NDArray[Any]], layout: str, stage: str) -> _Verdict:
    """An array as it is read to be a case's result, any of those wanted, and the verdict on it."""
    from convmat.cli.judged import first_equal, results
    from convmat.verification.comparison import compare_exactly

    readings = {"": array}
    if stage == "convolve":
        readings = results(array, wanted[0].shape, layout)
    elif array.ndim == 3:  # as unroll --per-image
        readings = {"": array.reshape(-1, array.shape[-1])}
    verdicts = [first_equal(readings, partial(compare_exactly, wanted=right)) for right in wanted]
    name, verdict = next((one for one in verdicts if one[1]), verdicts[0])
    return _Verdict(array, name, verdict)


def _diagnosed(
    probe: Probe, layout: str, inputs: Mapping[str, Inputs], wrong: Mapping[str, _Verdict]
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
        layer = {"x": x, "filters": filters, "bias": bias, "flip": probe.flip, **probe.where}
        cases.append({**layer, "groups": probe.geometry.groups, "expected": read(one.array)})
        places.append(places_in(one.array, read))
    # By the bound, for the definition of what is rounded is not: where sums are exact it leaves nothing.
    findings = diagnose_all(cases, watch=watching("mistake"))
    if len(cases) == 1:
        return findings.with_places(places[0])
    names = list(wrong)
    return findings.with_places(lambda at: (names[at[0]], *places[at[0]](at[1:])))
