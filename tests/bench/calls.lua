-- What wrk sends: one kind of call, with users drawn at random.
--
-- wrk … -s calls.lua http://127.0.0.1:PORT -- KIND USERS SEED SERVICE_KEY TOKENS BEFORE
--
-- KIND is a key of `calls` below; users are user-1 to user-USERS; SEED tells the idempotency keys of
-- this run from all others; TOKENS is a file with a token a line, of user-1, user-2 …, the first of
-- user-deep, who has the long history; BEFORE is the cursor of that user's page 1,800.
--
-- The last line that it prints is BENCH and a JSON object; times are in microseconds.

local INTERNAL = "/api/v1/internal/"
local users, seed, tokens, before
local count = 0
local service, user_headers = {}, {}
local held = {} -- reservations that wait to be committed

local function any()
  return "user-" .. math.random(1, users)
end

local function post(path, body)
  return wrk.format("POST", INTERNAL .. path, service, body)
end

local function debit(user, more)
  return post("credits/use", '{"userId":"' .. user
    .. '","amount":1,"appId":"chat","description":"A message"' .. (more or "") .. "}")
end

local function get_as_user(path, number)
  return wrk.format("GET", path, user_headers[number or math.random(2, #user_headers)])
end

local calls = {}

function calls.nothing()
  return wrk.format("GET", "/nothing")
end

-- The floor; its number of connections stands in USERS.
function calls.one()
  return wrk.format("GET", "/one/" .. users)
end

function calls.usual()
  return wrk.format("GET", "/usual/" .. users)
end

function calls.debit()
  return debit(any())
end

-- Nine of ten users, whom the charges leave enough.
function calls.debit_payers()
  return debit("user-" .. math.random(0, users / 10 - 1) * 10 + math.random(1, 9))
end

function calls.debit_hot()
  return debit("user-hot")
end

function calls.debit_keyed()
  count = count + 1
  return debit(any(), ',"idempotencyKey":"' .. seed .. "-" .. count .. '"')
end

-- A hold, and as soon as it is answered its commit: half of the calls are the one, half the other.
function calls.reserve_commit()
  local id = table.remove(held)
  if id then
    return post("credits/commit", '{"reservationId":"' .. id .. '","description":"A message"}')
  end
  return post("credits/reserve",
    '{"userId":"' .. any() .. '","amount":2,"reason":"chat: a message"}')
end

function calls.balance()
  return wrk.format("GET", INTERNAL .. "credits/balance/" .. any(), service)
end

function calls.balance_jwt()
  return get_as_user("/api/v1/credits/balance")
end

function calls.status()
  return wrk.format("GET", INTERNAL .. "sync/status/" .. any(), service)
end

function calls.history_first()
  return get_as_user("/api/v1/credits/transactions?limit=50", 1)
end

function calls.history_deep()
  return get_as_user("/api/v1/credits/transactions?limit=50&before=" .. before, 1)
end

-- Page 1 of anybody's history.
function calls.history_any()
  return get_as_user("/api/v1/credits/transactions?limit=50")
end

-- Of 20 calls: 8 debits, 2 of them keyed; 6 balances, 2 of them by a token; 3 sync states; a hold and
-- its commit; a page of history.
local mix = {
  "debit", "debit", "debit", "debit", "debit", "debit", "debit_keyed", "debit_keyed",
  "balance", "balance", "balance", "balance", "balance_jwt", "balance_jwt",
  "status", "status", "status", "reserve_commit", "reserve_commit", "history_any",
}
function calls.mixed()
  return calls[mix[math.random(1, #mix)]]()
end

function init(args)
  local kind = args[1]
  users, seed, before = tonumber(args[2]), args[3], args[6]
  service = { ["X-Service-Key"] = args[4], ["X-App-Id"] = "bench",
    ["Content-Type"] = "application/json" }
  if args[5] ~= "-" then
    for token in io.lines(args[5]) do
      user_headers[#user_headers + 1] = { ["Authorization"] = "Bearer " .. token }
    end
  end
  math.randomseed(tonumber(seed))
  request = calls[kind]
  if kind == "reserve_commit" or kind == "mixed" then
    -- Only where it is needed: wrk then hands over every answer.
    function response(status, headers, body)
      local id = status == 200 and body:match('"reservationId":"([^"]+)"')
      if id then
        held[#held + 1] = id
      end
    end
  end
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'BENCH {"answers":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,'
      .. '"refused":%d,"broken":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
