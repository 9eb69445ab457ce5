"""Diagnosis: which known mistakes explain a wrong result, by the bound of `verify`, and in which elements.

No clock is looked at: of the same result the same is told on every machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from numpy.typing import ArrayLike

from convmat.errors import ConvmatError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.verification.comparison import working_bytes
from convmat.verification.computed import Array, Computation
from convmat.verification.effective import MOST_UNKNOWNS
from convmat.verification.evidence import Effect
from convmat.verification.instead import instead
from convmat.verification.layer import channels_last, in_layout
from convmat.verification.mistakes import Mistake, known_mistakes
from convmat.verification.problem import Place, Problem
from convmat.verification.quantized_mistakes import quantized_mistakes
from convmat.watching import Watch, unwatched

Chain = tuple[Mistake, ...]

_BUDGET = 1 << 28  # products that pairs may cost, before the search ends early


@dataclass(frozen=True)
class Diagnosis:
    """One mistake, or two made together, that explain a result."""

    mistakes: tuple[str, ...]
    """Stable keys, one or two; of a result of another stage as many as its order of axes takes."""
    phrases: tuple[str, ...] = ()
    exceptions: tuple[Place, ...] = ()
    """Indices of the elements of the result that the mistakes do not explain; see `diagnose`."""

    def __str__(self) -> str:
        sentence = "your output equals the correct one " + " and ".join(self.phrases or self.mistakes)
        if not self.exceptions:
            return sentence
        count = len(self.exceptions)
        places = ", ".join(f"({', '.join(map(str, place))})" for place in self.exceptions)
        return f"{sentence}, except {count} element{'s' if count > 1 else ''}: {places}"

    @property
    def brief(self) -> str:
        """The mistakes in a few words, to go on from a verdict."""
        names = " and ".join(phrase.removeprefix("with ") for phrase in self.phrases or self.mistakes)
        return names + (f", except {len(self.exceptions)}" if self.exceptions else "")


@dataclass(frozen=True)
class Findings(Sequence[Diagnosis]):
    """What a search found: a sequence of its diagnoses, empty where nothing explains the result."""

    diagnoses: tuple[Diagnosis, ...] = ()
    tried: int = 0
    """Mistakes, alone and in pairs, that were held against the result."""
    known: int = 0
    """Those that were to be: more than were tried if the search ended early."""
    effects: tuple[Effect, ...] = ()
    """What was done instead, where no single mistake explains one result whole."""

    @overload
    def __getitem__(self, index: int) -> Diagnosis: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Diagnosis, ...]: ...
    def __getitem__(self, index: int | slice) -> Diagnosis | tuple[Diagnosis, ...]:
        return self.diagnoses[index]

    def __len__(self) -> int:
        return len(self.diagnoses)

    def __str__(self) -> str:
        lines = [str(one) for one in self] or ["no known mistake explains it"]
        if self.tried < self.known:
            lines.append(f"tried {self.tried} of {self.known} known mistakes, alone and in pairs")
        return "\n".join(lines)

    @property
    def story(self) -> str:
        """All that is known of the result: the mistakes, and what was done instead."""
        return "\n".join([str(self), *map(str, self.effects)])

    @property
    def brief(self) -> str:
        """The first diagnosis in a few words; none where there is none."""
        return self[0].brief if self else ""

    @property
    def headline(self) -> str:
        """What says most in a few words: the first diagnosis, else the first effect."""
        return self.brief or "".join(map(str, self.effects[:1]))

    def with_places(self, place: Callable[[Place], Place]) -> Findings:
        """With the exceptions' indices as `place` makes them of ours: those of a file, say."""
        return replace(
            self,
            diagnoses=tuple(replace(d, exceptions=tuple(map(place, d.exceptions))) for d in self.diagnoses),
        )


def diagnose(
    x: ArrayLike,
    filters: ArrayLike,
    expected: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    layout: str = "nhwc",
    kernel_layout: str = "ohwi",
    judged: Mapping[str, Any] | None = None,
    budget: int = _BUDGET,
    watch: Watch = unwatched,
) -> Findings:
    """The known mistakes that explain a wrong result, by the judgment of `verify`.

    A mistake explains a result if each element is what the mistake makes of it. One that leaves some is named
    with these exceptions where they are at most 1 % of the elements, at most 16, and fewer than the wrong
    elements that it explains.

    Args:
        x, filters and the geometry: as `convolve` takes them.
        expected: the wrong result, (N, *out, K) or of any other shape.
        layout, kernel_layout: of the arrays, as `verify` takes them; exceptions are indices of `expected`.
        judged: how `verify` is to judge: its `exact`, `atol`, `rtol`, `quantization`, `arithmetic`
            and `activation`; None stands for nothing said.
        budget: about how many products trying pairs of mistakes may cost. Single ones are all tried.
        watch: hands on the mistakes, and then the pairs of them, that are tried.

    Returns:
        The first of these that there are: the mistakes, common ones first, that explain all elements; pairs
        of them that do; mistakes with exceptions; pairs with exceptions. Nothing for a right result. Where
        no single mistake explains all elements, `effects` are what does, as far as sentences about the
        result itself go; pairs are tried if these leave anything, or do not say where they are true.

    Raises:
        The errors of `convolve` and `verify`.
    """
    layer: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer |= {"bias": bias, "flip": flip, "padding_mode": padding_mode}
    x, filters, result = channels_last(x, filters, expected, layout, kernel_layout)
    findings = diagnose_all(
        [{"x": x, "filters": filters, "expected": result, **layer}], judged, budget, watch
    )
    return findings.with_places(lambda at: in_layout(at, layout, x.ndim))


