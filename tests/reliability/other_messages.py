# SPDX-License-Identifier: Apache-2.0
"""SavedModels that are a little different: other bytes would, most often, be none at all."""

from __future__ import annotations

import contextlib
import random
from typing import Any

from google.protobuf.message import DecodeError, Message
from tensorflow.core.protobuf import saved_model_pb2

NUMBERS = (0, 1, -1, 2, 7, 23, 99, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """A SavedModel of at most so many bytes with up to four changes, or other bytes."""
    choose, model = random.Random(seed), saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(data)
        if not model.ByteSize():
            raise DecodeError
    except DecodeError:
        return mutated_bytes(data, most)
    for _ in range(choose.randint(1, 4)):
        with contextlib.suppress(ValueError):  # a number that its field has no room for
            change(choose, messages(model))
    made = bytes(model.SerializeToString())
    return made if len(made) <= most else data


def mutated_bytes(data: bytes, most: int) -> bytes:
    """Some bytes that libFuzzer makes of others."""
    import atheris

    return bytes(atheris.Mutate(data, most))


def messages(message: Message) -> list[Any]:
    """A message, and all that there are in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type:
            several = value.values() if is_map(field) else value
            inner = several if field.is_repeated else [value]
            found += [m for v in inner if isinstance(v, Message) for m in messages(v)]
    return found


def is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def change(choose: random.Random, every: list[Any]) -> None:
    """Change one of all messages: it becomes another one of its type, or a field of it changes."""
    message = choose.choice(every)
    alike = [m for m in every if m.DESCRIPTOR is message.DESCRIPTOR]
    fields = message.ListFields()
    if not fields or choose.random() < 0.2:
        message.ParseFromString(choose.choice(alike).SerializeToString())
        return
    field, value = choose.choice(fields)
    if choose.random() < 0.2:
        message.ClearField(field.name)
    elif is_map(field):
        del value[choose.choice(sorted(value))]
    elif field.message_type:
        if field.is_repeated:
            value.append(choose.choice(value))
    elif field.is_repeated:
        k = choose.randrange(len(value))
        value[k] = other(choose, value[k], [x for m in alike for x in getattr(m, field.name)])
    else:
        values = [getattr(m, field.name) for m in alike]
        setattr(message, field.name, other(choose, value, values))


def other(choose: random.Random, value: Any, known: list[Any]) -> Any:
    """Another value for one, maybe of those that are known."""
    if isinstance(value, bool):
        return not value
    if choose.random() < 0.5:
        return choose.choice(known)
    if isinstance(value, str):
        return mutated_bytes(value.encode(), len(value) + 8).decode(errors="ignore")
    if isinstance(value, bytes):
        return mutated_bytes(value, len(value) + 8)
    if isinstance(value, float):
        return choose.choice((0.0, -1.0, float("inf"), float("nan"), 1e300))
    return choose.choice((*NUMBERS, value + 1, value - 1))
