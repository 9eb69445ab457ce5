"""`convmat verify` without INPUT: the self-check."""

from __future__ import annotations

import click

from convmat.cli import options

check_options = options.together(
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=2017,
        show_default=True,
        help="Of the random numbers that the self-check takes, or --write-probe.",
    ),
    click.option(
        "--cases",
        type=click.IntRange(0),
        default=0,
        help="Random geometries to add to the self-check, to soak it.",
    ),
)


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
