-- The one `occ api` of this Neovim: requests out, answers back to whoever asked. docs/api.md has the lines.

local M = {}

-- The token by which the daemon knows whom to ask what our requests need (lua/occ/prompts.lua).
M.token = nil

local job = nil
local rest = ''
local last_id = 0
local waiting = {}

--- Returns the program and its arguments.
function M.command()
  local command = vim.g.occ_command or { 'occ' }
  return type(command) == 'table' and command or { command }
end

local function problem(detail)
  return { status = 503, code = 'daemon_unreachable', detail = detail }
end

local function fail_all(detail)
  local all = waiting
  waiting = {}
  for _, request in pairs(all) do
    request.done({ status = 503, headers = {}, body = problem(detail), problem = problem(detail) })
  end
end

local function heard(line)
  local ok, message = pcall(vim.json.decode, line, { luanil = { object = true, array = true } })
  if not ok or type(message) ~= 'table' then
    return
  end
  local request = message.id and waiting[message.id]
  if not request then
    return
  end
  if message.status and not message.stream then
    waiting[message.id] = nil
    if message.status >= 400 then
      message.problem = type(message.body) == 'table' and message.body or problem('no reason is known')
    end
    request.done(message)
  elseif message.stream then
    request.answer = message
    if request.opened then
      request.opened(message)
    end
  elseif message['end'] then
    waiting[message.id] = nil
    local answer = request.answer or { status = 503, headers = {} }
    answer.problem = message.problem
    request.done(answer)
  elseif message.event and request.event then
    request.event(message)
  end
end

local function start()
  rest = ''
  local id
  id = vim.fn.jobstart(vim.list_extend(vim.list_extend({}, M.command()), { 'api' }), {
    env = { OCC_CLIENT = 'editor' },
    on_stdout = function(_, data)
      if id ~= job then
        return
      end
      data[1] = rest .. data[1]
      rest = table.remove(data)
      for _, line in ipairs(data) do
        heard(line)
      end
    end,
    on_exit = function()
      if id == job then
        job = nil
        fail_all('occ api has ended.')
      end
    end,
  })
  if id <= 0 then
    return false
  end
  job = id
  return true
end

--- Sends a request. `handlers.done(answer)` is called once, with `status`, `headers`, `body` and, where something went
--- wrong, `problem`; for a stream `handlers.opened(answer)` comes first and `handlers.event(event)` for each event.
--- Returns the request's ID.
function M.request(request, handlers)
  last_id = last_id + 1
  local id = last_id
  if not job and not pcall(start) or not job then
    local detail = table.concat(M.command(), ' ') .. ' cannot be run.'
    vim.schedule(function()
      handlers.done({ status = 503, headers = {}, problem = problem(detail) })
    end)
    return id
  end
  request.id = id
  waiting[id] = handlers
  vim.fn.chansend(job, vim.json.encode(request) .. '\n')
  return id
end

--- The same for what somebody has asked for: what it needs to know is asked here.
function M.ask(request, handlers)
  local prompts = require('occ.prompts')
  M.token = M.token or prompts.token()
  prompts.listen()
  request.headers = request.headers or vim.empty_dict()
  request.headers['occ-prompts'] = M.token
  return M.request(request, handlers)
end

--- Ends a request.
function M.cancel(id)
  if job and waiting[id] then
    vim.fn.chansend(job, vim.json.encode({ cancel = id }) .. '\n')
  end
end

--- Asks, and waits for the answer, and asks questions meanwhile. Ctrl-C gives up.
function M.wait(request, handlers, limit)
  handlers = handlers or {}
  local answer
  handlers.done = function(message)
    answer = message
  end
  local id = M.ask(request, handlers)
  local _, why = vim.wait(limit or 3600000, function()
    return answer ~= nil
  end, 5)
  if not answer then
    M.cancel(id)
    waiting[id] = nil
    answer = { status = 503, headers = {}, problem = problem(why == -2 and 'Interrupted.' or 'No answer in time.') }
  end
  return answer
end

--- Returns the process's job, for :checkhealth and tests.
function M.job()
  return job
end

return M
