-- Files of hosts in buffers named occ://HOST/PATH; a PATH that begins with / is absolute, else it is relative to the home
-- directory there.

local base64 = require('occ.base64')
local rpc = require('occ.rpc')
local sha256 = require('occ.sha256')
local bit = require('bit')

local M = {}

-- Of the permissions of a file (POSIX, S_IWUSR).
local OWNER_WRITES = 128
-- The mark of UTF-8 at the beginning of a file ('bomb').
local MARK = '\239\187\191'
local ENDINGS = { unix = '\n', dos = '\r\n', mac = '\r' }

--- Returns host and path of a buffer's name.
function M.parse(name)
  return name:match('^occ://([^/]+)/(.+)$')
end

local function encode(path)
  return (path:gsub('[^%w%-%._~/]', function(byte)
    return string.format('%%%02X', byte:byte())
  end))
end

local function url(host, path, query)
  return '/v1/hosts/' .. encode(host) .. '/files/' .. encode(path) .. (query or '')
end

local function fail(text)
  vim.api.nvim_err_writeln('occ: ' .. text)
end

--- Says why a buffer was not read.
local function complain(text)
  rpc.complain('occ: ' .. text)
end

--- Returns whether a buffer has not even the one empty line that is shown.
local function has_no_line(buffer)
  return vim.api.nvim_buf_call(buffer, vim.fn.wordcount).bytes == 0
end

local function is_utf8(encoding)
  return encoding == '' or encoding:find('^utf%-?8$')
end

--- Returns text in another encoding; nothing where it would not be the same when it comes back. Neovim 0.7 converts no NUL,
--- and takes every encoding of Unicode for UTF-8.
local function convert(text, from, to)
  if is_utf8(from) and is_utf8(to) then
    return text
  end
  if text:find('%z') or vim.fn.iconv('ü', from, to) == 'ü' then
    return nil
  end
  local converted = vim.fn.iconv(text, from, to)
  return vim.fn.iconv(converted, to, from) == text and converted or nil
end

--- Returns what the command names with `++enc=` or `++ff=`.
local function named(option)
  return vim.v.cmdarg:match('%+%+' .. option .. '=(%S+)')
end

--- Returns a line of a file whose lines end with CR as the editor has it, and the other way round: an LF in it is a CR.
local function swap(line)
  return (line:gsub('[\r\n]', { ['\r'] = '\n', ['\n'] = '\r' }))
end

--- Returns what a buffer would be as a file, in UTF-8.
local function bytes_of(buffer)
  local format = named('ff') or vim.bo[buffer].fileformat
  local ending = ENDINGS[format]
  local lines = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
  if #lines == 1 and lines[1] == '' and has_no_line(buffer) then
    return ''
  end
  local last = (vim.bo[buffer].endofline or (vim.bo[buffer].fixendofline and not vim.bo[buffer].binary)) and ending or ''
  if format == 'mac' then
    lines = vim.tbl_map(swap, lines)
  end
  return table.concat(lines, ending) .. last
end

