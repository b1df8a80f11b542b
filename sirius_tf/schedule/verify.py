# SPDX-License-Identifier: Apache-2.0
"""isl's verdict on a schedule: order, parallelism, and the flow through folded and shared storage.

Nothing here trusts the scheduler. `check_order` is about the tree alone. `check_reflow` adds where
elements are kept, and recomputes from scratch who wrote what each access reads. `check_cells`,
`check_looks` and `check_slots` are about workers, of which one may be a phase behind another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.poly.dependence import Flow
from sirius_tf.poly.isl import example, maps, sets, union_map, union_set
from sirius_tf.poly.scop import Scop
from sirius_tf.schedule.storage import at_once, time_maps
from sirius_tf.schedule.tree import Band, Filter, Node, Phase, Tile
from sirius_tf.schedule.tree import Sequence as InOrder

_NODE = isl.schedule_node_type


def check_order(scop: Scop, schedule: isl.Schedule, flows: Sequence[Flow]) -> None:
    """Every instance is scheduled, every source before its sink, and no coincident member carries
    a dependence; VerifyError with a violated pair of instances otherwise."""
    instances = union_set(scop.domains.values())
    # get_domain() counts instances that no filter of a sequence lets through, get_map() does not
    unscheduled = instances.subtract(schedule.get_map().domain())
    if not unscheduled.is_empty():
        raise VerifyError(f"the schedule never runs an instance, e.g. {unscheduled.sample()}")
    strange = schedule.get_domain().subtract(instances)
    if not strange.is_empty():
        raise VerifyError(f"the schedule runs what the program lacks, e.g. {strange.sample()}")
    _walk(schedule.get_root(), [f.relation for f in flows])


def _violated(what: str, relation: isl.Map) -> VerifyError:
    return VerifyError(f"{what}, e.g. {example(relation)}")


def _walk(node: isl.ScheduleNode, relations: list[isl.Map]) -> None:
    """Check `relations`, whose two sides have run alike through all nodes above."""
    if not relations:
        return
    kind = _NODE(node.get_type())
    if kind == _NODE.leaf:
        raise _violated("nothing orders two dependent instances", relations[0])
    if kind in (_NODE.sequence, _NODE.set):
        _walk_sequence(node, relations)
    elif kind == _NODE.band:
        _walk(node.child(0), _walk_band(node, relations))
    elif kind in (_NODE.domain, _NODE.context, _NODE.mark, _NODE.filter):
        _walk(node.child(0), relations)
    else:
        raise VerifyError(f"a schedule tree node of an unexpected kind: {kind}")


def _walk_sequence(node: isl.ScheduleNode, relations: list[isl.Map]) -> None:
    """Pairs under different children are settled by the children's order."""
    children = [node.child(k) for k in range(node.n_children())]
    below: list[list[isl.Map]] = [[] for _ in children]
    parts: dict[str, list[tuple[int, isl.Set]]] = {}
    for k, child in enumerate(children):
        for part in sets(child.filter_get_filter()):
            parts.setdefault(part.get_tuple_name(), []).append((k, part))
    for relation in relations:
        source = relation.get_tuple_name(isl.dim_type.in_)
        sink = relation.get_tuple_name(isl.dim_type.out)
        for i, from_set in parts.get(source, []):
            for j, to_set in parts.get(sink, []):
                pairs = relation.intersect_domain(from_set).intersect_range(to_set)
                if pairs.is_empty():
                    continue
                if i == j:
                    below[i].append(pairs)
                elif i > j or _NODE(node.get_type()) == _NODE.set:
                    raise _violated("a sequence runs the sink first", pairs)
    for child, inside in zip(children, below, strict=True):
        _walk(child, inside)


def _walk_band(node: isl.ScheduleNode, relations: list[isl.Map]) -> list[isl.Map]:
    """The pairs whose two sides fall into the same iteration of the band."""
    partial = {
        m.get_tuple_name(isl.dim_type.in_): m
        for m in maps(node.band_get_partial_schedule_union_map())
    }
    width = node.band_n_member()
    coincident = [bool(node.band_member_get_coincident(k)) for k in range(width)]
    rest = []
    for relation in relations:
        source = partial[relation.get_tuple_name(isl.dim_type.in_)]
        sink = partial[relation.get_tuple_name(isl.dim_type.out)]
        times = relation.apply_domain(source).apply_range(sink)
        space = times.get_space().domain()
        late = times.intersect(isl.Map.lex_gt(space))
        if not late.is_empty():
            wrong = relation.intersect(
                source.apply_range(isl.Map.lex_gt(space)).apply_range(sink.reverse())
            )
            raise _violated("a band runs the sink first", wrong)
        _check_coincident(relation, times, source, sink, coincident)
        same = relation.intersect(source.apply_range(sink.reverse()))
        if not same.is_empty():
            rest.append(same)
    return rest


