"""Finds the messages of a queue, on its list or in hand of a running worker, with a script in Redis.

A message in hand was popped by a worker and is not acknowledged yet. Its tag names the worker. A worker
counts as running while it subscribes to its own channel in Redis.
"""

from collections.abc import Sequence
from typing import Any

from sluice.bridge.queue_state import Whereabouts
from sluice.runtime.messages_in_hand import UNACKED_INDEX_KEY, UNACKED_KEY, holder_channel

# The most messages that are read on the list, and in hand, because other clients of Redis may have filled
# these keys.
MAX_LOOKED_AT = 1_000

# The script reads only the end of a message's envelope, which contains the id: see `redis_item.write_item`.
_SEARCH = f"""
local function id_of(item)
    local after = string.find(item, '\\n', 1, true) or #item + 1
    local last = string.sub(item, math.max(1, after - 200), after - 1)
    return string.match(last, '"delivery_tag":"([^"]*)"') or ''
end
local on_list, in_hand = {{}}, {{}}
for at = 0, math.min(redis.call('LLEN', KEYS[1]), {MAX_LOOKED_AT}) - 1 do
    on_list[#on_list + 1] = id_of(redis.call('LINDEX', KEYS[1], at))
end
for _, tag in ipairs(redis.call('ZREVRANGE', KEYS[2], 0, {MAX_LOOKED_AT - 1})) do
    if string.sub(tag, 1, #ARGV[1] + 1) == ARGV[1] .. '|' then
        local holder = string.match(string.sub(tag, #ARGV[1] + 2), '^([^.]*)%.')
        local item = holder and redis.call('HGET', KEYS[3], tag)
        if item and redis.call('PUBSUB', 'NUMSUB', ARGV[2] .. holder)[2] > 0 then
            in_hand[#in_hand + 1] = id_of(item)
        end
    end
end
return {{on_list, in_hand}}
"""


def search_messages(pipe: Any, queue: str, redis_prefix: str) -> None:
    """Adds the search to a pipeline. The search writes nothing, so a full Redis answers it."""
    # The client adds no prefix to a channel, because a channel is no key.
    pipe.eval(_SEARCH, 3, queue, UNACKED_INDEX_KEY, UNACKED_KEY, queue, redis_prefix + holder_channel(""))


def read_whereabouts(answer: Sequence[Sequence[bytes]]) -> Whereabouts:
    """Returns the messages that the search found."""
    on_list, in_hand = (frozenset(id_.decode(errors="replace") for id_ in ids) for ids in answer)
    return Whereabouts(on_list, in_hand)