--- Returns the lines of a file, its 'fileformat', and whether the last of them has an end. Without a format that is named
--- the lines end as all of them do.
local function split(text, format)
  local ending = format == 'mac' and '\r' or '\n'
  local has_end = text:sub(-1) == ending or text == ''
  local lines = vim.split(text, ending, { plain = true })
  if has_end then
    table.remove(lines)
  end
  if not format then
    local is_dos = text:find('\r\n', 1, true) ~= nil
    for i, line in ipairs(lines) do
      is_dos = is_dos and (line:sub(-1) == '\r' or (i == #lines and not has_end))
    end
    format = is_dos and 'dos' or 'unix'
  end
  if format == 'mac' then
    lines = vim.tbl_map(swap, lines)
  elseif format == 'dos' then
    lines = vim.tbl_map(function(line)
      return (line:gsub('\r$', ''))
    end, lines)
  end
  return lines, format, has_end
end

local function show(buffer, text, format)
  local has_mark = text:sub(1, #MARK) == MARK and not vim.bo[buffer].binary
  local lines, has_end
  lines, format, has_end = split(has_mark and text:sub(#MARK + 1) or text, format)
  local levels = vim.bo[buffer].undolevels
  vim.bo[buffer].undolevels = -1
  M.filling = { buffer, lines }
  -- Marks, and places of the quickfix list, are those of the file, and do not move as if it had been typed.
  vim.cmd('lockmarks lua require("occ.file").fill()')
  if M.filling then
    -- After an error, whosever it is, the editor leaves commands out without a word until the script has ended.
    M.fill()
  end
  vim.bo[buffer].undolevels = levels
  vim.bo[buffer].fileformat = format
  vim.bo[buffer].bomb = has_mark
  vim.bo[buffer].endofline = has_end
  -- A file without an end of line at its end stays one.
  vim.bo[buffer].fixendofline = has_end
  vim.bo[buffer].modified = false
end

--- Puts lines into a buffer in place of all there are.
function M.fill()
  local buffer, lines = unpack(M.filling)
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  M.filling = nil
end

--- Returns whether a file lacks its owner's permission to write, by its mode in octal digits. Replacing it as a whole
--- takes none.
local function is_locked(mode)
  return bit.band(tonumber(mode or '', 8) or OWNER_WRITES, OWNER_WRITES) == 0
end

--- Sets 'readonly', and takes back what was set here; what somebody has set stays.
local function set_readonly(buffer, readonly)
  if readonly or vim.b[buffer].occ_readonly then
    vim.bo[buffer].readonly = readonly
  end
  vim.b[buffer].occ_readonly = readonly
end

--- Notes what is known of the file of that name; of another name of the same buffer nothing is known. `file` has its
--- entity tag and its digest, or `is_new`, or `is_unread`.
local function note(buffer, name, file)
  file.name = name
  vim.b[buffer].occ_file = file
end

--- Returns what is known of the file of that name.
local function known(buffer, name)
  local file = vim.b[buffer].occ_file
  return file and file.name == name and file or { is_new = true }
end

--- Asks for a file, and returns the answer and its bytes. A daemon that went away meanwhile takes nothing along, and the
--- next request starts another.
local function get(host, path)
  local pieces, answer
  for _ = 1, 2 do
    pieces = {}
    answer = rpc.wait({ method = 'GET', path = url(host, path) }, {
      event = function(event)
        pieces[#pieces + 1] = event.data_b64
      end,
    })
    local why = answer.problem
    if not (why and why.code == 'daemon_unreachable' and why.retryable) then
      break
    end
  end
  return answer, table.concat(vim.tbl_map(base64.decode, pieces))
end

--- Reads the file of a buffer into it (BufReadCmd).
function M.read(buffer, name)
  local host, path = M.parse(name)
  if not host then
    return rpc.afterwards(complain, name .. ' is not occ://HOST/PATH')
  end
  vim.bo[buffer].swapfile = false
  -- Until it is shown: what is shown may not be the file, and must not become it.
  note(buffer, name, { is_unread = true })
  local answer, bytes = get(host, path)
  if not vim.api.nvim_buf_is_valid(buffer) then
    return rpc.afterwards(complain, host .. ':' .. path .. ': the buffer is gone.')
  end
  local why = answer.problem
  -- Of this command, which others may follow before the answer comes.
  local encoding, format = named('enc') or '', named('ff')
  local text = convert(bytes, encoding, 'utf-8')
  if not why and not text then
    why = { detail = 'It cannot be read as ' .. encoding .. '.' }
  end
  if why and why.code == 'file_not_found' then
    show(buffer, '')
    note(buffer, name, { is_new = true })
    rpc.afterwards(vim.notify, '"' .. host .. ':' .. path .. '" [New]')
  elseif why then
    set_readonly(buffer, true)
    return rpc.afterwards(complain, host .. ':' .. path .. ': ' .. rpc.reason(why))
  else
    vim.bo[buffer].fileencoding = encoding
    show(buffer, text, format)
    note(buffer, name, { etag = answer.headers.etag, sha256 = sha256.of(bytes) })
  end
  set_readonly(buffer, is_locked(answer.headers['occ-file-mode']))
  vim.b[buffer].occ_host = host
  vim.api.nvim_buf_call(buffer, function()
    vim.cmd('silent! doautocmd <nomodeline> BufReadPost')
  end)
end

--- Returns what tells a buffer, as a file, from what it was before.
local function state(buffer)
  local options = vim.bo[buffer]
  local tick = vim.api.nvim_buf_get_changedtick(buffer)
  return { tick, options.fileformat, options.endofline, options.fixendofline, options.fileencoding, options.binary, options.bomb }
end

--- Has a buffer count as modified, in whatever state undo brings it back to: for the editor one of these is the one that is
--- saved, and the host may have another. It takes none for that after a write that leaves the buffer unmodified.
local function count_as_modified(buffer)
  vim.bo[buffer].modified = true
  M.settling = buffer
  pcall(vim.api.nvim_buf_call, buffer, function()
    vim.cmd('silent lockmarks write!')
  end)
  M.settling = nil
  vim.bo[buffer].modified = true
end

--- Writes a buffer (BufWriteCmd). What somebody else wrote there meanwhile stays, unless `force` (`:w!`).
function M.write(buffer, name, force)
  if M.settling == buffer then
    vim.bo[buffer].modified = false
    return
  end
  local host, path = M.parse(name)
  if not host then
    return fail(name .. ' is not occ://HOST/PATH')
  end
  local file = known(buffer, name)
  if file.is_unread then
    return fail(host .. ':' .. path .. ' could not be read, and is not written; :e reads it again')
  end
  local encoding = named('enc') or vim.bo[buffer].fileencoding
  local text = convert(bytes_of(buffer), 'utf-8', encoding)
  if not text then
    return fail(host .. ':' .. path .. ' cannot be written in ' .. encoding .. '; nothing was written')
  end
  if vim.bo[buffer].bomb and not vim.bo[buffer].binary and is_utf8(encoding) then
    text = MARK .. text
  end
  local headers, query = { ['content-type'] = 'application/octet-stream' }, ''
  if not force then
    if file.is_new then
      headers['if-none-match'] = '*'
    else
      headers['if-match'] = file.etag
      -- A tag has whole seconds, within which as much may have been written.
      query = '?if_sha256=' .. file.sha256
    end
  end
  local before = state(buffer)
  local answer = rpc.wait({ method = 'PUT', path = url(host, path, query), headers = headers }, { upload = text })
  local why = answer.problem
  local is_there = vim.api.nvim_buf_is_valid(buffer)
  local is_its_own = is_there and name == vim.api.nvim_buf_get_name(buffer)
  if why and is_its_own and file.is_new then
    -- Under a name that it just got, it has never been saved.
    vim.bo[buffer].modified = true
  end
  if why and (why.code == 'file_changed' or why.code == 'file_exists') then
    local what = why.code == 'file_changed' and ' has changed there since it was read' or ' is there already'
    return fail(host .. ':' .. path .. what .. '; nothing was written. :e! reads it, :w! overwrites it')
  elseif why then
    local is_known = why.status and why.status < 500
    if is_its_own and not is_known then
      count_as_modified(buffer)
    end
    local what = is_known and 'Nothing was written.' or 'Nothing is known to be written.'
    return fail(host .. ':' .. path .. ': ' .. rpc.reason(why) .. ' ' .. what)
  end
  if is_its_own then
    note(buffer, name, { etag = answer.headers.etag or (answer.body or {}).etag, sha256 = sha256.of(text) })
    vim.b[buffer].occ_host = host
    if vim.deep_equal(state(buffer), before) then
      vim.bo[buffer].modified = false
    else
      count_as_modified(buffer)
    end
  end
  vim.notify(string.format('"%s:%s" %dB written', host, path, #text))
end

--- Says that a file is read and written as a whole (FileReadCmd, FileWriteCmd, FileAppendCmd): without this, the editor
--- would take the name for one of this machine.
function M.refuse_part(name)
  local host, path = M.parse(name)
  local spot = host and (host .. ':' .. path) or name
  fail(spot .. ': a file of a host is read by :e and written by :w as a whole; nothing was done')
end

--- Gives a buffer whose name is no longer one of a host's file back what it would have had (BufFilePost).
function M.renamed(buffer)
  if vim.b[buffer].occ_file and not M.parse(vim.api.nvim_buf_get_name(buffer)) then
    vim.b[buffer].occ_file = nil
    vim.b[buffer].occ_host = nil
    vim.bo[buffer].swapfile = vim.go.swapfile
  end
end

--- Opens HOST:PATH.
function M.open(spot)
  local host, path = spot:match('^([^:/]+):(.+)$')
  if not host then
    return fail(spot .. ' is not HOST:PATH')
  end
  local ok, why = pcall(vim.cmd, 'edit ' .. vim.fn.fnameescape('occ://' .. host .. '/' .. path))
  if not ok then
    fail((why:gsub('^Vim%b():', '')))
  end
end

return M
