-- What is known of the hosts, kept by events. It never starts the daemon: what is stopped stays so.

local rpc = require('occ.rpc')

local M = {}

-- How long a daemon that is away is left alone, in milliseconds.
local AGAIN = 1000

local hosts = {}
-- Nothing until it is known.
local available = nil
local following = false
local last_event = nil
-- Something has changed that is not shown yet.
local stale = false

local function show()
  stale = false
  vim.cmd('silent! doautocmd <nomodeline> User OccChanged')
  vim.cmd('redrawstatus!')
end

local function changed()
  if not stale then
    stale = true
    rpc.when_drawn(show)
  end
end

local function event(message)
  available = true
  last_event = message.event_id or last_event
  local data = message.data
  if message.event == 'snapshot' then
    hosts = {}
    for _, status in ipairs(data.hosts or {}) do
      hosts[status.name] = status
    end
  elseif message.event == 'host' then
    hosts[data.host] = data.status
  else
    return
  end
  vim.schedule(changed)
end

--- Follows the daemon's events from now on.
function M.follow()
  if following then
    return
  end
  following = true
  local path = '/v1/events?kind=host' .. (last_event and ('&after=' .. last_event) or '')
  rpc.request({ method = 'GET', path = path, start = false }, {
    opened = function()
      -- Else a snapshot comes first, and nothing is known until then.
      available = last_event ~= nil or nil
    end,
    event = event,
    done = function()
      if available ~= false then
        available = false
        vim.schedule(changed)
      end
      vim.defer_fn(function()
        following = false
        M.follow()
      end, AGAIN)
    end,
  })
end

--- Returns the hosts by name as the API has them; empty while the daemon is away.
function M.all()
  M.follow()
  return available and hosts or {}
end

--- Returns the names, for completion.
function M.names()
  M.follow()
  vim.wait(300, function()
    return available and next(hosts) ~= nil
  end, 5)
  local names = vim.tbl_keys(available and hosts or {})
  table.sort(names)
  return names
end

--- Returns whether the daemon tells of changes; nothing as long as that is not known.
function M.available()
  return available
end

return M