def _check_coincident(
    relation: isl.Map, times: isl.Map, source: isl.Map, sink: isl.Map, coincident: list[bool]
) -> None:
    """A dependence inside one iteration of the members before m may not cross iterations of m."""
    space = times.get_space()
    equal_before = isl.Map.universe(space)
    for m, is_coincident in enumerate(coincident):
        differ = equal_before.subtract(
            equal_before.equate(isl.dim_type.in_, m, isl.dim_type.out, m)
        )
        if is_coincident and not times.intersect(differ).is_empty():
            wrong = relation.intersect(source.apply_range(differ).apply_range(sink.reverse()))
            raise _violated(f"parallel member {m} of a band carries a dependence", wrong)
        equal_before = equal_before.equate(isl.dim_type.in_, m, isl.dim_type.out, m)


def check_phases(scop: Scop, root: Node, flows: Sequence[Flow]) -> None:
    """Clusters of a phase run beside each other: VerifyError if one needs what another defines.

    A dependence between runs of a phase in different iterations of a loop has a barrier between.
    """
    times = time_maps(scop, root)
    for clusters in _phases(root):
        cluster = {s: k for k, statements in enumerate(clusters) for s in statements}
        inside = [f for f in flows if f.source in cluster and f.sink in cluster]
        for f in (f for f in inside if cluster[f.source] != cluster[f.sink]):
            at_once = times[f.source].apply_range(times[f.sink].reverse())
            wrong = f.relation.intersect(at_once)
            if not wrong.is_empty():
                raise _violated("clusters of one phase depend on each other", wrong)


def _phases(node: Node | None) -> list[list[tuple[str, ...]]]:
    """The statements of the clusters of every phase."""
    match node:
        case Filter(statements, Phase(InOrder(children))):
            return [[child.statements for child in children]]
        case Filter(statements, Phase()):
            return [[statements]]
        case InOrder(children):
            return [phase for child in children for phase in _phases(child)]
        case Filter(_, child) | Phase(child) | Tile(child) | Band(_, child):
            return _phases(child)
    return []


def check_reflow(scop: Scop, schedule: isl.Schedule, storage: Mapping[str, isl.Map]) -> None:
    """With tensor T kept in cells `storage[T]`: { T[...] -> M[...] } (T itself where absent), every
    access still reads what its original writer left there.

    Recomputes the flow of the scheduled program through memory (isl manual, "Dependence Analysis")
    and compares it, access by access, with `write . read^-1`. VerifyError names a read and the
    instance that spoiled, or never filled, its cell. Where every element has a cell of its own,
    only the order can be wrong, which `check_order` has seen. isl answers once for accesses that
    are equal but for names, as those of layers are.
    """
    order = {m.get_tuple_name(isl.dim_type.in_): m for m in maps(schedule.get_map())}
    stores: dict[str, dict[str, isl.Map]] = {}  # of each memory, by statement
    writers: dict[str, dict[str, isl.Map]] = {}  # of each tensor, by statement
    for s, write in scop.writes.items():
        kept = _keep(write, storage)
        stores.setdefault(_of(kept), {})[s] = kept
        writers.setdefault(_of(write), {})[s] = write
    seen = set[str]()
    for sink, reads in scop.reads.items():
        for read in (r for r in reads if _of(r) in storage):
            kept, wrote = _keep(read, storage), writers[_of(read)]
            into = stores[_of(kept)]
            times = _compressed({s: order[s] for s in (sink, *into)})
            question = _text(list(times), {sink: kept}, into, times, {sink: read}, wrote)
            if question in seen:
                continue
            seen.add(question)
            info = isl.UnionAccessInfo.from_sink(isl.UnionMap.from_map(kept))
            info = info.set_must_source(union_map(into.values()))
            info = info.set_schedule_map(union_map(times.values()))
            actual = info.compute_flow().get_must_dependence()
            wanted = union_map(w.apply_range(read.reverse()) for w in wrote.values())
            if actual.is_equal(wanted):
                continue
            wrong = maps(actual.subtract(wanted)) or maps(wanted.subtract(actual))
            raise _violated(
                f"{sink} reads a cell of {_of(read)} that holds another element or none by then",
                wrong[0],
            )


def _compressed(order: Mapping[str, isl.Map]) -> dict[str, isl.Map]:
    """Times that order instances as `order` does, with the fewest and smallest constants.

    A dimension that is constant in each map orders statements by it: its place among those that
    occur will do, and nothing where they are one.
    """
    lengths = {m.dim(isl.dim_type.out) for m in order.values()}
    result = dict(order)
    for k in reversed(range(min(lengths) if len(lengths) == 1 else 0)):
        fixed = {s: m.plain_get_val_if_fixed(isl.dim_type.out, k) for s, m in order.items()}
        if not all(value.is_int() for value in fixed.values()):
            continue
        values = sorted({value.to_python() for value in fixed.values()})
        for s, value in fixed.items():
            result[s] = result[s].project_out(isl.dim_type.out, k, 1)
            if len(values) > 1:
                place = isl.Val(values.index(value.to_python()))
                result[s] = result[s].insert_dims(isl.dim_type.out, k, 1)
                result[s] = result[s].fix_val(isl.dim_type.out, k, place)
    return result


