"""Judge networks that others made: python -m tests.network_soak [FILE...].

Without files those are the light models of the onnx package and, where it is installed, the three networks of
rapidocr_onnxruntime. Each is run by onnxruntime on the sample scene, judged layer by layer, rewritten as
products, and judged again; a line for each.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from convmat.cli import run

SCENE = Path(__file__).parent.parent / "sample_images" / "scene.png"
SIZES = {"PP-OCRv4_det": (384, 256), "PP-OCRv4_rec": (192, 48), "mobile_v2.0_cls": (192, 48)}


def networks() -> list[Path]:
    """Those that are installed."""
    found = []
    for package, pattern in (
        ("onnx", "backend/test/data/light/*.onnx"),
        ("rapidocr_onnxruntime", "models/*.onnx"),
    ):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            found += sorted(Path(spec.origin).parent.glob(pattern))
    return found


def main() -> None:
    """A line for each network; exit status 1 where one is not equal."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in map(Path, sys.argv[1:] or networks()):
            size = next((size for key, size in SIZES.items() if key in network.name), (224, 224))
            with Image.open(SCENE) as scene:
                scene.resize(size).save(folder / "x.png")
            asked = [str(network), str(folder / "x.png"), "--normalize", "127.5,127.5", "--json"]
            out, start = io.StringIO(), time.perf_counter()
            with contextlib.redirect_stdout(out):
                status = run(["network", *asked, "--to-fc", str(folder / "fc.onnx")])
            if status > 1:
                wrong += 1
                continue
            found = json.loads(out.getvalue())
            wrong += not found["equal"]
            rejected = sum(layer["verdict"] == "different" for layer in found["layers"])
            print(
                f"{network.stem}: {found['convs']} CONV layers, {found['judged']} of {len(found['layers'])} "
                f"judged, {rejected} rejected, error / bound {found['error_over_bound']:.2f}, convmat's "
                f"{found['engine_error_over_bound']:.2f}; {found['rewritten']} as products, "
                f"{found['fc_error_over_bound']:.2f}, outputs {found['fc_end']:.1e} apart; "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    sys.exit(min(wrong, 1))


if __name__ == "__main__":
    main()
