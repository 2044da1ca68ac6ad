-- Decisions over sliding windows, by this server's clock: each all or nothing, several in one call.
--
-- KEYS: one for each limit that each operation names, in order. All share one hash tag.
-- ARGV[1]: the operations, big-endian. Each is its kind and how many limits it names (one octet each), then for
-- each limit: flags (1: wide, 2: not enforced), quota, window, grain, cost, time (six octets each, microseconds).
--   kind 0 asks: if every enforced limit has room for its cost, all that have room count it.
--   kind 1 gives back: cost units that were counted at time.
--   kind 2 charges: counts cost units, room or no room.
-- Returns the time (six octets), then for each kind 0: admitted (one octet), and for each of its limits whether
-- it was full (one octet), the units that count, microseconds until some leave, and if it was full microseconds
-- until this cost has room (six octets each).
--
-- A key holds a window as policy::limit::window describes it, packed: the sum before the first entry, then
-- entries of a time (six octets) and the sum up to it. Times and sums count modulo their size, which a window never
-- spans. Sums in place of units make every search a halving, and nothing has to be added up. A sum takes two
-- octets, or six where the window is wide. A refusal writes nothing, but where the clock stepped back. Every key
-- expires between one window and nine eighths of one after its last entry.
--
-- What costs time here is making strings and tables, and commands. So all windows are read by one command, each is one
-- table that never grows, and a new value is made in one piece.

local call, values = redis.call, unpack
local unpack, pack, sub, byte, floor = struct.unpack, struct.pack, string.sub, string.byte, math.floor
local WRAP, HALF = 281474976710656, 140737488355328
local time = redis.call('TIME')
local now = (time[1] * 1000000 + time[2]) % WRAP

local NARROW = { sum = '>I2', entry = '>I6I2', ends = '>I2I6', head = 2, size = 8, modulus = 65536 }
local WIDE = { sum = '>I6', entry = '>I6I6', ends = '>I6I6', head = 6, size = 12, modulus = WRAP }

-- Each key once, however often it is named, and where it stands among those.
local keys, places, place_of = {}, {}, {}
local different = 0
for i = 1, #KEYS do
  local key = KEYS[i]
  local place = place_of[key]
  if not place then
    place = different + 1
    different, keys[place], place_of[key] = place, key, place
  end
  places[i] = place
end
local packed = different > 0 and call('MGET', values(keys)) or {}
-- By place, once they are opened.
local logs = {}

-- The entry at index: its time and the sum up to it.
local function entry(log, index)
  local form = log.form
  return unpack(form.entry, log.data, form.head + (index - 1) * form.size + 1)
end

-- The first index from low to high + 1 whose entry is found; found must stay true once it is.
local function first(log, low, high, found)
  high = high + 1
  while low < high do
    local middle = floor((low + high) / 2)
    if found(entry(log, middle)) then high = middle else low = middle + 1 end
  end
  return low
end

local function open(place, wide, window, grain)
  local form, data = wide and WIDE or NARROW, packed[place]
  local head, size, octets = form.head, form.size, data and #data or 0
  local last, base, sum, oldest, newest = 0, 0, 0, 0, 0
  if octets >= head + size then
    last = floor((octets - head) / size)
    base, oldest = unpack(form.ends, data)
    newest, sum = unpack(form.entry, data, head + (last - 1) * size + 1)
  end
  -- first..last are the entries in data that count; tail says that one of now comes behind them, up to sum. oldest
  -- and newest are the times of the first and the last.
  local log = {
    form = form, data = data, window = window, grain = grain, first = 1, last = last, base = base, sum = sum,
    oldest = oldest, newest = newest, used = 0, tail = false, changed = false, lasts = false,
  }
  if last > 0 then
    if (now - newest) % WRAP >= HALF then
      -- The clock stepped back: what lies in its future counts from now, for one window at most.
      log.last = first(log, 1, last, function(at) return (now - at) % WRAP >= HALF end) - 1
      log.tail, log.changed = true, true
    elseif floor(newest / window * 8) == floor(now / window * 8) then
      -- Whatever was counted first in this eighth of a window has made the key last for nine of them.
      log.lasts = true
    end
    if log.last > 0 and (now - oldest) % WRAP >= window then
      local live = first(log, 2, log.last, function(at) return (now - at) % WRAP < window end)
      local _, gone = entry(log, live - 1)
      log.base, log.first = gone, live
      if live <= log.last then log.oldest = entry(log, live) end
    end
    log.used = (sum - log.base) % form.modulus
  end
  logs[place] = log
  return log
end

-- Microseconds until the oldest units leave; 0 where there are none.
local function reset(log)
  if log.first <= log.last then return log.window - (now - log.oldest) % WRAP end
  return log.tail and log.window or 0
end

