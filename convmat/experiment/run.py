"""The experiment: settings, the two networks step by step under one optimizer, and how far they are apart.

What is random is drawn from generators seeded with (seed, purpose, ...) at the time it is needed: nothing of
their state has to be kept for a run to go on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import SettingError, ShapeError
from convmat.experiment.digits import unit_range
from convmat.experiment.divergence import Divergence, measure
from convmat.experiment.networks import NETWORKS, Convolution, Dense, Network, he_uniform, mean_squared_error
from convmat.experiment.optimizers import OPTIMIZERS, SGD, Adam
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import unroll

LEARNING_RATES = {"sgd": 0.3, "adam": 0.001}
"""The defaults. Adam's is its paper's; of SGD's, the README tells how it was chosen."""

PAPER = {"optimizer": "both", "epochs": 400}
"""What the paper did that `Settings` does not do by default."""

NEW_IMAGES = 1000
"""Images that neither network has seen, on which the outputs of the first layers are compared; at most."""

_SPLIT, _WEIGHTS, _BATCHES = range(3)  # purposes of random numbers


@dataclass(frozen=True)
class Settings:
    """All that decides a run's numbers; the defaults are the paper's but for `epochs`, 400 there.

    Raises:
        SettingError: a number that makes no experiment.
    """

    optimizer: str = "sgd"
    """"sgd", "adam", or "both", one after the other."""
    epochs: int = 12
    filters: int = 128
    kernel_size: Sizes = 4
    stride: Sizes = 2
    padding: Padding = "valid"
    train_size: int = 1000
    val_size: int = 1000
    batch_size: int = 128
    lr: float | None = None
    """None for each optimizer's own of `LEARNING_RATES`."""
    seed: int = 0
    dtype: str = "float32"
    probe_divergence: bool = False
    """Measure at each step how far the networks' gradients and weights are apart."""

    def __post_init__(self) -> None:
        for name, choices in {"optimizer": (*OPTIMIZERS, "both"), "dtype": ("float32", "float64")}.items():
            if getattr(self, name) not in choices:
                raise SettingError(name, f"got {getattr(self, name)!r}; give one of {', '.join(choices)}")
        least = dict.fromkeys(("epochs", "filters", "train_size", "val_size", "batch_size"), 1) | {"seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise SettingError(name, f"must be at least {low}, got {getattr(self, name)}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise SettingError("lr", f"must be above 0, got {self.lr}; the defaults are {LEARNING_RATES}")

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers, in the order of their runs."""
        return OPTIMIZERS if self.optimizer == "both" else (self.optimizer,)

    def learning_rate(self, optimizer: str) -> float:
        """The learning rate of an optimizer's run."""
        return LEARNING_RATES[optimizer] if self.lr is None else self.lr

    @property
    def images(self) -> int:
        """Images that a run wants: to train on, to validate on, and new ones."""
        return self.train_size + self.val_size + NEW_IMAGES

    def geometry(self, image_shape: Sequence[int]) -> ConvGeometry:
        """The first layer's, for a batch of images (H, W, C).

        Raises:
            GeometryError: a kernel, stride or padding that makes no convolution of them.
        """
        return ConvGeometry((self.batch_size, *image_shape), self.kernel_size, self.stride, self.padding)

    def dense_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """(P·K, H·W·C), of the second layer's weights."""
        return self.geometry(image_shape).patches * self.filters, math.prod(image_shape)

    def nbytes(self, image_shape: Sequence[int]) -> int:
        """Memory that an experiment takes, about: weights with all that goes with them, images, a batch."""
        geometry = self.geometry(image_shape)
        weights = math.prod(self.dense_shape(image_shape)) + geometry.terms * self.filters
        # Of each network: weights and gradients, and with Adam two moments.
        matrices = 1 + sum(2 * {"sgd": 2, "adam": 4}[name] for name in self.optimizers)
        images = self.images * (math.prod(image_shape) + geometry.patches * geometry.terms)
        batch = 4 * self.batch_size * geometry.patches * self.filters
        return (matrices * weights + images + batch) * np.dtype(self.dtype).itemsize


class Images(NamedTuple):
    """A set of images as both networks see it."""

    pixels: NDArray[Any]
    """(N, H, W, C) in 0..1, the CNN's input."""
    x_col: NDArray[Any]
    """(N, P, kh·kw·C), the FC network's input: unrolled once."""

    @property
    def target(self) -> NDArray[Any]:
        """(N, H·W·C), what both are to give."""
        return self.pixels.reshape(len(self.pixels), -1)

    def inputs(self, name: str, which: Any) -> NDArray[Any]:
        """The first layer's input for some of the images."""
        if name == "cnn":
            return np.asarray(self.pixels[which])
        return np.asarray(self.x_col[which].reshape(-1, self.x_col.shape[-1]))


class Epoch(NamedTuple):
    """The losses of an epoch: of training, the mean over its batches as they came; of validation, at its end.

    Epoch 0 is before the first step, and its training loss that of the initial weights.
    """

    epoch: int
    cnn_training: float
    cnn_validation: float
    fc_training: float
    fc_validation: float


class Comparison(NamedTuple):
    """How far the two networks are apart, and what they have learned."""

    weights_difference: float
    """Frobenius norm of the difference of the first layers' weights."""
    weights_norm: float
    """Frobenius norm of the CNN's."""
    outputs_difference: float
    """Norm of the difference of the first layers' outputs, the mean over the new images."""
    outputs_norm: float
    """Norm of the CNN's, the mean over the same."""
    dead: dict[str, int]
    """Output units that are 0 for every training image, of each network."""
    dead_lit: dict[str, int]
    """Those among them whose pixel is lit in some training image, where 0 is no answer."""


@dataclass
class Run:
    """Both networks under one optimizer, and how far they have come."""

    optimizer: str
    networks: dict[str, Network]
    updates: dict[str, SGD | Adam]
    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches of the next epoch that are done."""
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NETWORKS, 0.0))
    """Squared errors over those batches' images."""
    history: list[Epoch] = field(default_factory=list)
    divergence: list[Divergence] = field(default_factory=list)


class Experiment:
    """The paper's Section 5 on some images.

    Args:
        settings: what is to be done.
        images: (N, H, W, C), any dtype `unit_range` takes; shuffled by the seed, then the first
            `train_size` are trained on, the next `val_size` are validated on, and up to `NEW_IMAGES` of the
            rest are new to both; where none are left, the validation images stand for them.

    Raises:
        ShapeError: not such an array, or fewer images than are to be trained and validated on.
        GeometryError: a kernel, stride or padding that makes no convolution of them.
        DTypeError: pixels that are not numbers of a known range.
    """

    def __init__(self, settings: Settings, images: NDArray[Any]) -> None:
        self.settings = settings
        if images.ndim != 4:
            raise ShapeError("data", f"has shape {images.shape}; expected (N, H, W, C)")
        needed = settings.train_size + settings.val_size
        if len(images) < needed:
            raise ShapeError(
                "data",
                f"has {len(images)} images; {settings.train_size} to train and {settings.val_size} to "
                f"validate on are {needed}: give smaller --train-size and --val-size, or more images",
            )
        self.geometry = settings.geometry(images.shape[1:])
        order = self._random(_SPLIT).permutation(len(images))[: settings.images]
        train, validation, new = np.split(order, [settings.train_size, needed])
        self.train = self._prepare(images[train])
        self.validation = self._prepare(images[validation])
        self.new = self._prepare(images[new]) if len(new) else self.validation
        rng = self._random(_WEIGHTS)
        self.initial = {
            "first": he_uniform((self.geometry.terms, settings.filters), rng, settings.dtype),
            "dense": he_uniform(settings.dense_shape(images.shape[1:]), rng, settings.dtype),
        }
        self.runs = {name: self._begin(name) for name in settings.optimizers}

    @property
    def batches(self) -> int:
        """Steps of an epoch; the last may have fewer images."""
        return -(-self.settings.train_size // self.settings.batch_size)

    @property
    def steps_left(self) -> int:
        """What `steps` has still to do: batches to train on, and at the ends of epochs to evaluate."""
        train, validation = (len(list(self._in_batches(on))) for on in (self.train, self.validation))
        left = 0
        for run in self.runs.values():
            epochs = max(self.settings.epochs - run.epoch, 0)
            left += epochs * (self.batches + 2 * validation) - (run.batch if epochs else 0)
            left += 0 if run.history else 2 * (train + validation)
        return left

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *purpose])

    def _prepare(self, images: NDArray[Any]) -> Images:
        pixels = unit_range(images, self.settings.dtype)
        g = self.geometry.for_batch(len(pixels))
        x_col = unroll(pixels, g.kernel_size, g.stride, g.pads)
        return Images(pixels, x_col.reshape(g.batch, g.patches, -1))

    def _begin(self, optimizer: str) -> Run:
        lr = self.settings.learning_rate(optimizer)
        networks, updates = {}, {}
        for name in NETWORKS:
            first, dense = (self.initial[layer].copy() for layer in ("first", "dense"))
            layer = Convolution(self.geometry, first) if name == "cnn" else Dense(first)
            networks[name] = Network(layer, Dense(dense))
            updates[name] = {"sgd": SGD, "adam": Adam}[optimizer]([first, dense], lr)
        return Run(optimizer, networks, updates)

    def steps(self) -> Iterator[Run]:
        """Train until every run has its epochs; the run that is on, after each batch trained on or evaluated.

        Between two steps all is well: it may be left, saved, and gone on with to the same bits.

        Raises:
            SettingError: the learning rate is too large, so that a loss is no number.
        """
        for run in self.runs.values():
            if not run.history:
                cases = [(name, on) for name in NETWORKS for on in (self.train, self.validation)]
                losses = yield from self._losses(run, cases)
                run.history.append(Epoch(0, *losses))
            while run.epoch < self.settings.epochs:
                if run.batch < self.batches:
                    self._step(run)
                    yield run
                else:
                    yield from self._end_epoch(run)

    def _step(self, run: Run) -> None:
        order = self._random(_BATCHES, run.epoch).permutation(self.settings.train_size)
        which = order[run.batch * self.settings.batch_size :][: self.settings.batch_size]
        target = self.train.target[which]
        with np.errstate(all="ignore"):
            for name, network in run.networks.items():
                network.forward(self.train.inputs(name, which))
                run.sums[name] += network.backward(target) * len(which)
            if not all(map(math.isfinite, run.sums.values())):
                raise SettingError(
                    "lr",
                    f"{self.settings.learning_rate(run.optimizer)} makes the loss of {run.optimizer} grow "
                    f"beyond all numbers in epoch {run.epoch + 1}; give a smaller one",
                )
            for name, network in run.networks.items():
                run.updates[name].step([layer.gradient for layer in network.layers.values()])
        if self.settings.probe_divergence:
            step = run.epoch * self.batches + run.batch + 1
            run.divergence += measure(step, run.networks, run.updates)
        run.batch += 1

    def _end_epoch(self, run: Run) -> Iterator[Run]:
        validation = yield from self._losses(run, [(name, self.validation) for name in NETWORKS])
        losses = []
        for name, loss in zip(NETWORKS, validation, strict=True):
            losses += [run.sums[name] / self.settings.train_size, loss]
        run.history.append(Epoch(run.epoch + 1, *losses))
        run.epoch, run.batch, run.sums = run.epoch + 1, 0, dict.fromkeys(NETWORKS, 0.0)

    def _in_batches(self, images: Images) -> Iterator[slice]:
        for start in range(0, len(images.pixels), self.settings.batch_size):
            yield slice(start, start + self.settings.batch_size)

    def outputs(self, run: Run, name: str, images: Images) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """A network's outputs and their targets, (n, H·W·C), a batch at a time."""
        for which in self._in_batches(images):
            yield run.networks[name].forward(images.inputs(name, which)), images.target[which]

    def loss(self, run: Run, name: str, images: Images) -> float:
        """A network's mean squared error on some images."""
        return sum(self._squared_errors(run, name, images)) / len(images.pixels)

    def _squared_errors(self, run: Run, name: str, images: Images) -> Iterator[float]:
        outputs = self.outputs(run, name, images)
        while True:
            with np.errstate(all="ignore"):  # not across a yield: what runs there has its own state
                found = next(outputs, None)
                if found is None:
                    return
                total = mean_squared_error(*found)[0] * len(found[1])
            yield total

    def _losses(self, run: Run, cases: Sequence[tuple[str, Images]]) -> Generator[Run, None, list[float]]:
        """The losses of networks on images, by `loss`; the run, after each batch of them."""
        losses = []
        for name, images in cases:
            total = 0.0
            for part in self._squared_errors(run, name, images):
                total += part
                yield run
            losses.append(total / len(images.pixels))
        return losses

    def compare(self, run: Run) -> Comparison:
        """How far the networks are apart now, and which of their outputs have died."""
        first = {name: network.first for name, network in run.networks.items()}
        apart, size = 0.0, 0.0
        for which in self._in_batches(self.new):
            ours = [first[name].forward(self.new.inputs(name, which)) for name in NETWORKS]
            cnn, fc = (y.reshape(len(self.new.pixels[which]), -1) for y in ours)
            apart += float(np.linalg.norm(cnn - fc, axis=1).sum())
            size += float(np.linalg.norm(cnn, axis=1).sum())
        lit = self.train.target.any(axis=0)
        dead = {}
        for name in NETWORKS:
            outputs = (output.any(axis=0) for output, _ in self.outputs(run, name, self.train))
            dead[name] = ~np.logical_or.reduce(list(outputs))
        return Comparison(
            float(np.linalg.norm(first["cnn"].weights - first["fc"].weights)),
            float(np.linalg.norm(first["cnn"].weights)),
            apart / len(self.new.pixels),
            size / len(self.new.pixels),
            {name: int(units.sum()) for name, units in dead.items()},
            {name: int((units & lit).sum()) for name, units in dead.items()},
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Initial weights, each run's weights and its optimizer's state, by name: `adam_cnn_dense_v`."""
        found = {f"initial_{layer}": weights for layer, weights in self.initial.items()}
        for run in self.runs.values():
            for name, network in run.networks.items():
                update = run.updates[name]
                for number, (layer, part) in enumerate(network.layers.items()):
                    key = f"{run.optimizer}_{name}_{layer}"
                    found[key] = part.weights
                    if isinstance(update, Adam):
                        found |= {f"{key}_m": update.m[number], f"{key}_v": update.v[number]}
        return found

    def record(self) -> dict[str, Any]:
        """Settings, and how far each run has come; with `arrays`, all that `resume` needs. JSON keeps it."""
        runs = {
            name: {
                "epoch": run.epoch,
                "batch": run.batch,
                "sums": run.sums,
                "history": run.history,
                "divergence": run.divergence,
            }
            for name, run in self.runs.items()
        }
        return {"settings": asdict(self.settings), "runs": runs}

    def resume(self, record: Mapping[str, Any], array: Callable[[str], NDArray[Any]]) -> None:
        """Go on from what `record` and `arrays` told of an experiment with the same settings and images.

        `array` gives an array by its name; they are asked for one at a time.
        """
        for key, values in self.arrays().items():
            np.copyto(values, array(key), casting="no")
        for name, done in record["runs"].items():
            run = self.runs[name]
            run.epoch, run.batch, run.sums = done["epoch"], done["batch"], done["sums"]
            run.history = [Epoch(*row) for row in done["history"]]
            run.divergence = [Divergence(*row) for row in done["divergence"]]
            for update in run.updates.values():
                if isinstance(update, Adam):
                    update.t = run.epoch * self.batches + run.batch
