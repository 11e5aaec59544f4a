"""Tests claims: signed entries of bridges in Redis, which reveal a second database with the same id."""

from collections.abc import Callable
from types import ModuleType
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sluice.db.records import KnownClaims
from sluice.tasks.installation import claim as claim_module
from sluice.tasks.installation.claim import (
    MAX_LENGTH,
    PROVEN_SECONDS,
    STALE_SECONDS,
    Claim,
    Verdict,
    Watch,
    begin_watch,
    find_foreign,
    find_unproven,
    judge_claims,
    open_claim,
    seal_claim,
)
from tests.mutants import mutated

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
ID, OTHER_ID = UUID(int=1), UUID(int=2)
NOW = 1_800_000_000
CLAIMS = st.builds(
    Claim, st.integers(0, 2**31 - 1), st.uuids(), st.uuids(), st.integers(NOW - 2 * STALE_SECONDS, NOW + 100)
)
SETS = st.frozensets(CLAIMS, max_size=4)


def a_claim(number: int = 1, *, rank: int = 0, writer: int = 7, age: int = 5) -> Claim:
    return Claim(rank, UUID(int=number), UUID(int=writer), NOW - age)


@given(CLAIMS)
def test_a_signed_claim_is_read_back(claim: Claim) -> None:
    text = seal_claim(KEY, ID, claim)
    assert open_claim(KEY, ID, text) == open_claim(KEY, ID, text.encode()) == claim
    assert len(text) < MAX_LENGTH
    assert open_claim(OTHER_KEY, ID, text) is None
    assert open_claim(KEY, OTHER_ID, text) is None


@given(CLAIMS, st.data())
def test_an_altered_claim_is_ignored(claim: Claim, data: st.DataObject) -> None:
    text = seal_claim(KEY, ID, claim)
    place = data.draw(st.integers(0, len(text) - 1))
    altered = text[:place] + data.draw(st.text(max_size=3)) + text[place + 1 :]
    assume(altered != text)
    assert open_claim(KEY, ID, altered) is None


@given(st.one_of(st.text(), st.binary()))
def test_garbage_is_ignored(garbage: str | bytes) -> None:
    assert open_claim(KEY, ID, garbage) is None


def test_a_claim_that_is_too_long_is_not_read() -> None:
    assert open_claim(KEY, ID, signed(f"1.0.{'0' * 32}.{'0' * 32}.5" + ".a" * MAX_LENGTH)) is None


def test_a_claim_of_a_later_version_is_read() -> None:
    head = f"2.3.{UUID(int=1).hex}.{UUID(int=7).hex}.{NOW}"
    assert open_claim(KEY, ID, signed(f"{head}.more.fields")) == Claim(3, UUID(int=1), UUID(int=7), NOW)
    assert open_claim(KEY, ID, signed("2.something else")) is None


def signed(text: str) -> str:
    return f"{text}.{claim_module._mac(KEY, ID, text)}"


@given(SETS, SETS, st.integers(0, 3))
def test_a_claim_that_the_own_database_never_wrote_is_foreign(
    own: frozenset[Claim], other: frozenset[Claim], rank: int
) -> None:
    assume(not {claim.claim for claim in own} & {claim.claim for claim in other})
    known = KnownClaims(rank, NOW, frozenset(claim.claim for claim in own), frozenset())
    foreign = find_foreign(own | other, known)
    assert foreign <= other
    assert find_unproven(own | other, known) <= own
    for claim in other - foreign:
        assert claim.rank < rank or NOW - claim.written_at >= STALE_SECONDS


@given(SETS, SETS, SETS, st.floats(0, 60))
def test_a_process_starts_only_if_no_claim_is_renewed(
    first: frozenset[Claim], unproven: frozenset[Claim], later: frozenset[Claim], watched: float
) -> None:
    watch = begin_watch(first, unproven, watch_seconds=30)
    if watch is None:
        assert not first | unproven
        return
    verdict = judge_claims(later, Watch(watch.seen, watch.limit_seconds, watched))
    if later - first:
        assert verdict is Verdict.REFUSE
    else:
        assert verdict is (Verdict.TAKE_OVER if watched >= (30 if first else 20) else Verdict.WATCH)


def check_foreign(module: ModuleType) -> None:
    known = KnownClaims(1, NOW, frozenset({UUID(int=1)}), frozenset())
    claims = [
        a_claim(1, rank=1),
        a_claim(2, rank=0),
        a_claim(3, rank=1),
        a_claim(4, rank=2),
        a_claim(5, rank=1, age=STALE_SECONDS),
    ]
    assert {claim.claim.int for claim in module.find_foreign(claims, known)} == {3, 4}


