# SPDX-License-Identifier: Apache-2.0
"""The exceptions of sirius_tf. All derive from SiriusError."""

from __future__ import annotations


class SiriusError(Exception):
    """Base of every exception that sirius_tf raises on purpose."""


class Unsupported(SiriusError):  # noqa: N818
    """The compiler cannot translate a node of the graph."""

    def __init__(self, node: str, op: str, reason: str) -> None:
        super().__init__(f"{node} ({op}): {reason}" if node else f"{op}: {reason}")
        self.node = node
        self.op = op
        self.reason = reason

    def __reduce__(self) -> tuple[type[Unsupported], tuple[str, str, str]]:
        return (type(self), (self.node, self.op, self.reason))


def defect(error: Exception) -> str:
    """The reason why nodes stay on TensorFlow where the compiler fails in a way nobody foresaw:
    nobody's model should need a compiler without defects."""
    return f"the compiler failed: {type(error).__name__}: {error}"


class VerifyError(SiriusError):
    """A Program, schedule or loop nest breaks an invariant: a bug of the compiler."""


class DifferenceError(SiriusError):
    """The results of compiled code are not those of the original."""


class InvalidArgument(SiriusError, ValueError):  # noqa: N818
    """The inputs of a call are invalid; inside TensorFlow this is an InvalidArgumentError."""


class DeadlineExceeded(SiriusError, TimeoutError):  # noqa: N818
    """A call took longer than it may; inside TensorFlow this is a DeadlineExceededError."""


class Cancelled(SiriusError):  # noqa: N818
    """A call was cancelled; inside TensorFlow this is a CancelledError."""