def diagnose_all(
    cases: Sequence[Mapping[str, Any]],
    judged: Mapping[str, Any] | None = None,
    budget: int = _BUDGET,
    watch: Watch = unwatched,
) -> Findings:
    """The mistakes that explain several wrong results at once.

    Each case holds the arguments of `diagnose` for one result; all have as many spatial axes. Right ones are
    left out. Where there are several cases, an exception is its case's number before its index.
    """
    rule = {key: value for key, value in (judged or {}).items() if value is not None}
    problems = [Problem(rule, **case) for case in cases]
    numbered = {number: problem for number, problem in enumerate(problems) if problem.wrong.any()}
    return _Search(numbered, len(cases) > 1).run(budget, watch) if numbered else Findings()


def may_be_explained(shape: Sequence[int], geometry: ConvGeometry, filters: int) -> bool:
    """Whether a result of this shape has no more elements than mistakes can make of the layer's."""
    widest = (h + 2 * extent for h, extent in zip(geometry.input_size, geometry.extent, strict=True))
    return math.prod(shape) <= geometry.batch * math.prod(widest) * filters


def diagnosis_bytes(geometry: ConvGeometry, filters: int, result: Array) -> int:
    """Memory that `diagnose` takes beside X and the result, about: a dozen arrays like it, as many float64,
    and what it takes to solve for a filter.
    """
    outputs = max(geometry.matrix_shape[0] * filters, result.size)
    itemsize = 8 if result.dtype.kind in "biu" else result.itemsize
    solving = 40 * min(geometry.terms, MOST_UNKNOWNS) ** 2
    return (
        (88 + 12 * itemsize) * outputs
        + solving
        + 8 * math.prod(geometry.input_shape)
        + working_bytes(outputs)
    )


class _Search:
    """The known mistakes, to be tried on one or more wrong results."""

    def __init__(self, problems: dict[int, Problem], several: bool) -> None:
        self.problems, self.several = problems, several
        right = next(iter(problems.values())).right
        known = known_mistakes(right.x.ndim - 2)
        self.made = {
            mistake: {number: list(made_by(mistake, problem.right)) for number, problem in problems.items()}
            for mistake in (known if right.quantized is None else quantized_mistakes(known))
        }
        self.mistakes = [mistake for mistake, layers in self.made.items() if all(layers.values())]

    def run(self, budget: int, watch: Watch) -> Findings:
        """Single mistakes; then pairs, if none explains all, until the budget is used up."""
        tried = known = len(self.mistakes)
        singles = watch(self.mistakes, known)
        alone = [d for mistake in singles if (d := self.explanation((mistake,))) is not None]
        together: list[Diagnosis] = []
        effects: tuple[Effect, ...] = ()
        if not self.several and all(d.exceptions for d in alone):
            effects = instead(*self.problems.values())
        told = effects and all(effect.definite for effect in effects)
        if not told and all(d.exceptions for d in alone):
            pairs = self.pairs()
            known += len(pairs)
            budget += self.cost
            for pair in watch(pairs, len(pairs)):
                if self.cost >= budget:
                    break
                tried += 1
                named = any({m.phrase for m in pair} == set(d.phrases) for d in together)
                if not named and (diagnosis := self.explanation(pair)) is not None:
                    together.append(diagnosis)
        ranked = (
            [d for d in ds if bool(d.exceptions) == some]
            for some in (False, True)
            for ds in (alone, together)
        )
        diagnoses = tuple(next(filter(None, ranked), []))
        whole = bool(diagnoses) and not diagnoses[0].exceptions
        return Findings(diagnoses, tried, known, () if whole else effects)

    @property
    def cost(self) -> int:
        """Products so far, or what takes as long."""
        return sum(problem.cost for problem in self.problems.values())

    def pairs(self) -> list[Chain]:
        """Two mistakes each, common ones first; in both orders where the order matters."""
        ranks = itertools.permutations(range(len(self.mistakes)), 2)
        pairs: list[Chain] = []
        for i, j in sorted(ranks, key=lambda pair: (sum(pair), pair)):
            first, second = self.mistakes[i], self.mistakes[j]
            reversible = first.part == second.part != "value"
            if first.key != second.key and (i < j or reversible):
                pairs.append((first, second))
        return pairs

    def explanation(self, chain: Chain) -> Diagnosis | None:
        """The diagnosis that a chain of mistakes is, if it explains every result."""
        exceptions: list[Place] = []
        for number, problem in self.problems.items():
            layers = iter(self.made[chain[0]][number])
            if len(chain) > 1:
                layers = (last for layer in layers for last in made_by(chain[1], layer))
            left = [places for layer in layers if (places := problem.exceptions(layer)) is not None]
            if not left:
                return None
            exceptions += [(number, *place) if self.several else place for place in min(left, key=len)]
        return Diagnosis(tuple(m.key for m in chain), tuple(m.phrase for m in chain), tuple(exceptions))


def made_by(mistake: Mistake, layer: Computation) -> Iterator[Computation]:
    """What the mistake makes of a layer, where it can be made."""
    try:
        yield from mistake.made(layer)
    except ConvmatError:  # a kernel larger than what is left of the image
        return
