-- The one `occ api` of this Neovim: requests out, answers back to whoever asked. docs/api.md has the lines.

local base64 = require('occ.base64')

local M = {}

-- How much of an upload is in one line, in bytes: a mebibyte in base64.
local PIECE = 768 * 1024
-- How long a request may give no sign of life before it is given up, in milliseconds.
local SILENCE = 300000
-- How often it is looked whether an answer has come, in milliseconds.
local SLICE = 5

-- The token by which the daemon knows whom to ask what our requests need (lua/occ/prompts.lua).
M.token = nil

local job = nil
local rest = ''
local last_id = 0
-- How many lines `occ api` was sent: by its number it names a line that it cannot read.
local last_line = 0
local waiting = {}
-- Neovim ends all jobs; for one that is started now it would wait for ever.
local is_ending = false
-- How many requests the editor stands still for, and what is put off until then.
local waits = 0
local put_off = {}
-- What was said last beside a command line.
local hidden = nil
-- What went wrong last, and when.
local complained, complained_at = nil, 0

--- Returns the program and its arguments.
function M.command()
  local command = vim.g.occ_command or { 'occ' }
  return type(command) == 'table' and command or { command }
end

local function problem(detail)
  return { status = 503, code = 'daemon_unreachable', detail = detail }
end

local function now()
  return vim.loop.hrtime() / 1e6
end

--- Sends a line of a request.
local function send(id, line)
  last_line = last_line + 1
  waiting[id].line = last_line
  vim.fn.chansend(job, vim.json.encode(line) .. '\n')
end

--- Sends the next piece of an upload, or its end. The one after it is sent when it was taken.
local function send_piece(id)
  local request = waiting[id]
  local piece = request.upload:sub(request.sent + 1, request.sent + PIECE)
  if piece == '' then
    return send(id, { id = id, close = true })
  end
  request.sent = request.sent + #piece
  send(id, { id = id, send_b64 = base64.encode(piece), ack = request.sent })
end

--- Returns the ID of the request whose last line that is.
local function id_of(line)
  for id, request in pairs(waiting) do
    if request.line == line then
      return id
    end
  end
end

--- Calls what may call others' functions: what goes wrong with one answer takes nothing from the next.
local function guarded(take, ...)
  local ok, why = xpcall(take, debug.traceback, ...)
  if not ok then
    M.complain('occ: ' .. why)
  end
end

local function fail_all(detail)
  local all = waiting
  waiting = {}
  for _, request in pairs(all) do
    guarded(request.done, { status = 503, headers = {}, body = problem(detail), problem = problem(detail) })
  end
end

--- Calls `say(text)` once what goes on has ended, such as the command that reads a buffer, or somebody's window: it draws the
--- screen in its end, and with that over whatever was said before.
function M.afterwards(say, text)
  vim.schedule(function()
    vim.cmd('redraw')
    say(text)
  end)
end

--- Tells of host keys that were recorded for an answer, unless somebody has just said so here.
local function tell(headers)
  local values = headers['occ-new-host-key'] or {}
  for _, value in ipairs(type(values) == 'table' and values or { values }) do
    local ok, new = pcall(vim.json.decode, value)
    if ok and not require('occ.prompts').was_trusted(new.host) then
      local how = new.not_recorded and 'not recorded (' .. new.not_recorded .. ')' or 'recorded'
      -- Short: a line more has to be waved away.
      M.afterwards(vim.notify, 'occ: ' .. how .. ': ' .. new.host .. ' ' .. new.key:gsub('^%S+ ', ''))
    end
  end
end

local function heard(line)
  local ok, message = pcall(vim.json.decode, line, { luanil = { object = true, array = true } })
  if not ok or type(message) ~= 'table' then
    return
  end
  if message.status and message.status >= 400 and not message.stream then
    message.problem = type(message.body) == 'table' and message.body or problem('no reason is known')
  end
  local id = message.id
  if not id and message.problem then
    -- It is about a line that could not be read.
    id = id_of((message.problem.position or {}).line)
    if not id then
      return M.complain('occ: ' .. message.problem.detail)
    end
  end
  local request = id and waiting[id]
  if not request then
    return
  end
  request.heard = now()
  if message.headers then
    guarded(tell, message.headers)
  end
  if message.ack then
    send_piece(id)
  elseif message.status and not message.stream then
    waiting[id] = nil
    request.done(message)
  elseif message.stream then
    request.answer = message
    if request.opened then
      request.opened(message)
    end
  elseif message['end'] then
    waiting[id] = nil
    local answer = request.answer or { status = 503, headers = {} }
    answer.problem = message.problem
    request.done(answer)
  elseif message.event and request.event then
    request.event(message)
  end
end

vim.api.nvim_create_autocmd('VimLeave', {
  callback = function()
    is_ending = true
  end,
})

local function start()
  if is_ending then
    return false
  end
  rest = ''
  last_line = 0
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
        guarded(heard, line)
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
--- `handlers.upload` are the bytes of its body, of any length. Returns the request's ID.
function M.request(request, handlers)
  handlers.heard = now()
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
  request.upload = handlers.upload ~= nil or nil
  waiting[id] = handlers
  send(id, request)
  if handlers.upload then
    handlers.sent = 0
    send_piece(id)
  end
  return id
