"""Checks the effects that a handler yields, and copies values that could change later. Pure.

A checked effect has the class of the yielded effect. Its keys, values and versions have the table's types,
data and args are encoded, and `otherwise` is a tuple of checked effects. So the handler cannot change the
effect afterwards, and the fold converts nothing again.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, cast

import msgspec

from sluice.db.json_text import NotJson, encoded_json, holds_nul
from sluice.tasks.api import (
    MARK,
    Call,
    Delete,
    Effect,
    EffectDeclaration,
    EffectRefused,
    Emit,
    Event,
    Increment,
    Insert,
    Merge,
    Read,
    Upsert,
)
from sluice.tasks.fold.checked_writes import (
    checked_delete,
    checked_increment,
    checked_insert,
    checked_merge,
    checked_read,
    checked_upsert,
)
from sluice.tasks.fold.emitting import checked_emit, checked_text
from sluice.tasks.fold.registry import AnyEntry, ProjectionEntry

MAX_OTHERWISE = 1_000
MAX_ONCE_CHARACTERS = 500
"""The idempotency key is indexed, and Postgres indexes no text of more than 2,700 bytes."""


def checked_effect(entry: AnyEntry, event: Event[Any], effect: object) -> Effect:
    """Returns a checked, immutable copy of the effect. Raises EffectRefused with the reason."""
    check = _CHECKS.get(type(effect)) or _inherited_check(effect)
    return check(entry, event, effect)


def _inherited_check(effect: object) -> Callable[[AnyEntry, Event[Any], Any], Effect]:
    for kind in type(effect).__mro__:
        if kind in _CHECKS:
            return _CHECKS[kind]
    name = type(effect).__name__
    if isinstance(effect, Iterable) and not isinstance(effect, str | bytes):
        # The text of the effect would contain the texts of its tables.
        raise EffectRefused(f"a {name} is not an effect; use `yield from` for several effects")
    hint = "; a `yield` without an effect yields None" if effect is None else ""
    raise EffectRefused(f"{name} {effect!r:.200} is not an effect{hint}")


def _checked_emit(entry: AnyEntry, _event: Event[Any], emit: Emit) -> Emit:
    _refuse_in_projection(entry, emit)
    return checked_emit(emit)


def _checked_call(entry: AnyEntry, _event: Event[Any], call: Call) -> Call:
    _refuse_in_projection(entry, call)
    effect = _effect_name(call.effect)
    if effect not in entry.effects:
        known = ", ".join(sorted(entry.effects)) or "none"
        raise EffectRefused(
            f"Call of effect {effect!r:.80}, declared by no module of SLUICE_HANDLERS; declared: {known}"
        )
    try:
        once = None if call.once is None else checked_text("once", call.once, MAX_ONCE_CHARACTERS)
        args = encoded_json(call.args, is_sorted=True)
        if not args.startswith(b"{"):
            raise EffectRefused(f"args must be a mapping, not {type(call.args).__name__} {call.args!r:.80}")
        if b"\\u0000" in args and holds_nul(msgspec.json.decode(args)):
            raise EffectRefused("args hold the character NUL, which Postgres cannot store")
    except (EffectRefused, NotJson) as refused:
        raise EffectRefused(f"Call of {effect}: {refused}") from None
    return Call(effect, once, cast(Mapping[str, Any], msgspec.Raw(args)))


def _effect_name(effect: Any) -> str:
    if not callable(effect) or isinstance(effect, type):
        return checked_text("Call: effect", effect, MAX_ONCE_CHARACTERS)
    declared = [one.name for one in getattr(effect, MARK, ()) if isinstance(one, EffectDeclaration)]
    if len(declared) != 1:
        raise EffectRefused(
            f"Call of {getattr(effect, '__qualname__', effect)!r:.80}, which has {len(declared)} @effect"
            " declarations; name the effect by its text"
        )
    return declared[0]


def _refuse_in_projection(entry: AnyEntry, effect: Emit | Call) -> None:
    if isinstance(entry, ProjectionEntry):
        raise EffectRefused(
            f"{type(effect).__name__} by a handler that projects into {entry.into.name}: a rebuild would"
            " repeat it; yield it from a separate handler"
        )


def _checked_increment(entry: AnyEntry, event: Event[Any], write: Increment) -> Increment:
    checked = checked_increment(entry, write)
    if write.otherwise == ():
        return checked
    if not isinstance(write.otherwise, Iterable):
        raise EffectRefused(
            f"otherwise must be a sequence of effects, not {type(write.otherwise).__name__}"
            f" {write.otherwise!r:.80}"
        )
    otherwise = tuple(islice(write.otherwise, MAX_OTHERWISE + 1))
    if len(otherwise) > MAX_OTHERWISE:
        raise EffectRefused(f"otherwise holds more than {MAX_OTHERWISE} effects")
    instead = tuple([checked_effect(entry, event, one) for one in otherwise])
    return msgspec.structs.replace(checked, otherwise=instead)


_CHECKS: dict[type, Callable[[AnyEntry, Event[Any], Any], Effect]] = {
    Insert: checked_insert,
    Upsert: checked_upsert,
    Merge: checked_merge,
    Increment: _checked_increment,
    Delete: checked_delete,
    Read: checked_read,
    Emit: _checked_emit,
    Call: _checked_call,
}
