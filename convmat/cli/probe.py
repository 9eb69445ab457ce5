"""`convmat probe`."""

from convmat.cli.group import Group, show_help

command = Group(
    "probe",
    help="""Write layers whose right answer is exact, and judge your results of them.

    \b
    Example:
      convmat probe write probe --k 3 --stride 2
      convmat probe judge probe probe/integers/y.npy

    A probe is a folder of layers whose sums are exact in any order: only a result that is equal is right, in
    float16 as in int8.
    """,
    sections={
        "Commands": {
            "write": "inputs and kernels, and what they give, as .npy, C or hex",
            "judge": "is your result of a probe equal?",
        }
    },
    prefix="probe_",
    callback=show_help,
)
