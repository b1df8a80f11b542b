# SPDX-License-Identifier: Apache-2.0
"""The report on a conversion: every node is in a region or on TensorFlow for a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Accuracy:
    """The greatest relative error of a result against float64, of a region and of the ops that it
    replaces; None, and why, where there is none."""

    sirius: float | None = None
    tensorflow: float | None = None
    because: str = ""


@dataclass(frozen=True)
class RegionReport:
    """A region, its nodes (constants aside), and its time against that of what it stands for.

    What TensorFlow takes to start a call is in neither time. `cuda_launch` is how its phases follow
    each other on a GPU, "persistent" or "graph"; "" if there is no code for one, or "none: " and
    why, if there should be. Calls that it `may_refuse` are answered by the original ops.
    """

    name: str
    signature: str
    nodes: int
    tf_ms: float
    sirius_ms: float
    kept: bool
    cuda_launch: str = ""
    accuracy: Accuracy = Accuracy()
    may_refuse: bool = False


@dataclass(frozen=True)
class LeftNode:
    """A node that stays on TensorFlow."""

    signature: str
    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class SignatureReport:
    """A signature: `compiled` of its `ops` are in regions; times are of a call of all of it.

    `constants` are the variables whose values are part of the code, whatever is assigned to them.
    `tf_share_before` and `tf_share_after` are the parts of such a call that TensorFlow's ops take;
    `max_error` is the greatest relative error of an output. Outputs that are `random` differ from
    call to call: no value of theirs was compared.
    """

    name: str
    ops: int
    compiled: int
    left: tuple[LeftNode, ...]
    regions: tuple[RegionReport, ...]
    tf_ms: float
    sirius_ms: float
    tf_share_before: float
    tf_share_after: float
    max_error: float
    random: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished conversion; `bundle` is None if nothing was compiled.

    `cuda_state` is what its manifest says of the code for GPUs: that it was emulated only, or where
    it was checked; "" if there is none. `strict_because` says how results differed, if that made
    the conversion start again with `strict_math`, and `strict_blame` names the pass that made them
    differ; "" if not. `skipped` are signatures that are as they were, with the reasons.
    """

    output_dir: Path
    bundle: Path | None
    signatures: tuple[SignatureReport, ...]
    seconds: float
    output_bytes: int
    bundle_bytes: int
    cuda_state: str = ""
    strict_because: str = ""
    strict_blame: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
