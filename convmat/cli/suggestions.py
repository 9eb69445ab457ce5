"""The right name for a mistyped or kindred one: of commands, and of a command's options."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_NEAR = 0.75  # of difflib's ratio: `verfy` is near to `verify`, `gray` is not near to `frame`

# What other programs and papers call it, without dashes at the front and with - for _.
COMMANDS = {
    "unroll": "im2col im2row im-to-col unfold patches patchify extract-patches sliding-window",
    "flatten-filters": "flatten filters flatten-kernels kernels weights reshape w-col",
    "matmul": "gemm sgemm dgemm igemm mm bmm dot multiply mul product matrix-multiply",
    "convolve": "conv conv1d conv2d conv3d convolution cross-correlation correlate filter depthwise forward",
    "convolve --transpose": "transpose transposed deconv deconv2d deconvolve deconvolution conv-transpose "
    "conv-transpose2d convtranspose convtranspose2d transposed-convolution",
    "fold": "col2im row2im col-to-im refold backward gradient",
    "verify": "check test validate prove selfcheck self-check selftest diagnose",
    "compare": "diff cmp difference allclose array-equal assert-allclose",
    "probe": "probes golden vectors test-vectors",
    "network": "networks lipschitz model onnx safetensors layers summary torchinfo",
    "probe write": "write-probe make-probe",
    "write": "make create new generate",
    "probe judge": "judge judge-probe",
    "locate": "index find where map mapping pixel lookup",
    "matrix": "toeplitz sparse fc dense fully-connected layer-matrix spectrum svd singular-values norm",
    "train": "experiment fit learn mnist cnn",
    "sizes": "output-size output-shape receptive-field padding pads same shapes chain",
}
OPTIONS = {
    "--k": "kernel-size ksize kernels-size filter-size window window-size kernel-shape size",
    "--kernel": "kernels filter filters weight weights w",
    "--stride": "step steps subsample",
    "--padding": "pad pads zero-padding",
    "--padding-mode": "pad-mode border border-mode mode",
    "--dilation": "dilate rate dilation-rate atrous",
    "--groups": "channel-groups feature-group-count",
    "--layout": "format data-format data-layout channels-first channels-last nchw nhwc input-layout",
    "--kernel-layout": "filter-layout weight-layout weights-layout kernel-format oihw ohwi hwio",
    "--dims": "ndim ndims dim axes spatial-axes",
    "--input-shape": "shape in-shape input-size image-size",
    "--output-shape": "shape out-shape output-size",
    "--output": "out outfile out-file output-file save file",
    "--figure": "plot draw picture fig",
    "--expected": "result results golden actual mine",
    "--atol": "tol tolerance epsilon eps abs-tol",
    "--rtol": "rel-tol",
    "--transpose": "transposed deconv",
    "--quantize": "quantization quantized quant int8 qparams",
    "--requantize": "requant rescale",
    "--flip": "true-convolution reverse",
    "--col": "column",
    "--threads": "jobs j workers num-threads nproc",
    "--normalize": "mean std norm preprocess",
    "--to-fc": "fc to-matmul lower",
    "--outputs": "dump dumped activations",
    "--provider": "execution-provider device ep",
    "--force": "overwrite replace clobber",
    "--quiet": "silent",
    "--brief": "short summary",
    "--lr": "learning-rate",
    "--batch-size": "batch",
    "--data": "dataset data-set",
    "--version": "v",
    "--help": "?",
}


def near_name(word: str, names: Collection[str], kindred: Mapping[str, str]) -> str | None:
    """The one of `names` that `word` stands for, or None where none is really near.

    That is one that differs by case or _, then what `kindred` says of it, then one that begins so, then one
    that is spelled nearly so.

    Args:
        names: what there is, with the dashes of options. kindred: other words, separated by blanks, for a
            name, or for one with more after it: `convolve --transpose`.
    """
    word, plain = _plain(word), {_plain(name): name for name in names}
    there = {
        other: name
        for name, others in kindred.items()
        if name.split()[0] in names
        for other in others.split()
    }
    if word in plain:
        return plain[word]
    if word in there:
        return there[word]
    beginning = {name for key, name in plain.items() if len(word) > 2 and key.startswith(word)}
    if len(beginning) == 1:
        return beginning.pop()
    from difflib import get_close_matches

    spelled = there | plain
    near = get_close_matches(word, spelled, 1, _NEAR)
    return spelled[near[0]] if near else None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()
