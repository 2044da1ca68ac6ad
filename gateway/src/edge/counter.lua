-- One decision over several sliding windows, all or nothing, by this server's clock.
--
-- KEYS[i]: a list of the times (microseconds) at which limit i admitted, oldest first.
-- ARGV[2i-1], ARGV[2i]: its quota and its window in microseconds.
-- Returns 1 or 0 (admitted), then for each limit what remains and the microseconds until its oldest
-- admission leaves the window.
--
-- A refusal writes nothing but the removal of what had expired anyway. Every key expires one window
-- after its last admission.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local oldest, used, admitted = {}, {}, 1

for i, key in ipairs(KEYS) do
  local edge = now - ARGV[2 * i]
  local first = tonumber(redis.call('LINDEX', key, 0))
  local low, high = 0, first and redis.call('LLEN', key) or 0
  used[i] = high
  if first and first <= edge then
    -- Times never fall along the list, so the first that still counts is found by halving.
    while low < high do
      local middle = math.floor((low + high) / 2)
      if tonumber(redis.call('LINDEX', key, middle)) <= edge then low = middle + 1 else high = middle end
    end
    redis.call('LTRIM', key, low, -1)
    used[i] = used[i] - low
    first = tonumber(redis.call('LINDEX', key, 0))
  end
  oldest[i] = first
  if used[i] >= tonumber(ARGV[2 * i - 1]) then
    admitted = 0
  end
end

if admitted == 1 then
  for i, key in ipairs(KEYS) do
    -- Times must not fall: a clock that stepped back is read as standing still.
    local last = used[i] > 0 and tonumber(redis.call('LINDEX', key, -1)) or now
    local at = math.max(now, last)
    redis.call('RPUSH', key, string.format('%.0f', at))
    redis.call('PEXPIRE', key, math.ceil((at - now + ARGV[2 * i]) / 1000))
    used[i] = used[i] + 1
    oldest[i] = oldest[i] or at
  end
end

local answer = { admitted }
for i = 1, #KEYS do
  answer[2 * i] = math.max(ARGV[2 * i - 1] - used[i], 0)
  answer[2 * i + 1] = oldest[i] and math.max(oldest[i] + ARGV[2 * i] - now, 0) or 0
end
return answer
