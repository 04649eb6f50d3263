-- Questions that our own requests raise, asked in the editor. Other clients' questions are theirs.

local rpc = require('occ.rpc')

local M = {}

local listening = false
local queue = {}
local asking = nil
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
        vim.notify('occ: ' .. reply.problem.detail, vim.log.levels.ERROR)
      end
    end,
  })
end

local function said(prompt)
  local host = prompt.host and ('[' .. prompt.host .. '] ') or ''
  local lines = {}
  for _, key in ipairs(prompt.new_host_keys or {}) do
    lines[#lines + 1] = '[' .. key.host .. '] New host key recorded: ' .. key.key
  end
  if prompt.note then
    lines[#lines + 1] = host .. prompt.note
  end
  lines[#lines + 1] = host .. prompt.message
  return table.concat(lines, '\n')
end

local function next_one()
  if asking or #queue == 0 then
    return
  end
  local prompt = table.remove(queue, 1)
  if prompt.kind == 'notice' then
    vim.notify('occ: ' .. said(prompt))
    return next_one()
  end
  if prompt.kind == 'approval' then
    vim.notify('occ: ' .. said(prompt) .. '\nIn a terminal: occ prompts --allow ' .. prompt.id .. ', or --deny ' .. prompt.id)
    return next_one()
  end
  asking = prompt
  local function done(text)
    if asking ~= prompt then
      return
    end
    asking = nil
    answer(prompt, text)
    next_one()
  end
  -- Nothing, or Ctrl-C, which is an error, declines.
  if prompt.secret then
    local ok, text = pcall(vim.fn.inputsecret, said(prompt) .. ': ')
    done(ok and text ~= '' and text or nil)
  else
    local text = said(prompt)
    local is_said = prompt.kind ~= 'keep' and prompt.kind ~= 'host_key' or text:find('%(yes/no%)$')
    if not pcall(vim.ui.input, { prompt = text .. (is_said and ': ' or ' (yes/no): ') }, done) then
      done(nil)
    end
  end
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
  if asking and (not id or asking.id == id) then
    asking = nil
    if vim.api.nvim_get_mode().mode:find('^c') then
      vim.api.nvim_input('<Esc>')
    end
    vim.schedule(next_one)
  end
end

--- Listens for questions from now on.
function M.listen()
  if listening then
    return
  end
  listening = true
  rpc.request({
    method = 'GET',
    path = '/v1/prompts?client=' .. rpc.token,
    headers = { accept = 'application/x-ndjson' },
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
    -- The next request of ours listens again.
    done = function()
      listening = false
      withdraw()
    end,
  })
end

--- Returns whether somebody is to answer something.
function M.open()
  return next(open) ~= nil
end

return M