end

--- The same for what somebody has asked for: what it needs to know is asked here.
function M.ask(request, handlers)
  local prompts = require('occ.prompts')
  M.token = M.token or prompts.token()
  prompts.listen()
  request.headers = request.headers or vim.empty_dict()
  request.headers['occ-prompts'] = M.token
  handlers.asks = true
  return M.request(request, handlers)
end

--- Returns whether a request of somebody's is under way.
function M.is_asking()
  for _, request in pairs(waiting) do
    if request.asks then
      return true
    end
  end
  return false
end

--- Ends a request.
function M.cancel(id)
  if job and waiting[id] then
    send(id, { cancel = id })
  end
end

--- Returns text with an end of line wherever it would be wrapped: what it wraps itself is drawn
--- twice while it stands still, and beside a command line that was given up.
function M.wrapped(text)
  local width = vim.o.columns - 1
  local lines = {}
  for _, line in ipairs(vim.split(text, '\n', { plain = true })) do
    while vim.fn.strdisplaywidth(line) > width do
      local head = vim.fn.strcharpart(line, 0, width)
      while vim.fn.strdisplaywidth(head) > width do
        head = vim.fn.strcharpart(head, 0, vim.fn.strchars(head) - 1)
      end
      head = head:match('^(.*%s)%S*$') or head
      lines[#lines + 1] = head
      line = line:sub(#head + 1)
    end
    lines[#lines + 1] = line
  end
  return table.concat(lines, '\n')
end

--- Says once more what was drawn over.
local function say_again(text)
  vim.api.nvim_echo({ { M.wrapped(text), 'ErrorMsg' } }, false, {})
end

--- Says what went wrong. It is no error of the editor's: that would end whatever it is about to do, or is being answered.
--- Where a question is given up that is shown beside it, both are drawn over: it is shown once more.
function M.complain(text)
  complained, complained_at = text, vim.loop.now()
  vim.api.nvim_echo({ { text, 'ErrorMsg' } }, true, {})
  if not vim.api.nvim_get_mode().mode:find('^c') then
    return
  end
  if not hidden then
    vim.api.nvim_create_autocmd('CmdlineLeave', {
      once = true,
      callback = function()
        local last = hidden
        hidden = nil
        if vim.v.event.abort then
          vim.schedule(function()
            say_again(last)
          end)
        end
      end,
    })
  end
  hidden = text
end

--- Says once more what went wrong since then, if anything: it was drawn over.
function M.complain_again(since)
  if complained_at >= since then
    M.afterwards(say_again, complained)
  end
end

local function wait_for(request, handlers, silence)
  handlers = handlers or {}
  silence = silence or SILENCE
  local answer
  handlers.done = function(message)
    answer = message
  end
  local id = M.ask(request, handlers)
  require('occ.prompts').stand_still()
  -- With a condition it would not be interrupted by Ctrl-C.
  local _, why
  repeat
    if require('occ.prompts').open() then
      handlers.heard = now()
    end
    _, why = vim.wait(SLICE)
  until answer or why == -2 or now() - handlers.heard > silence
  -- An error of something else that ran meanwhile ends whatever the editor is asked for next: it is taken here.
  local ok, theirs = pcall(vim.cmd, '')
  if not ok then
    M.complain(theirs)
  end
  if not answer then
    M.cancel(id)
    waiting[id] = nil
    local silent = string.format('No sign of it for %d s.', silence / 1000)
    answer = { status = 503, headers = {}, problem = problem(why == -2 and 'Interrupted.' or silent) }
  end
  return answer
end

--- Asks, and waits for the answer, and asks questions meanwhile. Ctrl-C gives up, and so does it by itself when nothing
--- comes for `silence` milliseconds, and nobody is asked anything.
function M.wait(request, handlers, silence)
  waits = waits + 1
  local ok, answer = pcall(wait_for, request, handlers, silence)
  waits = waits - 1
  if waits == 0 then
    local all = put_off
    put_off = {}
    for _, call in ipairs(all) do
      vim.schedule(call)
    end
  end
  return ok and answer or error(answer, 0)
end

--- Calls what draws something as soon as the editor does not stand still: what is said or asked then is nowhere but on the
--- screen, and would be drawn over.
function M.when_drawn(call)
  if waits == 0 then
    return call()
  end
  put_off[#put_off + 1] = call
end

--- Returns whether the editor stands still until an answer comes.
function M.is_waiting()
  return waits > 0
end

-- What `occ connect --host` does about it, and nothing that is done here.
local CONNECTS = { host_stopped = 'connects it', login_refused = 'asks again' }

--- Returns what a problem says, and the way out where there is one line for it.
function M.reason(why)
  local does = why.host and CONNECTS[why.code]
  return why.detail .. (does and ' `occ connect --host ' .. why.host .. '` ' .. does .. '.' or '')
end

--- Returns the process's job, for :checkhealth and tests.
function M.job()
  return job
end

return M
