"""Serves linear classifiers of scikit-learn from plain arrays; scikit-learn itself is not needed.

`model.npz` holds `coef` (classes × features; one row where there are two classes), `intercept`,
`classes` (whole numbers) and, where the inputs were scaled, `mean` and `scale`.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from loomos.runtime.plugins import BadModel, TensorSpec

__all__ = ["LinearClassifier", "load"]

FILE = "model.npz"
ARRAYS_MAX = 16
ARRAY_BYTES_MAX = 256 * 1024 * 1024
BATCH_ROWS_MAX = 4096


class LinearClassifier:
    """Scores are `(x - mean) / scale · coefᵀ + intercept`; the label has the highest score."""

    platform = "sklearn_linear"
    batch_rows_max = BATCH_ROWS_MAX

    def __init__(
        self,
        coef: np.ndarray,
        intercept: np.ndarray,
        classes: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
    ) -> None:
        self.weights = (coef / scale).T
        self.bias = intercept - self.weights.T @ mean
        self.classes = classes
        features, scores = coef.shape[1], len(classes)
        self.inputs = (TensorSpec("input", "FP32", (-1, features)),)
        self.outputs = (
            TensorSpec("label", "INT64", (-1,)),
            TensorSpec("scores", "FP32", (-1, scores)),
        )

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The label of each row and the score of each class."""
        scores = inputs["input"].astype(np.float64) @ self.weights + self.bias
        if scores.shape[1] == 1:
            scores = np.hstack([-scores, scores])
        return {
            "label": self.classes[np.argmax(scores, axis=1)],
            "scores": scores.astype(np.float32),
        }


def load(files: Mapping[str, IO[bytes]]) -> LinearClassifier:
    """The classifier in `model.npz`; raises BadModel."""
    if FILE not in files:
        raise BadModel(f"{FILE} is missing: the artifact has {sorted(files)}")
    arrays = read(files[FILE])
    missing = {"coef", "intercept", "classes"} - arrays.keys()
    if missing:
        raise BadModel(f"{FILE} lacks {sorted(missing)}: it has {sorted(arrays)}")
    coef, classes = real(arrays, "coef"), arrays["classes"]
    if coef.ndim != 2 or 0 in coef.shape:
        raise BadModel(f"coef has shape {coef.shape}: want classes × features")
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or len(classes) < 2:
        raise BadModel(f"classes is {classes.dtype}{classes.shape}: want two or more whole numbers")
    rows = 1 if len(classes) == 2 and coef.shape[0] == 1 else len(classes)
    features = coef.shape[1]
    mean = real(arrays, "mean") if "mean" in arrays else np.zeros(features)
    scale = real(arrays, "scale") if "scale" in arrays else np.ones(features)
    intercept = real(arrays, "intercept")
    wanted = {"coef": (coef, (rows, features)), "intercept": (intercept, (rows,))}
    wanted |= {"mean": (mean, (features,)), "scale": (scale, (features,))}
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise BadModel(f"{name} has shape {array.shape}: want {shape}")
    if not scale.all():
        raise BadModel("scale has a zero: want the scaler's own scale_, which has none")
    return LinearClassifier(coef, intercept, classes.astype(np.int64), mean, scale)


def read(file: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of an npz file; sizes are checked before anything is unpacked."""
    data = io.BytesIO(file.read())
    try:
        with zipfile.ZipFile(data) as archive:
            entries = archive.infolist()
        if len(entries) > ARRAYS_MAX or sum(one.file_size for one in entries) > ARRAY_BYTES_MAX:
            raise BadModel(
                f"{FILE} unpacks to more than {ARRAYS_MAX} arrays or {ARRAY_BYTES_MAX} bytes"
            )
        with np.load(data, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except BadModel:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadModel(f"{FILE} is no npz file of plain arrays: {error}") from error


def real(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An array of finite real numbers, as FP64."""
    array = arrays[name]
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise BadModel(f"{name} is {array.dtype}: want finite real numbers")
    return array.astype(np.float64)
