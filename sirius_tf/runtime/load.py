# SPDX-License-Identifier: Apache-2.0
"""Rewritten SavedModels on numpy or CuPy arrays, without TensorFlow.

The bundle's manifest says which inputs and tables a signature hands to its region, and what becomes
of the region's outputs. A table is a part of the checkpoint too large to be worth a copy in the
bundle: it is mapped from the file that TensorFlow reads.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sirius_tf.bundle.seal import crc32c
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.runtime.cuda import Cuda
from sirius_tf.runtime.native import Bundle, Region

MANIFEST_VERSION = 2
DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Spec:
    """The type of an input or output; None is a size, or a rank, that is not fixed."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "..." if self.shape is None else ", ".join(str(n or "?") for n in self.shape)
        return f"{self.dtype} [{sizes}]"


class Device(Protocol):
    """A place where regions run: the arrays that they take and return there."""

    def array(self, value: Any) -> Any:
        """A value of a caller as a dense array; a copy only if it has to be."""

    def upload(self, value: npt.NDArray[Any]) -> Any:
        """An array that all calls read, as an array of the device."""

    def bind(
        self, region: Region, plan_reads: Sequence[int] | None
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """A region as a function of its arrays; `plan_reads` is what the manifest says of it."""


class Cpu:
    """The CPU: numpy arrays, and at most `threads` workers a call (0: all there are)."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def array(self, value: Any) -> Any:
        """See Device."""
        return np.asarray(value, order="C")

    def upload(self, value: npt.NDArray[Any]) -> Any:
        """See Device."""
        return value

    def bind(
        self, region: Region, plan_reads: Sequence[int] | None
    ) -> Callable[[Sequence[Any]], list[Any]]:
        """See Device."""
        return functools.partial(region.run, threads=self._threads)


class Signature:
    """A signature as a function of keyword arrays. It may be called from several threads."""

    def __init__(
        self, name: str, entry: Mapping[str, Any], bundle: Bundle, folder: Path, device: Device
    ) -> None:
        self.name = name
        self.inputs: Mapping[str, Spec] = _specs(entry["inputs"])
        self.outputs: Mapping[str, Spec] = _specs(entry["outputs"])
        self.reason: str | None = None if entry["region"] else entry["reason"]
        if self.reason is not None:
            return
        region = bundle.regions[entry["region"]]
        reads = bundle.manifest.get("cuda", {}).get("plan_reads", {})
        self._array = device.array
        self._run = device.bind(region, reads.get(region.name))
        place = {key: i for i, key in enumerate(self.inputs)}
        self._tables: list[Any] = []
        self._order: list[int] = []  # of the region's arguments among inputs, then tables
        for argument in entry["arguments"]:
            if "input" in argument:
                self._order.append(place[argument["input"]])
            else:
                self._order.append(len(place) + len(self._tables))
                self._tables.append(device.upload(_table(folder, argument["table"])))
        n_out = len(region.output_ranks)
        self._results = [  # of the signature's outputs among the region's outputs, then inputs
            (key, result["output"] if "output" in result else n_out + place[result["input"]])
            for key, result in entry["results"].items()
        ]
        self._expected = _expected(self.inputs, self._order, region)

    def __call__(self, /, **arrays: Any) -> dict[str, Any]:
        """Run on arrays by input name; returns the outputs by name, arrays of the device.

        Arrays are copied only if they are not dense, or not on the device. Raises InvalidArgument,
        a ValueError, if they do not fit, and SiriusError if this signature needs TensorFlow.
        """
        if self.reason is not None:
            raise SiriusError(f"signature {self.name} needs TensorFlow: {self.reason}")
        if arrays.keys() != self.inputs.keys():
            raise InvalidArgument(self._wrong_names(arrays))
        inputs = []
        for name, dtype, rank in self._expected:
            array = self._array(arrays[name])
            if dtype is not None and (array.dtype != dtype or array.ndim != rank):
                raise InvalidArgument(self._wrong_input(name, array))
            inputs.append(array)
        pool = [*inputs, *self._tables]
        try:
            outputs = self._run([pool[i] for i in self._order])
        except InvalidArgument as error:
            raise InvalidArgument(self._refused(error)) from error
        pool = [*outputs, *inputs]
        return {key: pool[i] for key, i in self._results}

    def _refused(self, error: InvalidArgument) -> str:
        """The words of a region, which knows no keys and has the sizes of samples, and what the
        signature takes."""
        takes = ", ".join(f"{key}: {spec}" for key, spec in self.inputs.items())
        return f"signature {self.name}({takes}): {error}"

    def _wrong_names(self, arrays: Mapping[str, object]) -> str:
        parts = [
            f"{what} {', '.join(sorted(names))}"
            for what, names in (
                ("missing", self.inputs.keys() - arrays.keys()),
                ("unexpected", arrays.keys() - self.inputs.keys()),
            )
            if names
        ]
        return f"signature {self.name}: {'; '.join(parts)}"

    def _wrong_input(self, name: str, array: Any) -> str:
        given = Spec(str(array.dtype), array.shape)
        return f"signature {self.name}: input {name} must be {self.inputs[name]}, got {given}"


class Model:
    """A rewritten SavedModel whose regions are run without TensorFlow."""

    def __init__(self, bundle: Bundle, folder: Path, device: Device) -> None:
        manifest = bundle.manifest
        if manifest.get("sirius") != MANIFEST_VERSION:
            raise SiriusError(f"{bundle.path}: not the bundle of a model, or of another version")
        self.bundle = bundle
        self.signatures: Mapping[str, Signature] = MappingProxyType(
            {
                name: Signature(name, entry, bundle, folder, device)
                for name, entry in manifest["signatures"].items()
            }
        )
        only = next(iter(self.signatures)) if len(self.signatures) == 1 else None
        self._default = self.signatures.get(DEFAULT_SIGNATURE if only is None else only)

    def __call__(self, /, **arrays: Any) -> dict[str, Any]:
        """Call the default signature: serving_default, or the only one."""
        if self._default is None:
            names = ", ".join(sorted(self.signatures))
            raise SiriusError(
                f"{self.bundle.path}: no default among the signatures: {names}; call one of "
                "model.signatures"
            )
        return self._default(**arrays)


def load(path: str | os.PathLike[str], threads: int = 0, device: str = "cpu") -> Model:
    """Load a rewritten SavedModel, or the bundle of one, to run it without TensorFlow.

    On "cpu" a call takes at most `threads` workers (0: all that the process may use). On "cuda",
    which needs CuPy and a bundle made with Options(target="cuda"), the model is on what is CuPy's
    current device now. A call runs on CuPy's current stream, takes arrays of numpy or CuPy, and
    returns CuPy's. SiriusError if the device cannot be used.
    """
    if device not in ("cpu", "cuda"):
        raise SiriusError(f"device must be 'cpu' or 'cuda', got {device!r}")
    where = Cuda() if device == "cuda" else Cpu(threads)
    path = Path(path)
    file = _bundle(path) if path.is_dir() else path
    folder = file.absolute().parent.parent
    bundle = Bundle(file)
    if file.absolute().parent.name == "assets":
        _check_graph(folder / "saved_model.pb", bundle)
    try:
        return Model(bundle, folder, where)
    except SiriusError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SiriusError(
            f"{file}: its manifest is not one of this version ({reason}); convert the model again"
        ) from error


def _bundle(folder: Path) -> Path:
    """The bundle of a rewritten SavedModel."""
    bundles = sorted(folder.glob("assets/*.sirius.so"))
    if len(bundles) != 1:
        found = "no bundle" if not bundles else f"{len(bundles)} bundles"
        raise SiriusError(f"{folder}: {found} in assets/; sirius_tf.optimize writes one")
    return bundles[0]


def _check_graph(saved_model: Path, bundle: Bundle) -> None:
    """SiriusError if there is a SavedModel, and a region of the bundle is not one of its ops.

    An op has the digest of its region as text: what it computes need not be known to find that.
    """
    if not saved_model.exists():
        return
    with saved_model.open("rb") as file:
        size = saved_model.stat().st_size
        data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        for region in bundle.regions.values():
            if data.find(region.digest.encode()) < 0:
                raise SiriusError(
                    f"{bundle.path}: region {region.name} was compiled from another graph than "
                    f"{saved_model} has: restore the file that was replaced, or convert again"
                )


def _specs(entries: Mapping[str, Any]) -> Mapping[str, Spec]:
    return MappingProxyType(
        {
            key: Spec(entry["dtype"], None if entry["shape"] is None else tuple(entry["shape"]))
            for key, entry in entries.items()
        }
    )


def _expected(
    inputs: Mapping[str, Spec], order: list[int], region: Region
) -> list[tuple[str, np.dtype[Any] | None, int | None]]:
    """Name, dtype and rank of each input, as the region takes it; None is whatever comes."""
    taken = dict(zip(order, zip(region.input_dtypes, region.input_ranks, strict=True), strict=True))
    return [(name, *taken.get(i, (None, None))) for i, name in enumerate(inputs)]


def _table(folder: Path, table: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Map a tensor of the checkpoint, which must be as it was written."""
    file, shape = folder / table["file"], tuple(table["shape"])
    try:
        mapped = np.memmap(file, numpy_dtype(table["dtype"]), "r", table["offset"], shape)
    except (OSError, ValueError) as error:
        raise SiriusError(f"cannot map the table {table['key']} from {file}: {error}") from error
    if crc32c(mapped.view(np.uint8).data) != table["crc32c"]:
        raise SiriusError(
            f"{file} is damaged: the table {table['key']} has another checksum than when it was "
            "saved; restore the file, or convert the model again"
        )
    return mapped.view(np.ndarray)  # a memmap's methods are slower