def check_unproven(module: ModuleType) -> None:
    known = KnownClaims(1, NOW, frozenset(map(UUID, map(hex_of, (1, 2, 3, 4)))), frozenset())
    claims = [
        a_claim(1, rank=1),
        a_claim(2, rank=1),
        a_claim(3, rank=0),
        a_claim(4, rank=1, age=PROVEN_SECONDS),
        a_claim(5, rank=1),
    ]
    assert {claim.claim.int for claim in module.find_unproven(claims, known)} == {1, 2}
    # This claim was written by this Postgres server itself, so a bridge works with this server.
    proven = known._replace(witnessed=frozenset({UUID(int=2)}))
    assert module.find_unproven(claims, proven) == frozenset()


def hex_of(number: int) -> str:
    return UUID(int=number).hex


def check_verdicts(module: ModuleType) -> None:
    none, one, other = frozenset[Claim](), frozenset({a_claim(1)}), frozenset({a_claim(2)})
    assert module.begin_watch(none, none, watch_seconds=30) is None
    assert module.begin_watch(one, none, watch_seconds=30) == module.Watch(one, 30)
    assert module.begin_watch(none, one, watch_seconds=30) == module.Watch(none, 20)
    found = [
        module.judge_claims(one, module.Watch(one, 30, 29.0)),
        # After a flush, Redis holds no claims.
        module.judge_claims(none, module.Watch(one, 30, 29.0)),
        module.judge_claims(other, module.Watch(one, 30, 29.0)),
        module.judge_claims(one, module.Watch(one, 30, 30.0)),
        module.judge_claims(other, module.Watch(one, 30, 30.0)),
        module.judge_claims(one, module.Watch(none, 20, 1.0)),
        module.judge_claims(none, module.Watch(none, 20, 1.0)),
        module.judge_claims(none, module.Watch(none, 20, 1.0), proven=True),
        module.judge_claims(one, module.Watch(none, 20, 1.0), proven=True),
        module.judge_claims(one, module.Watch(one, 30, 1.0), proven=True),
    ]
    assert [verdict.name for verdict in found] == [
        "WATCH",
        "WATCH",
        "REFUSE",
        "TAKE_OVER",
        "REFUSE",
        "REFUSE",
        "WATCH",
        "TAKE_OVER",
        "REFUSE",
        "WATCH",
    ]


def check_outranked(module: ModuleType) -> None:
    def outranked(now: Claim, before: Claim | None) -> bool:
        seen = {} if before is None else {before.writer: before}
        return bool(module.is_outranked(frozenset({now}), seen, rank=1))

    assert outranked(a_claim(2, rank=2), a_claim(1, rank=2))
    assert not outranked(a_claim(2, rank=2), None)
    assert not outranked(a_claim(2, rank=2), a_claim(1, rank=2, writer=8))
    assert not outranked(a_claim(1, rank=2), a_claim(1, rank=2))
    # A copy with the same rank cannot stop the original.
    assert not outranked(a_claim(2, rank=1), a_claim(1, rank=1))


def check_signature(module: ModuleType) -> None:
    text = module.seal_claim(KEY, ID, module.Claim(*a_claim()))
    assert module.open_claim(KEY, ID, text) == a_claim()
    assert module.open_claim(OTHER_KEY, ID, text) is None
    assert module.open_claim(KEY, OTHER_ID, text) is None
    assert module.open_claim(KEY, ID, text.replace("1.0.", "1.9.", 1)) is None


CHECKS = [check_foreign, check_unproven, check_verdicts, check_outranked, check_signature]


@pytest.mark.parametrize("check", CHECKS)
def test_each_rule_about_claims_holds(check: Callable[[ModuleType], None]) -> None:
    check(claim_module)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_foreign, "claim.claim not in known.claims\n        and ", ""),
        (check_foreign, "known.claims\n        and claim.rank >= known.rank", "known.claims"),
        (check_foreign, "known.claims\n        and claim.rank >=", "known.claims\n        and claim.rank >"),
        (check_foreign, "known.now - claim.written_at < STALE_SECONDS", "True"),
        (check_unproven, "    if known.witnessed:\n        return frozenset()\n", ""),
        (check_unproven, "in known.claims\n        and claim.rank >= known.rank", "in known.claims"),
        (check_unproven, "known.now - claim.written_at < PROVEN_SECONDS", "True"),
        (check_verdicts, "if unproven else None", "if False else None"),
        (check_verdicts, "if foreign - watch.seen:", "if False:"),
        (check_verdicts, "if foreign - watch.seen:", "if foreign:"),
        (check_verdicts, "watch.watched_seconds >= watch.limit_seconds", "not foreign"),
        (check_outranked, "claim.rank > rank", "claim.rank >= rank"),
        (check_outranked, "claim.writer in seen and claim.claim != seen[claim.writer].claim", "True"),
        (check_outranked, "claim.claim != seen[claim.writer].claim", "True"),
        (check_signature, "if not hmac.compare_digest(", "if False and not hmac.compare_digest("),
        (check_signature, "content = installation.bytes + ", "content = "),
    ],
)
def test_each_mutant_is_caught(check: Callable[[ModuleType], None], old: str, new: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(mutated(claim_module, old, new))
