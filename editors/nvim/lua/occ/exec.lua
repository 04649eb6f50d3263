-- Commands on hosts: their output goes into a scratch buffer, or into the quickfix list, as it comes.

local base64 = require('occ.base64')
local rpc = require('occ.rpc')

local M = {}

-- The requests that write into quickfix lists, by the lists' ids.
local running = {}

local function bytes(data)
  return type(data) == 'table' and base64.decode(data.b64) or data
end

--- Returns a function that takes bytes and gives whole lines to `take`; without bytes, what is left.
local function splitter(take)
  local rest = ''
  return function(more)
    if not more then
      if rest ~= '' then
        take({ rest })
      end
      return
    end
    local lines = vim.split(rest .. more, '\n', { plain = true })
    rest = table.remove(lines)
    if #lines > 0 then
      take(vim.tbl_map(function(line)
        return (line:gsub('\r$', ''))
      end, lines))
    end
  end
end

local function scratch(title)
  vim.cmd('botright new')
  local buffer = vim.api.nvim_get_current_buf()
  vim.bo[buffer].buftype = 'nofile'
  vim.bo[buffer].bufhidden = 'wipe'
  vim.bo[buffer].swapfile = false
  pcall(vim.api.nvim_buf_set_name, buffer, title .. ' #' .. buffer)
  local is_first = true
  return buffer, function(lines)
    if vim.api.nvim_buf_is_valid(buffer) then
      vim.api.nvim_buf_set_lines(buffer, is_first and 0 or -1, -1, false, lines)
      is_first = false
    end
  end
end

--- Returns the id of a new quickfix list, and a function that adds lines to it. Places in files are those of the host.
local function quickfix(host, title)
  vim.fn.setqflist({}, ' ', { title = title, items = {} })
  local list = vim.fn.getqflist({ id = 0 }).id
  local format = vim.o.errorformat
  vim.cmd('botright copen')
  -- One buffer shows whichever list is the current one.
  vim.keymap.set('n', '<C-c>', function()
    rpc.cancel(running[vim.fn.getqflist({ id = 0 }).id])
  end, { buffer = true, desc = 'End the command' })
  return list, function(lines)
    local items = vim.fn.getqflist({ lines = lines, efm = format }).items
    local ours = {}
    for _, item in ipairs(items) do
      local name = item.bufnr > 0 and vim.fn.bufname(item.bufnr) or ''
      if name ~= '' and not name:find('^occ://') then
        ours[item.bufnr] = true
        item.filename = 'occ://' .. host .. '/' .. name
        item.bufnr = nil
      end
    end
    vim.fn.setqflist({}, 'a', { id = list, items = items })
    -- Made for the places alone: this machine's files of the same names are not meant.
    for buffer in pairs(ours) do
      if not vim.api.nvim_buf_is_loaded(buffer) then
        pcall(vim.api.nvim_buf_delete, buffer, {})
      end
    end
  end
end

--- Runs a line of the host's shell. `on_done(exit, problem)` is called at its end.
function M.run(host, line, options)
  options = options or {}
  local title = 'occ ' .. host .. ': ' .. line
  local buffer, list, add
  if options.quickfix then
    list, add = quickfix(host, title)
  else
    buffer, add = scratch(title)
  end
  local out, err = splitter(add), splitter(add)
  local exit, why
  local id = rpc.ask({
    method = 'POST',
    path = '/v1/hosts/' .. host .. '/exec',
    headers = { accept = 'application/x-ndjson' },
    body = { shell = line },
  }, {
    event = function(event)
      local data = event.data
      if data.type == 'stdout' then
        out(bytes(data.data))
      elseif data.type == 'stderr' then
        err(bytes(data.data))
      elseif data.type == 'exit' then
        exit = data
      elseif data.type == 'error' then
        why = data.problem
      end
    end,
    done = function(answer)
      out(nil)
      err(nil)
      why = why or answer.problem
      if list then
        running[list] = nil
      end
      if buffer and vim.api.nvim_buf_is_valid(buffer) then
        vim.b[buffer].occ_exit = exit and (exit.code or exit.signal) or vim.NIL
      end
      if why and why.code ~= 'cancelled' then
        rpc.complain('occ: ' .. rpc.reason(why))
      elseif exit and exit.code ~= 0 then
        local how = exit.signal and ('ended by ' .. exit.signal) or ('exit ' .. tostring(exit.code))
        vim.notify(title .. ': ' .. how, vim.log.levels.WARN)
      end
      if options.on_done then
        options.on_done(exit, why)
      end
    end,
  })
  if list then
    running[list] = id
  end
  if buffer then
    -- Who closes the window wants no more of it.
    vim.api.nvim_create_autocmd('BufWipeout', {
      buffer = buffer,
      once = true,
      callback = function()
        rpc.cancel(id)
      end,
    })
    vim.keymap.set('n', '<C-c>', function()
      rpc.cancel(id)
    end, { buffer = buffer, desc = 'End the command' })
  end
  return id
end

--- Runs what `:OccExec HOST -- command` says.
function M.command(args, bang)
  local host, line = args:match('^%s*(%S+)%s+%-%-%s+(.+)$')
  if not host then
    return vim.api.nvim_err_writeln('occ: it is :OccExec HOST -- command')
  end
  M.run(host, line, { quickfix = bang })
end

return M
