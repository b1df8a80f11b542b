# SPDX-License-Identifier: Apache-2.0
"""Strongly connected components (Tarjan 1972)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def strongly_connected(sources: Sequence[Sequence[int]]) -> list[list[int]]:
    """Tarjan's algorithm, iterative: components of the graph, each after those it points to."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    result: list[list[int]] = []
    for root in range(len(sources)):
        if root in number:
            continue
        work = [(root, 0)]
        while work:
            node, position = work.pop()
            if position == 0:
                number[node] = low[node] = len(number)
                stack.append(node)
                on_stack.add(node)
            else:
                low[node] = min(low[node], low[sources[node][position - 1]])
            while position < len(sources[node]):
                child = sources[node][position]
                position += 1
                if child not in number:
                    work += [(node, position), (child, 0)]
                    break
                if child in on_stack:
                    low[node] = min(low[node], number[child])
            else:
                if low[node] == number[node]:
                    cut = stack.index(node)
                    result.append(sorted(stack[cut:]))
                    on_stack.difference_update(stack[cut:])
                    del stack[cut:]
    return result


def components(
    nodes: Sequence[str], edges: Iterable[tuple[str, str]]
) -> tuple[tuple[str, ...], ...]:
    """Strongly connected components in topological order; members keep the order of `nodes`.

    Loop distribution: statements of different components may leave a common loop.
    """
    names = nodes[::-1]
    number = {name: k for k, name in enumerate(names)}
    successors: list[list[int]] = [[] for _ in names]
    for a, b in edges:
        successors[number[a]].append(number[b])
    found = strongly_connected(successors)
    return tuple(tuple(names[k] for k in reversed(group)) for group in reversed(found))
