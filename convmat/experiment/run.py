"""The experiment: the two networks step by step under one optimizer, and how far they are apart.

What is random is drawn from generators seeded with (seed, purpose, ...) at the time it is needed: nothing of
their state has to be kept for a run to go on where it stopped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convmat.errors import SettingError
from convmat.experiment.digits import unit_range
from convmat.experiment.divergence import Divergence, measure
from convmat.experiment.networks import NETWORKS, Convolution, Dense, Network, he_uniform, mean_squared_error
from convmat.experiment.optimizers import SGD, Adam
from convmat.experiment.record import RECORD, array_kinds
from convmat.experiment.settings import EVALUATED, Settings
from convmat.files.schema import Mismatch, shown
from convmat.patches import unroll
from convmat.watching import Watch, unwatched

_SPLIT, _WEIGHTS, _BATCHES = range(3)  # purposes of random numbers
_BLOCK_BYTES = 1 << 24  # of X_col, unrolled at a time


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
        watch: of what takes time besides the steps, in blocks: preparing the images, and evaluations.
        data: what the images are called, to be kept in the record; None for drawn digits.

    Raises:
        ShapeError: not such an array, or fewer images than are to be trained and validated on.
        GeometryError: a kernel, stride or padding that makes no convolution of them.
        DTypeError: pixels that are not numbers of a known range.
    """

    def __init__(
        self,
        settings: Settings,
        images: NDArray[Any],
        watch: Watch = unwatched,
        data: str | None = None,
    ) -> None:
        settings.check_images(images.shape)
        self.settings = settings
        self.watch = watch
        self.data = data
        self.image_shape = images.shape[1:]
        self.geometry = settings.geometry(self.image_shape)
        order = self._random(_SPLIT).permutation(len(images))[: settings.images]
        train, validation, new = np.split(
            order, [settings.train_size, settings.train_size + settings.val_size]
        )
        self.train = self._prepare(images, train)
        self.validation = self._prepare(images, validation)
        self.new = self._prepare(images, new) if len(new) else self.validation
        rng = self._random(_WEIGHTS)
        self.initial = {
            "first": he_uniform(settings.first_shape(self.image_shape), rng, settings.dtype),
            "dense": he_uniform(settings.dense_shape(self.image_shape), rng, settings.dtype),
        }
        self.runs = {name: self._begin(name) for name in settings.optimizers}

    @property
    def batches(self) -> int:
        """Steps of an epoch; the last may have fewer images."""
        return self.settings.batches

    @property
    def steps_left(self) -> int:
        """Steps until every run has its epochs."""
        total = self.settings.epochs * self.batches
        return sum(max(total - run.epoch * self.batches - run.batch, 0) for run in self.runs.values())

    @property
    def digest(self) -> int:
        """A checksum of the images, in their order: a run goes on with the same."""
        checksum = 0
        for images in (self.train, self.validation, self.new):
            checksum = zlib.crc32(images.pixels.data, checksum)
        return checksum

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, *purpose])

    def _prepare(self, images: NDArray[Any], which: NDArray[np.intp]) -> Images:
        """Some of the images, a block at a time."""
        g = self.geometry.for_batch(len(which))
        pixels = np.empty(g.input_shape, self.settings.dtype)
        x_col = np.empty((g.batch, g.patches, g.terms), self.settings.dtype)
        step = max(_BLOCK_BYTES // max(x_col[:1].nbytes, pixels[:1].nbytes), 1)
        for start in self.watch(range(0, len(which), step), -(-len(which) // step)):
            block = slice(start, start + step)
            pixels[block] = unit_range(images[which[block]], self.settings.dtype)
            out = x_col[block].reshape(-1, g.terms)
            unroll(pixels[block], g.kernel_size, g.stride, g.pads, out=out)
        return Images(pixels, x_col)

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
        """Train until every run has its epochs; the run that is on, after each step of both networks.

        Between two steps all is well, and where `watch` ends an evaluation: the experiment may be left,
        saved, and gone on with to the same bits.

        Raises:
            SettingError: the learning rate is too large, so that a loss or a weight is no number.
        """
        for run in self.runs.values():
            if not run.history:
                losses = [
                    self.loss(run, name, on) for name in NETWORKS for on in (self.train, self.validation)
                ]
                run.history.append(Epoch(0, *losses))
            while run.epoch < self.settings.epochs:
                if run.batch < self.batches:
                    self._step(run)
                if run.batch == self.batches:
                    self._end_epoch(run)
                yield run

    @np.errstate(all="ignore")
    def _step(self, run: Run) -> None:
        order = self._random(_BATCHES, run.epoch).permutation(self.settings.train_size)
        which = order[run.batch * self.settings.batch_size :][: self.settings.batch_size]
        target = self.train.target[which]
        sums = dict(run.sums)
        for name, network in run.networks.items():
            network.forward(self.train.inputs(name, which))
            sums[name] += network.backward(target) * len(which)
        self._check_finite(run, "loss", sums.values())
        for name, network in run.networks.items():
            run.updates[name].step([layer.gradient for layer in network.layers.values()])
        if self.settings.probe_divergence:
            step = run.epoch * self.batches + run.batch + 1
            rows = list(measure(step, run.networks, run.updates))
            self._check_finite(run, "weights", (value for row in rows for value in row[2:]))
            run.divergence += rows
        run.batch, run.sums = run.batch + 1, sums

    def _check_finite(self, run: Run, what: str, values: Iterable[float]) -> None:
        """Raise SettingError where training has come to numbers that are none."""
        if not all(map(math.isfinite, values)):
            raise self._diverged(run, what)

    def _diverged(self, run: Run, what: str) -> SettingError:
        step = min(run.batch + 1, self.batches)
        return SettingError(
            "lr",
            f"{self.settings.learning_rate(run.optimizer)} makes the {what} of {run.optimizer} grow "
            f"beyond all numbers in epoch {run.epoch + 1}, step {step}; give a smaller one",
        )

    def _end_epoch(self, run: Run) -> None:
        losses = []
        for name in NETWORKS:
            losses += [run.sums[name] / self.settings.train_size, self.loss(run, name, self.validation)]
        self._check_finite(run, "loss", losses)
        self._check_weights(run)
        run.history.append(Epoch(run.epoch + 1, *losses))
        run.epoch, run.batch, run.sums = run.epoch + 1, 0, dict.fromkeys(NETWORKS, 0.0)

    def _check_weights(self, run: Run) -> None:
        """Raise SettingError unless all that a run holds is as its record may be."""
        kinds = array_kinds(self.settings, self.image_shape)
        try:
            for key, values in self._arrays(run).items():
                kinds[key].check(values, key)
        except Mismatch:
            raise self._diverged(run, "weights") from None

    def _in_blocks(self, images: Images) -> Iterator[slice]:
        step = min(self.settings.batch_size, EVALUATED)
        for start in self.watch(range(0, len(images.pixels), step), -(-len(images.pixels) // step)):
            yield slice(start, start + step)

    def outputs(self, run: Run, name: str, images: Images) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """A network's outputs and their targets, (n, H·W·C), some images at a time."""
        for which in self._in_blocks(images):
            yield run.networks[name].forward(images.inputs(name, which)), images.target[which]

    @np.errstate(all="ignore")
    def loss(self, run: Run, name: str, images: Images) -> float:
        """A network's mean squared error on some images."""
        total = sum(
            mean_squared_error(output, target)[0] * len(target)
            for output, target in self.outputs(run, name, images)
        )
        return total / len(images.pixels)

    @np.errstate(all="ignore")
    def compare(self, run: Run) -> Comparison:
        """How far the networks are apart now, and which of their outputs have died."""
        first = {name: network.first for name, network in run.networks.items()}
        apart, size = 0.0, 0.0
        for which in self._in_blocks(self.new):
            ours = [first[name].forward(self.new.inputs(name, which)) for name in NETWORKS]
            cnn, fc = (y.reshape(len(self.new.pixels[which]), -1) for y in ours)
            apart += float(np.linalg.norm(cnn - fc, axis=1).sum())
            size += float(np.linalg.norm(cnn, axis=1).sum())
        lit = np.any(self.train.target, axis=0)
        dead = {}
        for name in NETWORKS:
            alive = np.zeros(self.train.target.shape[1], np.bool_)
            for output, _ in self.outputs(run, name, self.train):
                alive |= np.any(output, axis=0)
            dead[name] = ~alive
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
        arrays = {f"initial_{layer}": weights for layer, weights in self.initial.items()}
        for run in self.runs.values():
            arrays |= self._arrays(run)
        return arrays

    def _arrays(self, run: Run) -> dict[str, NDArray[Any]]:
        arrays = {}
        for name, network in run.networks.items():
            update = run.updates[name]
            for number, (layer, part) in enumerate(network.layers.items()):
                key = f"{run.optimizer}_{name}_{layer}"
                arrays[key] = part.weights
                if isinstance(update, Adam):
                    arrays |= {f"{key}_m": update.m[number], f"{key}_v": update.v[number]}
        return arrays

    def record(self) -> dict[str, Any]:
        """Settings, and how far each run has come; with `arrays`, all that `resume` needs. JSON keeps it.

        Raises:
            SettingError: a run stands where a weight is no number.
        """
        for run in self.runs.values():
            self._check_weights(run)
        kept = ("epoch", "batch", "sums", "history", "divergence")
        record = {
            "settings": asdict(self.settings),
            "data": self.data,
            "image_shape": self.image_shape,
            "digest": self.digest,
            "runs": {name: {key: getattr(run, key) for key in kept} for name, run in self.runs.items()},
        }
        RECORD.check(record)
        return record

    def resume(self, record: dict[str, Any], array: Callable[[str], NDArray[Any]]) -> None:
        """Go on from what `record` and `arrays` told of an experiment with the same settings and images.

        `array` gives an array by its name; they are asked for one at a time.

        Raises:
            Mismatch: another record, or one that is damaged; the experiment is then of no use.
        """
        RECORD.check(record)
        settings = Settings(**record["settings"])
        if replace(settings, epochs=1) != replace(self.settings, epochs=1):
            raise Mismatch("settings", f"must be {self.settings}, got {settings}")
        if tuple(record["image_shape"]) != self.image_shape:
            raise Mismatch("image_shape", f"must be {self.image_shape}, got {shown(record['image_shape'])}")
        if record["digest"] != self.digest:
            raise Mismatch("digest", f"must be {self.digest}, got {record['digest']}")
        kinds = array_kinds(self.settings, self.image_shape)
        for key, values in self.arrays().items():
            kept = array(key)
            kinds[key].check(kept, key)
            values[...] = kept
        for name, done in record["runs"].items():
            run = self.runs[name]
            run.epoch, run.batch, run.sums = done["epoch"], done["batch"], dict(done["sums"])
            run.history = [Epoch(*row) for row in done["history"]]
            run.divergence = [Divergence(*row) for row in done["divergence"]]
            for update in run.updates.values():
                if isinstance(update, Adam):
                    update.t = run.epoch * self.batches + run.batch
