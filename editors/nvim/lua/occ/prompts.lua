-- Questions that our own requests raise, asked in the editor. Other clients' questions are theirs.

local rpc = require('occ.rpc')

local M = {}

-- How long nobody may have typed before a question is asked, in milliseconds: what is being typed is no answer.
local QUIET = 400
-- How often it is looked whether it may be asked.
local LOOK = 100

local listening = false
local queue = {}
local asking = nil
-- What a window of somebody's vim.ui.input asks, which may stay open for long.
local window = nil
-- Whether it is asked in the editor's own command line, and not in a window of somebody's vim.ui.input.
local in_command_line = false
-- Whether it was taken back there, and what is still typed is meant for it.
local taken_back = false
local looking = false
local typed_at = 0
-- When somebody had typed last before they were told that a question waits: what is typed is drawn over that.
local told_at = nil
-- The hosts whose key somebody has just trusted here.
local trusted = {}
-- The IDs of what somebody is to answer, here or in a terminal.
local open = {}

--- Returns a token that nobody can guess.
function M.token()
  local bytes = vim.loop.random(16)
  return 'nvim-' .. bytes:gsub('.', function(byte)
    return string.format('%02x', byte:byte())
  end)
end

local function answer(prompt, text)
  local body = text ~= nil and { answer = text } or vim.empty_dict()
  rpc.request({
    method = 'POST',
    path = '/v1/prompts/' .. prompt.id .. '?client=' .. rpc.token,
    body = body,
  }, {
    done = function(reply)
      -- Somebody else may have been faster.
      if reply.problem and reply.problem.code ~= 'prompt_not_found' then
        rpc.complain('occ: ' .. reply.problem.detail)
      end
    end,
  })
end

-- What `aloud` calls.
M.call = nil

--- Calls `call` so that all it says is shown: under `:silent` only the last line of a question would be.
local function aloud(call)
  M.call = call
  vim.cmd("unsilent lua require('occ.prompts').call()")
end

--- Says something, also while the editor stands still.
local function say(text)
  if not rpc.is_waiting() then
    return vim.notify(text)
  end
  aloud(function()
    vim.notify(rpc.wrapped(text))
    -- What draws it.
    vim.cmd('sleep 1m')
  end)
end