-- Microseconds until so many units have left; the last entry's where there are not so many.
local function freed(log, units)
  local modulus, base = log.form.modulus, log.base
  local at = first(log, log.first, log.last, function(_, sum) return (sum - base) % modulus >= units end)
  if at > log.last then
    if log.tail then return log.window end
    at = log.last
  end
  return at >= log.first and log.window - (now - entry(log, at)) % WRAP or 0
end

local function count(log, units)
  if not log.tail then
    -- What is counted in the same grain is one entry with the later time.
    local last, grain = log.last, log.grain
    if last >= log.first and floor(log.newest / grain) == floor(now / grain) then log.last = last - 1 end
    log.tail, log.changed = true, true
  end
  log.sum = (log.sum + units) % log.form.modulus
  log.used = log.used + units
end

-- Nothing is given back where the entry is not there: the key may be a new one, and its units somebody else's.
local function give_back(log, units, at)
  local form, modulus, grain = log.form, log.form.modulus, floor(at / log.grain)
  local index = first(log, log.first, log.last, function(time) return floor(time / log.grain) >= grain end)
  local time, upto
  if index <= log.last then
    time, upto = entry(log, index)
  elseif log.tail then
    time, upto = now, log.sum
  end
  if not time or floor(time / log.grain) ~= grain then return end
  local before = log.base
  if index > log.first then
    local _, sum = entry(log, index - 1)
    before = sum
  end
  local held = (upto - before) % modulus
  if units > held then units = held end
  if index <= log.last then
    -- Every sum from here on is less by so much; an entry that has nothing left goes.
    local kept = { sub(log.data, 1, form.head + (index - 1) * form.size) }
    for i = index, log.last do
      local counted, sum = entry(log, i)
      if i > index or units < held then kept[#kept + 1] = pack(form.entry, counted, (sum - units) % modulus) end
    end
    log.data = table.concat(kept)
    log.last = index + #kept - 2
    if log.first <= log.last then
      log.oldest, log.newest = entry(log, log.first), entry(log, log.last)
    end
  elseif units == held then
    log.tail = false
  end
  log.sum = (log.sum - units) % modulus
  log.used = log.used - units
  log.changed = true
end

local out, answers = { pack('>I6', now) }, 1
local ops, at, named = ARGV[1], 1, 0
local octets = #ops
while at <= octets do
  local kind, limits = byte(ops, at, at + 1)
  at = at + 2
  local asked, admitted
  for i = 1, limits do
    local flags, quota, window, grain, cost, counted
    flags, quota, window, grain, cost, counted, at = unpack('>BI6I6I6I6I6', ops, at)
    named = named + 1
    local place = places[named]
    local log = logs[place] or open(place, flags % 2 == 1, window, grain)
    if kind == 0 then
      local over = log.used + cost - quota
      if limits == 1 then
        admitted = (over <= 0 or flags >= 2) and 1 or 0
        if over <= 0 and cost > 0 then count(log, cost) end
        answers = answers + 1
        out[answers] = over <= 0 and pack('>BBI6I6I6', 1, 0, log.used, reset(log), 0)
          or pack('>BBI6I6I6', admitted, 1, log.used, reset(log), freed(log, over))
      else
        if over > 0 and flags < 2 then admitted = 0 end
        asked = asked or {}
        asked[i] = { log, cost, over }
      end
    elseif kind == 1 then
      give_back(log, cost, counted)
    else
      count(log, cost)
    end
  end
  if kind == 0 and limits ~= 1 then
    admitted = admitted or 1
    answers = answers + 1
    out[answers] = pack('>B', admitted)
    for i = 1, limits do
      local log, cost, over = asked[i][1], asked[i][2], asked[i][3]
      if admitted == 1 and over <= 0 and cost > 0 then count(log, cost) end
      answers = answers + 1
      out[answers] = pack('>BI6I6I6', over > 0 and 1 or 0, log.used, reset(log), over > 0 and freed(log, over) or 0)
    end
  end
end

for place, log in pairs(logs) do
  if log.changed then
    local form, from, last, data = log.form, log.first, log.last, log.data
    local stop = form.head + last * form.size
    if from > last then
      data = pack(form.sum, log.base)
    elseif from > 1 then
      data = pack(form.sum, log.base) .. sub(data, form.head + (from - 1) * form.size + 1, stop)
    elseif #data > stop then
      data = sub(data, 1, stop)
    end
    if log.tail and log.lasts then
      call('SET', keys[place], data .. pack(form.entry, now, log.sum), 'KEEPTTL')
    elseif log.tail then
      -- A number costs Redis more than the text of it.
      local life = string.format('%d', math.ceil(log.window * 9 / 8000))
      call('SET', keys[place], data .. pack(form.entry, now, log.sum), 'PX', life)
    elseif from <= last then
      call('SET', keys[place], data, 'KEEPTTL')
    else
      call('DEL', keys[place])
    end
  end
end
return table.concat(out)
