# SPDX-License-Identifier: Apache-2.0
"""Runs of a signature on samples, until it runs on some."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.frontend.savedmodel import Tensor
from sirius_tf.ir.program import Program
from sirius_tf.lower.graph import lower
from sirius_tf.rewrite import made_up
from sirius_tf.rewrite.made_up import Recipe
from sirius_tf.rewrite.nodedef import tensor_name
from sirius_tf.rewrite.regions import Region
from sirius_tf.rewrite.samples import Array, Choice
from sirius_tf.rewrite.session import Session

Read = Mapping[Edge, Array]


@dataclass(frozen=True, eq=False)
class Trial:
    """The inputs of a signature, its graph without values of constants, the samples there are for
    it, and the edges whose values are asked for. It `must_run` on those that were given for it."""

    inputs: Mapping[str, Tensor]
    graph: Graph
    choice: Choice
    edges: Sequence[Edge]
    start: Callable[[], Session]
    must_run: bool = True

    @property
    def given(self) -> Sequence[Mapping[str, Array]]:
        """The samples that are not made up."""
        return self.choice.others if self.choice.given is None else (self.choice.given,)

    def arrays(self, samples: Recipe | int) -> Mapping[str, Array]:
        """The samples of a recipe, or the given ones of this number."""
        if isinstance(samples, int):
            return self.given[samples]
        return samples.arrays(self.inputs)

    def first(self, graph: Graph, regions: Sequence[Region]) -> tuple[Recipe | int, Read] | str:
        """The first samples that the signature runs on, and the values; or why it does not run on
        the first ones. SiriusError if it does not run on those that it must run on.

        Its graph and regions, with the values of constants, tell what samples may have to be.
        """
        problem = ""
        with self.start() as session:
            for samples in self._tries(graph, regions):
                try:
                    return samples, self._run(session, samples)
                except SiriusError as error:
                    if self.choice.given is not None and self.must_run:
                        raise
                    problem = problem or " ".join(str(error).split())
        return problem

    def read(self, samples: Recipe | int) -> Read:
        """The values on these samples."""
        with self.start() as session:
            return self._run(session, samples)

    def _run(self, session: Session, samples: Recipe | int) -> Read:
        feeds = {self.inputs[k].name: x for k, x in self.arrays(samples).items()}
        outputs = [edge for _, edge in self.graph.outputs]  # all of it must run
        values = session.values(feeds, [*self.edges, *outputs])
        return {edge: values[edge] for edge in self.edges}

    def _tries(self, graph: Graph, regions: Sequence[Region]) -> Iterator[Recipe | int]:
        yield from range(len(self.given))
        if self.choice.given is None:
            programs = functools.partial(self._programs, regions)
            yield from made_up.recipes(self.inputs, graph, programs)

    def _programs(self, regions: Sequence[Region]) -> list[tuple[Program, list[str | None]]]:
        """The program of each region, and the inputs of the signature that are its inputs."""
        keys = {tensor.name: key for key, tensor in self.inputs.items()}
        found = []
        for region in regions:
            with contextlib.suppress(Exception):  # only tells what samples have to be
                inputs = [keys.get(tensor_name(e, self.graph)) for e in region.inputs]
                found.append((lower(region.graph), inputs))
        return found