local function said(prompt)
  local host = prompt.host and ('[' .. prompt.host .. '] ') or ''
  local lines = {}
  for _, key in ipairs(prompt.new_host_keys or {}) do
    -- Nobody is told what they have just said.
    if not trusted[key.host] then
      lines[#lines + 1] = '[' .. key.host .. '] New host key recorded: ' .. key.key
    end
  end
  if prompt.note then
    lines[#lines + 1] = host .. prompt.note
  end
  lines[#lines + 1] = host .. prompt.message
  return table.concat(lines, '\n')
end

local function is_typing()
  return vim.loop.now() - typed_at < QUIET
end

--- Returns when somebody will be asked, if not now: whatever is typed must be meant for the question. While the editor
--- stands still nobody can do as that says, and what is typed is set aside; see `ask`.
local function later()
  if rpc.is_waiting() then
    return nil
  end
  local mode = vim.api.nvim_get_mode().mode
  if not mode:find('^n') or mode:find('^no') or vim.fn.getcmdwintype() ~= '' then
    return 'in Normal mode'
  end
  if vim.fn.reg_recording() ~= '' then
    return 'once no macro is recorded'
  end
  return is_typing() and 'in a moment' or nil
end

local next_one

--- Looks again soon whether the next question may be asked.
local function look_again()
  if not looking then
    looking = true
    vim.defer_fn(function()
      looking = false
      next_one()
    end, LOOK)
  end
end

--- Returns the keys that are typed until nothing is typed for a while, for afterwards; without what is left of an answer, which
--- ends with Enter, if there is one.
local function typed_until_quiet(answers)
  local keys, since = {}, vim.loop.now()
  repeat
    local key = vim.fn.getcharstr(0)
    if answers and key == '\r' then
      keys, since, answers = {}, vim.loop.now(), false
    elseif key ~= '' then
      keys[#keys + 1], since = key, vim.loop.now()
    else
      vim.wait(LOOK / 10)
    end
  until vim.loop.now() - since > QUIET
  return answers and {} or keys
end

--- Types keys, behind what is there already.
local function type_again(keys)
  for _, key in ipairs(keys) do
    -- What begins like this is a key's own code (K_SPECIAL); in a character that byte stands for itself.
    vim.api.nvim_feedkeys(key, 't', key:sub(1, 1) ~= '\128')
  end
end

--- Shows all lines of a question but the last, above the command line. As messages they would be drawn over by whatever draws
--- a status line, and by themselves where they are wrapped. Returns what takes them away.
local function shown(lines)
  if #lines == 0 then
    return function() end
  end
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  local ok, view = pcall(vim.api.nvim_open_win, buffer, false, {
    relative = 'editor',
    anchor = 'SW',
    row = vim.o.lines - vim.o.cmdheight - (vim.o.laststatus > 0 and 1 or 0),
    col = 0,
    width = vim.o.columns,
    height = #lines,
    style = 'minimal',
    focusable = false,
    noautocmd = true,
    zindex = 250,
  })
  if ok then
    vim.api.nvim_win_set_option(view, 'winhighlight', 'NormalFloat:MsgArea')
  end
  return function()
    pcall(vim.api.nvim_win_close, view, true)
    pcall(vim.api.nvim_buf_delete, buffer, { force = true })
  end
end

--- Returns whether the editor writes in order to leave, as `:wq` does, or may do so: it draws no window then. Nothing but its own
--- variable tells.
local function is_leaving()
  local ok, is = pcall(function()
    local ffi = require('ffi')
    pcall(ffi.cdef, 'bool exiting;')
    return ffi.C.exiting
  end)
  return not ok or is
end

--- Returns what to ask for a question in the command line, and what takes away the rest of it.
local function last_line(text)
  text = rpc.wrapped(text)
  local lines = vim.split(text, '\n', { plain = true })
  -- As a whole it is shown page by page.
  local is_long = #lines > vim.o.lines - vim.o.cmdheight - 1
  if is_leaving() or is_long then
    return text, function() end
  end
  local last = table.remove(lines)
  return last, shown(lines)
end

--- Asks, with what has been typed ahead, or is left of a macro, kept for afterwards. `input` takes the question, where it is asked
--- in the command line. Ctrl-C is an error; another one is somebody's vim.ui.input's.
local function ask(input, question)
  local of = asking
  vim.cmd('redraw')
  vim.fn.inputsave()
  local ok, ahead = true, {}
  if rpc.is_waiting() then
    ok, ahead = pcall(typed_until_quiet)
    ahead = ok and ahead or {}
  end
  local text
  -- Meanwhile it may have been taken back.
  if ok and asking == of then
    local take_away = function() end
    if question then
      question, take_away = last_line(question)
      vim.cmd('redraw')
    end
    in_command_line, taken_back = true, false
    local since = vim.loop.now()
    aloud(function()
      ok, text = pcall(input, question)
    end)
    in_command_line = false
    take_away()
    if not ok and not tostring(text):find('nterrupt') then
      rpc.complain('occ: ' .. tostring(text))
    end
    if taken_back then
      -- The rest of what was meant for it is no command.
      local is_kept, more = pcall(typed_until_quiet, true)
      vim.list_extend(ahead, is_kept and more or {})
      taken_back = false
      rpc.complain_again(since)
      vim.schedule(next_one)
    end
    if question then
      -- What is said next is not to stand behind the answer, and no secret to stay, however it is shown.
      aloud(function()
        vim.cmd("redraw | echo ''")
      end)
    end
  end
  vim.fn.inputrestore()
  type_again(ahead)
  return ok, text
end

--- Returns whether questions are asked in the editor's own command line.
local function asks_itself()
  return debug.getinfo(vim.ui.input, 'S').source:find('vim/ui%.lua$') ~= nil
end

--- Returns whether an answer to whether a host is to be trusted is one: a slip of the finger decides nothing.
local function is_verdict(text)
  local word = vim.trim(text)
  return word:lower() == 'yes' or word:lower() == 'no' or word:find('^SHA256:') ~= nil
end

next_one = function()
  -- While the editor stands still nobody can get to that window.
  if asking or taken_back or window and not rpc.is_waiting() or #queue == 0 then
    return
  end
  local prompt = table.remove(queue, 1)
  if prompt.kind == 'notice' then
    say('occ: ' .. said(prompt))
    return next_one()
  end
  if prompt.kind == 'approval' then
    say('occ: ' .. said(prompt) .. '\nIn a terminal: occ prompts --allow ' .. prompt.id .. ', or --deny ' .. prompt.id)
    return next_one()
  end
  if not M.has_person() then
    rpc.complain('occ: nobody is here to answer: ' .. said(prompt))
    answer(prompt, nil)
    return next_one()
  end
  local when = later()
  if when then
    table.insert(queue, 1, prompt)
    if not is_typing() and told_at ~= typed_at then
      told_at = typed_at
      vim.notify('occ: ' .. (prompt.host or 'occd') .. ' needs an answer. It is asked for ' .. when .. '.')
    end
    return look_again()
  end
  asking = prompt
  local function done(text)
    if asking ~= prompt and window ~= prompt then
      if text and text ~= '' then
        rpc.afterwards(rpc.complain, 'occ: ' .. (prompt.host or 'occd') .. ' does not ask that any more.')
      end
      return
    end
    asking = asking ~= prompt and asking or nil
    window = window ~= prompt and window or nil
    if prompt.kind == 'host_key' and text and text ~= '' and not is_verdict(text) then
      prompt.note = 'Type yes or no, or the fingerprint that you have from elsewhere.'
      table.insert(queue, 1, prompt)
      vim.schedule(next_one)
      return
    end
    if prompt.kind == 'host_key' and prompt.host and text and text ~= '' then
      trusted[prompt.host] = true
    end
    answer(prompt, text)
    next_one()
  end
  -- Nothing, or Ctrl-C, which is an error, declines.
  if vim.fn.reg_recording() ~= '' then
    rpc.complain('occ: nothing is asked while a macro is recorded: the answer would be kept in it.')
    done(nil)
  elseif prompt.secret then
    local ok, text = ask(vim.fn.inputsecret, said(prompt) .. ': ')
    done(ok and text ~= '' and text or nil)
  else
    local text = said(prompt)
    local is_said = prompt.kind ~= 'keep' and prompt.kind ~= 'host_key' or text:find('%(yes/no%)$')
    text = text .. (is_said and ': ' or ' (yes/no): ')
    if rpc.is_waiting() or asks_itself() then
      -- While the editor stands still no window of somebody's could be typed into.
      local ok, given = ask(vim.fn.input, text)
      return done(ok and given ~= '' and given or nil)
    end
    local ok = ask(function()
      vim.ui.input({ prompt = text }, done)
    end)
    if not ok then
      done(nil)
    elseif asking == prompt then
      asking, window = nil, prompt
    end
  end
end

--- Returns whether somebody sees this Neovim.
function M.has_person()
  return #vim.api.nvim_list_uis() > 0
end

--- Returns whether somebody has just trusted a host's key here, and forgets it.
function M.was_trusted(host)
  local was = trusted[host]
  trusted[host] = nil
  return was
end

--- Asks what waits for a window, as the editor stands still from now on.
function M.stand_still()
  vim.schedule(next_one)
end

--- Takes a question back that has expired, that somebody else has answered, or whose asker is gone; all of them without one.
local function withdraw(id)
  queue = vim.tbl_filter(function(prompt)
    return id and prompt.id ~= id
  end, queue)
  if id then
    open[id] = nil
  else
    open = {}
  end
  if window and (not id or window.id == id) then
    window = nil
    vim.schedule(next_one)
  end
  if asking and (not id or asking.id == id) then
    asking = nil
    if in_command_line and vim.api.nvim_get_mode().mode:find('^c') then
      taken_back = true
      vim.api.nvim_input('<Esc>')
    end
    vim.schedule(next_one)
  end
end

--- Listens for questions from now on; of a daemon that runs already, if `start` is false.
function M.listen(start)
  if listening then
    return
  end
  listening = true
  -- What was typed last was not heard.
  typed_at = vim.loop.now()
  vim.on_key(function(key)
    -- What the editor makes up itself, for an event of ours as well, begins like this (K_SPECIAL, KS_EXTRA).
    if key:sub(1, 2) ~= '\128\253' then
      typed_at = vim.loop.now()
    end
  end, vim.api.nvim_create_namespace('occ'))
  rpc.request({
    method = 'GET',
    path = '/v1/prompts?client=' .. rpc.token,
    headers = { accept = 'application/x-ndjson' },
    start = start,
  }, {
    event = function(event)
      local line = event.data
      if line.type == 'opened' then
        queue[#queue + 1] = line.prompt
        open[line.prompt.id] = line.prompt.kind ~= 'notice' or nil
        vim.schedule(next_one)
      elseif line.type == 'closed' then
        withdraw(line.id)
      end
    end,
    -- The next request of ours listens again; now, if one waits for the next daemon, which asks anew.
    done = function()
      listening = false
      withdraw()
      if rpc.is_asking() then
        vim.defer_fn(function()
          M.listen(false)
        end, LOOK)
      end
    end,
  })
end

--- Returns whether somebody is to answer something.
function M.open()
  return next(open) ~= nil
end

return M