def _text(statements: Sequence[str], *relations: Mapping[str, isl.Map]) -> str:
    """The text of groups of relations from instances of statements, in which statements have
    numbers, and what they access no name: equal texts are equal questions."""
    parts = []
    for k, group in enumerate(relations):
        for s, relation in group.items():
            named = relation.set_tuple_name(isl.dim_type.in_, f"S{statements.index(s)}")
            if named.has_tuple_name(isl.dim_type.out):
                named = named.set_tuple_name(isl.dim_type.out, "M")
            parts.append(f"{k} {named}")
    return "\n".join(parts)


def check_cells(
    scop: Scop, root: Node, storage: Mapping[str, isl.Map], updates: Collection[str]
) -> None:
    """Tiles of a phase run in no known order, which `check_reflow` does not see: VerifyError if an
    instance stores where another one of its phase stores, or loads, another element.

    An instance of a statement of `updates` may store where it loads itself.
    """
    for tensor, cells in storage.items():
        same = cells.apply_range(cells.reverse())
        for pairs in at_once(scop, root, tensor, updates, after=False):
            both = pairs.intersect(same)
            wrong = both.subtract(isl.Map.identity(both.get_space()))
            if not wrong.is_empty():
                raise _violated(f"a cell of {tensor} is that of two elements in one phase", wrong)


def check_looks(
    scop: Scop, root: Node, storage: Mapping[str, isl.Map], conditions: Collection[str]
) -> None:
    """Workers look at what decides what runs between phases, and skip the barrier of one that is
    not run: VerifyError if such an element may be stored over before all have looked.

    There is a barrier in every iteration of a loop, so that nobody is more than one behind.
    """
    times = time_maps(scop, root)
    for tensor in conditions & storage.keys():
        same = storage[tensor].apply_range(storage[tensor].reverse())
        writes = [(s, w) for s, w in scop.writes.items() if _of(w) == tensor]
        looks = [(s, r) for s, reads in scop.reads.items() for r in reads if _of(r) == tensor]
        for reader, look in looks:
            late = times[reader].apply_range(_within_an_iteration(times[reader]))
            for writer, write in writes:
                pairs = late.apply_range(times[writer].reverse()).apply_domain(look)
                both = pairs.apply_range(write).intersect(same)
                wrong = both.subtract(isl.Map.identity(both.get_space()))
                if not wrong.is_empty():
                    raise _violated(f"a worker may look at {tensor} when it is gone", wrong)


def _within_an_iteration(times: isl.Map) -> isl.Map:
    """{ [time] -> [later] }: no later than an iteration of the outermost loop around."""
    space = times.get_space().range()
    loops = [k for k in range(space.dim(isl.dim_type.set)) if not _fixed(times.range(), k)]
    if not loops:
        return isl.Map.empty(space.map_from_set())
    names = [f"i{k}" for k in range(space.dim(isl.dim_type.set))]
    after = [f"{name} + 1" if k == loops[0] else name for k, name in enumerate(names)]
    step = isl.Map(f"{{ [{', '.join(names)}] -> [{', '.join(after)}] }}")
    return isl.Map.lex_lt(space).intersect(step.apply_range(isl.Map.lex_ge(space)))


def _fixed(times: isl.Set, k: int) -> bool:
    return bool(times.plain_get_val_if_fixed(isl.dim_type.set, k).is_int())


def check_slots(
    scop: Scop, root: Node, slots: Mapping[str, int], conditions: Collection[str]
) -> None:
    """Tensors that share a slot share memory: VerifyError if they are alive at once.

    A tensor is alive from the first phase that defines one of its elements to the last one that
    defines or reads one. What workers look at between phases shares with nothing.
    """
    times = time_maps(scop, root)
    alive: dict[str, isl.Set] = {}
    for s, write in scop.writes.items():
        for name in {_of(access) for access in (write, *scop.reads[s])} & slots.keys():
            when = times[s].range()
            alive[name] = alive[name].union(when) if name in alive else when
    for a, b in combinations(alive, 2):
        if slots[a] != slots[b]:
            continue
        if a in conditions or b in conditions:
            raise VerifyError(f"{a} and {b} share memory, and workers look at one between phases")
        late = alive[a].lex_ge_set(alive[b])
        if not late.is_empty() and not alive[a].lex_le_set(alive[b]).is_empty():
            raise _violated(f"{a} and {b} share memory, and are alive at once", late)


def _of(access: isl.Map) -> str:
    """The tensor that is accessed."""
    return str(access.get_tuple_name(isl.dim_type.out))


def _keep(access: isl.Map, storage: Mapping[str, isl.Map]) -> isl.Map:
    tensor = _of(access)
    return access.apply_range(storage[tensor]) if tensor in storage else access
