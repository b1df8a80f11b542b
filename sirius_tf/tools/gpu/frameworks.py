# SPDX-License-Identifier: Apache-2.0
"""Frameworks for the models of peers.py: PyTorch and JAX behind the same names, and cells on these.

Recurrent layers are PyTorch's own there (cuDNN's on a GPU), and scans in JAX. All compute in
float32, without TF32 unless that is the precision (config.py); "half" is float16 throughout.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Run = Callable[[], object]
Model = Callable[..., Any]

#: The most steps of a loop that torch.compile is given: it unrolls them.
MOST_UNROLLED = 100
TORCH = ("PyTorch", "PyTorch graph", "torch.compile")
JAX = ("JAX",)
FRAMEWORKS = {"torch": TORCH, "jax": JAX}


class Torch:
    """PyTorch on one device."""

    def __init__(self, device: str, precision: str = "strict") -> None:
        self.torch = t = importlib.import_module("torch")
        self.device, self.steps, self.decides = device, 0, False
        t.set_default_dtype(t.float16 if precision == "half" else t.float32)
        t.backends.cudnn.allow_tf32 = t.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self.tanh, self.sigmoid, self.relu = t.tanh, t.sigmoid, t.relu
        self.where, self.einsum, self.stack = t.where, t.einsum, t.stack
        self.concat, self.gelu = t.cat, t.nn.functional.gelu

    def array(self, value: np.ndarray[Any, Any]) -> Any:
        """On the device; indices are int64 there."""
        wide = value.astype(np.int64) if value.dtype == np.int32 else value
        made = self.torch.from_numpy(np.ascontiguousarray(wide)).to(self.device)
        return self.real(made) if value.dtype == np.float32 else made

    def real(self, x: Any) -> Any:
        """The array in the type of the precision."""
        return x.to(self.torch.get_default_dtype())

    def softmax(self, x: Any, axis: int = -1) -> Any:
        """Along an axis."""
        return self.torch.softmax(x, axis)

    def arange(self, n: int) -> Any:
        """Integers below n."""
        return self.torch.arange(n, device=self.device)

    def zeros(self, *shape: int) -> Any:
        """An array of zeros, of a shape."""
        return self.torch.zeros(shape, device=self.device)

    def split(self, x: Any, n: int) -> Any:
        """N equal parts of the last axis."""
        return self.torch.chunk(x, n, -1)

    def argmax(self, x: Any) -> Any:
        """Along the last axis."""
        return self.torch.argmax(x, -1)

    def update(self, x: Any, row: Any, value: Any) -> Any:
        """Another row of x, in place."""
        x[row] = value
        return x

    def recurrent(self, kind: str, width: int, inputs: int) -> Callable[[Any], Any]:
        """A layer "LSTM" or "GRU" on [time, batch, inputs]: all of its states."""
        layer = getattr(self.torch.nn, kind)(inputs, width).to(self.device)
        return lambda x: layer(x)[0]

    def loop(self, steps: int, body: Model, state: Any) -> Any:
        """`state = body(t, *state)` for every t."""
        self.steps = max(self.steps, steps)
        for t in range(steps):
            state = body(t, *state)
        return state

    def loop_while(self, most: int, going: Model, body: Model, state: Any) -> Any:
        """The same while `going(*state)`, which waits for the device."""
        self.steps, self.decides = max(self.steps, most), True
        for t in range(most):
            if not bool(going(*state)):
                break
            state = body(t, *state)
        return state

    def runs(self, model: Model, arrays: Sequence[Any]) -> dict[str, Run | str]:
        """Eager, captured and compiled; or why not."""
        torch = self.torch
        wait = torch.cuda.synchronize if self.device == "cuda" else lambda: None

        def complete(function: Callable[[], object]) -> Run:
            def run() -> None:
                with torch.no_grad():
                    function()
                wait()

            return run

        eager, captured, compiled = TORCH
        found: dict[str, Run | str] = {eager: complete(lambda: model(*arrays))}
        self._try(found, eager)
        if self.decides:
            found[captured] = "the host decides when a loop ends"
        else:
            self._try(found, captured, lambda: complete(self._captured(model, arrays).replay))
        if self.steps > MOST_UNROLLED:
            found[compiled] = f"a loop of {self.steps} steps is unrolled"
        else:
            self._try(found, compiled, lambda: complete(self._compiled(model, arrays)))
        return found

    def _compiled(self, model: Model, arrays: Sequence[Any]) -> Callable[[], object]:
        """With CUDA graphs, where there is a GPU."""
        fast = self.torch.compile(model, mode="reduce-overhead")
        return lambda: fast(*arrays)

    def _captured(self, model: Model, arrays: Sequence[Any]) -> Any:
        """https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs."""
        torch = self.torch
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(side):
            model(*arrays)
        side.synchronize()
        with torch.no_grad(), torch.cuda.graph(graph):
            model(*arrays)
        return graph

    @staticmethod
    def _try(found: dict[str, Run | str], name: str, make: Callable[[], Run] | None = None) -> None:
        """Call it once; a failure is the reason that it is not run."""
        try:
            run = make() if make else found[name]
            assert callable(run)
            run()
            found[name] = run
        except Exception as error:
            found[name] = reason(error)


class Jax:
    """JAX, compiled by XLA, on its default device."""

    def __init__(self, device: str, precision: str = "strict") -> None:
        # or it takes three quarters of the memory, which the others need, too
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self.jax = jax = importlib.import_module("jax")
        if device == "cuda" and jax.default_backend() != "gpu":
            raise ImportError("JAX sees no GPU")
        exact = "tensorfloat32" if precision == "tf32" else "highest"
        jax.config.update("jax_default_matmul_precision", exact)
        self.np = jnp = importlib.import_module("jax.numpy")
        self.dtype = jnp.float16 if precision == "half" else jnp.float32
        self.tanh, self.sigmoid, self.relu = jnp.tanh, jax.nn.sigmoid, jax.nn.relu
        self.where, self.einsum, self.stack = jnp.where, jnp.einsum, jnp.stack
        self.concat, self.softmax, self.arange = jnp.concatenate, jax.nn.softmax, jnp.arange

    def array(self, value: np.ndarray[Any, Any]) -> Any:
        """See Torch."""
        made = self.np.asarray(value)
        return self.real(made) if value.dtype == np.float32 else made

    def real(self, x: Any) -> Any:
        """See Torch."""
        return x.astype(self.dtype)

    def gelu(self, x: Any) -> Any:
        """See Torch."""
        return self.jax.nn.gelu(x, approximate=False)

    def zeros(self, *shape: int) -> Any:
        """See Torch."""
        return self.np.zeros(shape, self.dtype)

    def split(self, x: Any, n: int) -> Any:
        """See Torch."""
        return self.np.split(x, n, -1)

    def argmax(self, x: Any) -> Any:
        """See Torch."""
        return self.np.argmax(x, -1)

    def update(self, x: Any, row: Any, value: Any) -> Any:
        """See Torch."""
        return x.at[row].set(value)

    def recurrent(self, kind: str, width: int, inputs: int) -> Callable[[Any], Any]:
        """See Torch."""
        gates = 4 if kind == "LSTM" else 3
        w, u, b = weights(self, inputs, width, gates)
        step = lstm_step if kind == "LSTM" else gru_step

        def layer(x: Any) -> Any:
            zeros = self.zeros(x.shape[1], width)

            def body(state: Any, now: Any) -> Any:
                state = step(self, now, state, u, b)
                return state, state[0]

            return self.jax.lax.scan(body, (zeros, zeros), x @ w)[1]

        return layer

    def loop(self, steps: int, body: Model, state: Any) -> Any:
        """See Torch."""
        return self.jax.lax.fori_loop(0, steps, lambda t, s: tuple(body(t, *s)), tuple(state))

    def loop_while(self, most: int, going: Model, body: Model, state: Any) -> Any:
        """See Torch."""
        found = self.jax.lax.while_loop(
            lambda s: (s[0] < most) & going(*s[1:]),
            lambda s: (s[0] + 1, *body(s[0], *s[1:])),
            (0, *state),
        )
        return found[1:]

    def runs(self, model: Model, arrays: Sequence[Any]) -> dict[str, Run | str]:
        """Compiled; or why not."""
        function = self.jax.jit(model)

        def run() -> object:
            return self.jax.block_until_ready(function(*arrays))

        run()
        return {JAX[0]: run}


def reason(error: Exception) -> str:
    """A line that says why something is not run."""
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, ImportError) else f"{type(error).__name__}: {line}"


def matrix(f: Any, *shape: int) -> Any:
    """Normal numbers, such that products keep their size."""
    made = np.random.default_rng(0).standard_normal(shape) * shape[0] ** -0.5
    return f.array(made.astype(np.float32))


def weights(f: Any, inputs: int, width: int, gates: int) -> tuple[Any, Any, Any]:
    """The weights of the input and of the state of a recurrent cell, and its bias."""
    return (
        matrix(f, inputs, gates * width),
        matrix(f, width, gates * width),
        matrix(f, gates * width),
    )


def lstm_step(f: Any, x: Any, state: Any, u: Any, b: Any) -> Any:
    """A step from what the input contributes."""
    h, c = state
    i, g, forget, o = f.split(x + h @ u + b, 4)
    c = f.sigmoid(forget) * c + f.sigmoid(i) * f.tanh(g)
    return f.sigmoid(o) * f.tanh(c), c


def gru_step(f: Any, x: Any, state: Any, u: Any, b: Any, attention: Any = 1.0) -> Any:
    """The same; attention gates the update."""
    h = state[0]
    (a0, a1, a2), (c0, c1, c2) = f.split(x + b, 3), f.split(h @ u, 3)
    update = f.sigmoid(a0 + c0) * attention
    h = (1.0 - update) * h + update * f.tanh(a2 + f.sigmoid(a1 + c1) * c2)
    return h, h
