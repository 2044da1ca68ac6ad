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
-- expires one window after its last entry.

local time = redis.call('TIME')
local unpack, pack, sub, floor = struct.unpack, struct.pack, string.sub, math.floor
local WRAP, HALF = 281474976710656, 140737488355328
local now = (time[1] * 1000000 + time[2]) % WRAP
local logs, order = {}, {}

local NARROW = { sum = '>I2', entry = '>I6I2', head = 2, size = 8, modulus = 65536 }
local WIDE = { sum = '>I6', entry = '>I6I6', head = 6, size = 12, modulus = WRAP }

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

local function open(key, wide, window, grain)
  local log = logs[key]
  if log then return log end
  local form = wide and WIDE or NARROW
  -- first..last are the entries in data that count; tail says that one of now comes behind them, up to sum.
  log = { form = form, window = window, grain = grain, first = 1, last = 0, base = 0, sum = 0, tail = false, changed = false }
  local data = redis.call('GET', key)
  if data and #data >= form.head + form.size then
    log.data = data
    local last = floor((#data - form.head) / form.size)
    log.base = unpack(form.sum, data)
    local newest, sum = entry(log, last)
    log.sum = sum
    if (now - newest) % WRAP >= HALF then
      -- The clock stepped back: what lies in its future counts from now, for one window at most.
      last = first(log, 1, last, function(at) return (now - at) % WRAP >= HALF end) - 1
      log.tail, log.changed = true, true
    end
    log.last = last
    if last > 0 and (now - entry(log, 1)) % WRAP >= window then
      local live = first(log, 2, last, function(at) return (now - at) % WRAP < window end)
      local _, gone = entry(log, live - 1)
      log.base, log.first = gone, live
    end
  end
  log.used = (log.sum - log.base) % form.modulus
  logs[key] = log
  order[#order + 1] = key
  return log
end

-- Microseconds until the oldest units leave; 0 where there are none.
local function reset(log)
  if log.first <= log.last then return log.window - (now - entry(log, log.first)) % WRAP end
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
  -- What is counted in the same grain is one entry with the later time.
  if not log.tail and log.last >= log.first
    and floor(entry(log, log.last) / log.grain) == floor(now / log.grain) then
    log.last = log.last - 1
  end
  log.sum = (log.sum + units) % log.form.modulus
  log.used = log.used + units
  log.tail, log.changed = true, true
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
  elseif units == held then
    log.tail = false
  end
  log.sum = (log.sum - units) % modulus
  log.used = log.used - units
  log.changed = true
end

local out = { pack('>I6', now) }
local ops, at, key = ARGV[1], 1, 0
while at <= #ops do
  local kind, limits
  kind, limits, at = unpack('>BB', ops, at)
  local asked, admitted = {}, 1
  for i = 1, limits do
    local flags, quota, window, grain, cost, counted
    flags, quota, window, grain, cost, counted, at = unpack('>BI6I6I6I6I6', ops, at)
    key = key + 1
    local log = open(KEYS[key], flags % 2 == 1, window, grain)
    if kind == 0 then
      local full = log.used + cost > quota
      if full and flags < 2 then admitted = 0 end
      asked[i] = { log, cost, full, quota }
    elseif kind == 1 then
      give_back(log, cost, counted)
    else
      count(log, cost)
    end
  end
  if kind == 0 then
    out[#out + 1] = pack('>B', admitted)
    for i = 1, limits do
      local log, cost, full, quota = asked[i][1], asked[i][2], asked[i][3], asked[i][4]
      if admitted == 1 and not full and cost > 0 then count(log, cost) end
      out[#out + 1] = pack('>BI6I6I6', full and 1 or 0, log.used, reset(log),
        full and freed(log, log.used + cost - quota) or 0)
    end
  end
end

for i = 1, #order do
  local log = logs[order[i]]
  if log.changed then
    local form = log.form
    local data = pack(form.sum, log.base)
    if log.first <= log.last then
      data = data .. sub(log.data, form.head + (log.first - 1) * form.size + 1, form.head + log.last * form.size)
    end
    if log.tail then
      redis.call('SET', order[i], data .. pack(form.entry, now, log.sum), 'PX', math.ceil(log.window / 1000))
    elseif log.first <= log.last then
      redis.call('SET', order[i], data, 'KEEPTTL')
    else
      redis.call('DEL', order[i])
    end
  end
end
return table.concat(out)
