"""What :mod:`actors.redis_history` has Redis do in one step (Lua, on the server's thread).

All keys are ``{PREFIX}:…`` and so in one slot of a cluster:

| key | what it is |
|---|---|
| ``:epoch`` | the log's name and every topic's epoch; without it there is no log |
| ``:mark`` | how many events the log has had |
| ``:log`` | stream of all events, ids ``MARK-0``: n nonce of its append, t topic, e epoch, o offset, s ts, b body |
| ``:heads`` | hash: topic → ``OFFSET MARK TS`` of its last event |
| ``:t:TOPIC`` | stream of a topic's events that are kept, ids ``OFFSET-MARK``: s ts |
| ``:writer:NAME`` | ``EPOCH NUMBER`` of the last event that this writer has appended |
| ``:key:TOPIC KEY`` | ``EPOCH OFFSET MARK TS`` of the event with this idempotency key |

Who calls says which log it knows and the last of its entries (epoch, mark and, if it knows it, nonce). Where that is
not so any more, Redis has lost what it had acknowledged (it was restarted from an older copy): a new log begins, so
that nothing pretends.
"""

from __future__ import annotations

from typing import Final

# KEYS: the prefix with its braces. ARGV: 1 a new epoch, 2 to 4 what the caller knows.
_BEGIN: Final = """
local base = KEYS[1]
local log, heads = base .. ':log', base .. ':heads'
local epoch = redis.call('GET', base .. ':epoch')
local last = tonumber(redis.call('GET', base .. ':mark') or '0')
local known = tonumber(ARGV[3])
local broken = not epoch
if epoch and epoch == ARGV[2] and known > 0 then
    if last < known then
        broken = true
    else
        local found = redis.call('XRANGE', log, ARGV[3] .. '-0', ARGV[3] .. '-0')[1]
        broken = found ~= nil and ARGV[4] ~= '' and found[2][2] ~= ARGV[4]
    end
end
if broken then
    for _, topic in ipairs(redis.call('HKEYS', heads)) do
        redis.call('DEL', base .. ':t:' .. topic)
    end
    redis.call('DEL', log, heads, base .. ':mark')
    epoch, last = ARGV[1], 0
    redis.call('SET', base .. ':epoch', epoch)
end
local function text(number) return string.format('%.0f', number) end
"""

LOOK: Final = (
    _BEGIN
    + """
local found = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
return {epoch, text(last), found and found[1] or '', found and found[2][2] or ''}
"""
)
"""→ epoch, last mark, id of the oldest entry."""

# ARGV: 5 nonce, 6 now, 7 most topics, 8 most entries, 9 seconds of a key, 10 writer or '', 11 number of its first
# event, 12 seconds of a writer; then per event topic, its most events, idempotency key, body
APPEND: Final = (
    _BEGIN
    + """
local results = {}
local topics
local writer = ARGV[10] ~= '' and base .. ':writer:' .. ARGV[10]
local number, had = tonumber(ARGV[11]), -1
local written = writer and redis.call('GET', writer)
if written then
    local of, last_number = string.match(written, '^(%S+) (%S+)$')
    if of == epoch then had = tonumber(last_number) end
end
for i = 13, #ARGV, 4 do
    local topic, size, key, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local once = key ~= '' and base .. ':key:' .. topic .. ' ' .. key
    local before = once and redis.call('GET', once)
    local again = before and {string.match(before, '^(%S+) (%S+) (%S+) (%S+)$')}
    if writer and number <= had then
        results[#results + 1] = {'done'}
    elseif again and again[1] == epoch then
        results[#results + 1] = {'again', again[2], again[3], again[4]}
    else
        local head = redis.call('HGET', heads, topic)
        local offset, ts = 0, ARGV[6]
        if head then
            local ended, before_ts
            ended, before_ts = string.match(head, '^(%S+) %S+ (%S+)$')
            offset = tonumber(ended)
            if tonumber(before_ts) > tonumber(ts) then ts = before_ts end
        else
            topics = topics or redis.call('HLEN', heads)
        end
        if not head and topics >= tonumber(ARGV[7]) then
            results[#results + 1] = {'full'}
        else
            if not head then topics = topics + 1 end
            last, offset = last + 1, offset + 1
            local m, o = text(last), text(offset)
            redis.call('XADD', log, 'MAXLEN', '~', ARGV[8], m .. '-0',
                'n', ARGV[5], 't', topic, 'e', epoch, 'o', o, 's', ts, 'b', body)
            redis.call('XADD', base .. ':t:' .. topic, 'MAXLEN', '~', size, o .. '-' .. m, 's', ts)
            redis.call('HSET', heads, topic, o .. ' ' .. m .. ' ' .. ts)
            if once then
                redis.call('SET', once, epoch .. ' ' .. o .. ' ' .. m .. ' ' .. ts, 'EX', ARGV[9])
            end
            results[#results + 1] = {'new', o, m, ts}
        end
    end
    number = number + 1
end
if writer and number - 1 > had then
    redis.call('SET', writer, epoch .. ' ' .. text(number - 1), 'EX', ARGV[12])
end
redis.call('SET', base .. ':mark', text(last))
return {epoch, results}
"""
)
"""→ epoch, per event ``new`` or ``again`` with offset, mark and ts, ``full``, or ``done``: the writer has been here."""

# A few entries at a time: mostly the first one stays, and those of the log are as large as events are.
_LAST_THAT_GOES: Final = """
local function last_that_goes(key, goes, most)
    local cut, n = nil, 0
    repeat
        local entries = redis.call('XRANGE', key, cut and '(' .. cut or '-', '+', 'COUNT', 50)
        for _, entry in ipairs(entries) do
            n = n + 1
            if not goes(entry, n) then return cut end
            cut = entry[1]
        end
    until #entries < 50 or n >= most
    return cut
end
"""

# KEYS: the prefix. ARGV: topic, most events, ts up to which they go or '', entries looked at
TRIM_TOPIC: Final = (
    _LAST_THAT_GOES
    + """
local base = KEYS[1]
local key = base .. ':t:' .. ARGV[1]
local size, before = tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = redis.call('XRANGE', base .. ':log', '-', '+', 'COUNT', 1)[1]
local first = oldest and tonumber(string.match(oldest[1], '^%d+')) or math.huge
local over = redis.call('XLEN', key) - size
local function goes(entry, n)
    local mark = tonumber(string.match(entry[1], '%d+$'))
    return n <= over or mark < first or (before and tonumber(entry[2][2]) <= before)
end
local cut = last_that_goes(key, goes, tonumber(ARGV[4]))
if not cut then return 0 end
local offset, mark = string.match(cut, '^(%d+)-(%d+)$')
return redis.call('XTRIM', key, 'MINID', offset .. '-' .. string.format('%.0f', tonumber(mark) + 1))
"""
)
"""→ how many went."""

# KEYS: the prefix. ARGV: ts up to which they go, entries looked at
TRIM_LOG: Final = (
    _LAST_THAT_GOES
    + """
local log, before = KEYS[1] .. ':log', tonumber(ARGV[1])
local function goes(entry) return tonumber(entry[2][10]) <= before end
local cut = last_that_goes(log, goes, tonumber(ARGV[2]))
if not cut then return 0 end
return redis.call('XTRIM', log, 'MINID', string.match(cut, '^%d+') .. '-1')
"""
)
"""→ how many went."""
