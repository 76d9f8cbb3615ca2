"""Trains a linear classifier on scikit-learn's handwritten digits, as a LoomOS job.

Each epoch shows the model freshly shifted and noised copies of the training images. The random
numbers of an epoch depend on the seed and the epoch alone, and a checkpoint holds all that the
next epoch reads: a run that was stopped and resumed ends with the same bytes as one that was not.

By hand, without LoomOS: python train_digits.py --epochs 3 --out /some/folder
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, precision_score, recall_score
from threadpoolctl import threadpool_limits

CHECKPOINTED = 75
HELD_OUT = 360
SHIFT_PROBABILITY = 0.1
NOISE = 1.5
NAMES = ("coef", "intercept", "classes", "mean", "scale", "steps", "epoch")


class Reports:
    """The line to the node's agent; outside of LoomOS it leads nowhere."""

    def __init__(self, path):
        self.socket = None
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(path)

    def say(self, **fields):
        """Sends one report; a lost listener does not stop the training."""
        if self.socket:
            try:
                self.socket.sendall(json.dumps(fields).encode() + b"\n")
            except OSError:
                self.socket = None


class Digits:
    """The data set, split once and for all."""

    def __init__(self, seed):
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        images, labels = images[order], labels[order]
        self.digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        self.test, self.test_labels = images[:HELD_OUT], labels[:HELD_OUT]
        self.images, self.labels = images[HELD_OUT:], labels[HELD_OUT:]
        self.mean = self.images.mean(axis=0)
        self.scale = self.images.std(axis=0) + 1.0

    def copies(self, random):
        """The training images, some shifted by a pixel, all with noise, normalised."""
        pictures = self.images.reshape(-1, 8, 8).copy()
        for axis in (1, 2):
            for step in (-1, 1):
                chosen = random.random(len(pictures)) < SHIFT_PROBABILITY
                pictures[chosen] = np.roll(pictures[chosen], step, axis=axis)
        noisy = pictures.reshape(-1, 64) + random.normal(0.0, NOISE, (len(pictures), 64))
        return (np.clip(noisy, 0.0, 16.0) - self.mean) / self.scale


class Training:
    """A model in the making, with everything that the next epoch reads."""

    def __init__(self, data, seed, rounds):
        self.data, self.seed, self.rounds, self.epoch = data, seed, rounds, 0
        self.model = SGDClassifier(
            loss="log_loss", alpha=1e-4, learning_rate="invscaling", eta0=0.02, power_t=0.25
        )
        self.classes = np.unique(data.labels)
        self._fit(np.zeros((1, 64)), self.classes[:1], 0)
        self.model.coef_[:] = 0.0
        self.model.intercept_[:] = 0.0
        self.model.t_ = 1.0

    def run_epoch(self):
        """One epoch; its randomness comes from the seed and its number."""
        random = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.rounds):
            self._fit(self.data.copies(random), self.data.labels, int(random.integers(2**31)))
        self.epoch += 1

    def _fit(self, images, labels, shuffle):
        self.model.random_state = shuffle
        self.model.partial_fit(images, labels, classes=self.classes)

    def measure(self):
        """Metrics on the images that were held out."""
        guessed = self.model.predict((self.data.test - self.data.mean) / self.data.scale)
        known = self.data.test_labels
        return {
            "accuracy": float(accuracy_score(known, guessed)),
            "precision": float(precision_score(known, guessed, average="macro")),
            "recall": float(recall_score(known, guessed, average="macro")),
        }

    def save(self, path):
        """Writes the model and what it takes to go on; the same state gives the same bytes."""
        values = (
            self.model.coef_,
            self.model.intercept_,
            self.classes,
            self.data.mean,
            self.data.scale,
            np.array(self.model.t_),
            np.array(self.epoch),
        )
        with path.open("wb") as file:
            np.savez(file, **dict(zip(NAMES, values, strict=True)))
            file.flush()
            os.fsync(file.fileno())

    def load(self, path):
        """Goes back to a saved state."""
        with np.load(path, allow_pickle=False) as saved:
            self.model.coef_[:] = saved["coef"]
            self.model.intercept_[:] = saved["intercept"]
            self.model.t_ = float(saved["steps"])
            self.epoch = int(saved["epoch"])

    def checkpoint(self, folder):
        """A complete checkpoint: renamed into place when its bytes are on disk."""
        name = f"epoch-{self.epoch:04d}"
        scratch = folder / f".{name}"
        scratch.mkdir(parents=True, exist_ok=True)
        self.save(scratch / "model.npz")
        if not (folder / name).exists():
            scratch.rename(folder / name)
        return name


def arguments():
    """The command line; the folders default to those of the job contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=60, help="passes over the data in an epoch")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", default=os.environ.get("LOOMOS_OUTPUT_DIR", "."))
    return parser.parse_args()


def main():
    """Trains to the end, or checkpoints and leaves with 75 when asked to."""
    given = arguments()
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    reports = Reports(os.environ.get("LOOMOS_REPORT"))
    out = Path(given.out)
    folder = Path(os.environ.get("LOOMOS_CHECKPOINT_DIR", out / "checkpoints"))
    data = Digits(given.seed)
    training = Training(data, given.seed, given.rounds)
    resume = os.environ.get("LOOMOS_RESUME_DIR")
    if resume:
        training.load(Path(resume) / "model.npz")
        print(f"resumed after epoch {training.epoch}")
    while training.epoch < given.epochs:
        training.run_epoch()
        metrics = training.measure()
        epoch, share = training.epoch, training.epoch / given.epochs
        print(f"epoch {epoch}/{given.epochs} accuracy {metrics['accuracy']:.4f}")
        for name, value in metrics.items():
            reports.say(type="metric", name=name, value=value, epoch=epoch, step=epoch)
        reports.say(type="progress", epoch=epoch, step=epoch, share=share)
        name = training.checkpoint(folder)
        reports.say(type="checkpoint", name=name, epoch=epoch, step=epoch)
        if stop and epoch < given.epochs:
            print(f"asked to stop: checkpoint {name} is complete")
            sys.exit(CHECKPOINTED)
    out.mkdir(parents=True, exist_ok=True)
    training.save(out / "model.npz")
    summary = {"dataset_sha256": data.digest, "epochs": given.epochs, **training.measure()}
    (out / "metrics.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    print(json.dumps(summary, sort_keys=True))


if __name__ == "__main__":
    # One thread: a sum that is split in another way rounds in another way.
    with threadpool_limits(limits=1):
        main()
