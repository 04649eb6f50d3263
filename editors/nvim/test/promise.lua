-- What the plugin promises, against a real daemon and a real server: occd/tests/promises/editors.rs runs it in headless Neovim.
-- DIR is a directory that both ends see, HOST a host, LOCKED one whose login needs PASSPHRASE.

local dir, host = vim.env.DIR, vim.env.HOST

local function wait(what, holds)
  assert(vim.wait(60000, holds, 5), 'waited for ' .. what)
end

local function write(path, text)
  local file = assert(io.open(path, 'wb'))
  file:write(text)
  file:close()
end

local function read(path)
  local file = io.open(path, 'rb')
  if not file then
    return nil
  end
  local text = file:read('*a')
  file:close()
  return text
end

local function same(a, b)
  assert(vim.deep_equal(a, b), vim.inspect(a) .. ' is not ' .. vim.inspect(b))
end

local said = {}
vim.notify = function(text)
  said[#said + 1] = text
end
local failed = {}
local err_writeln = vim.api.nvim_err_writeln
vim.api.nvim_err_writeln = function(text)
  failed[#failed + 1] = text
end
local echo = vim.api.nvim_echo
vim.api.nvim_echo = function(chunks, ...)
  if chunks[1][2] == 'ErrorMsg' then
    failed[#failed + 1] = chunks[1][1]
  else
    echo(chunks, ...)
  end
end

local function lines()
  return vim.api.nvim_buf_get_lines(0, 0, -1, false)
end

local tests = {}

function tests.base64_is_its_own_inverse()
  local base64 = require('occ.base64')
  same(base64.encode('hello'), 'aGVsbG8=')
  local all = {}
  for i = 0, 255 do
    all[#all + 1] = string.char(i)
  end
  local bytes = table.concat(all)
  for length = 0, 256 do
    same(base64.decode(base64.encode(bytes:sub(1, length))), bytes:sub(1, length))
  end
end

function tests.a_digest_is_that_of_any_bytes()
  local sha256 = require('occ.sha256')
  local text = ('0123456789abcdef\n\255'):rep(12)
  for length = 0, #text do
    same(sha256.lua(text:sub(1, length)), vim.fn.sha256(text:sub(1, length)))
  end
  same(sha256.of('a\0a\n'), 'd7cee3817447cbefd274cc685121ce64ace9706c5517ba6939cb44ccd24f93b1')
end

function tests.the_state_is_known_from_events_and_names_are_completed()
  local occ = require('occ')
  same({ occ.status(), occ.status(host) }, { 'occ: …', 'occ: …' })
  local seen = {}
  wait('the hosts', function()
    seen[occ.status()] = true
    return occ.status():find('^occ: 0/')
  end)
  same(seen['occ: off'], nil)
  same(vim.fn.getcompletion('OccOpen ' .. host, 'cmdline'), { host .. ':' })
  same(vim.fn.getcompletion('OccExec ' .. host, 'cmdline'), { host .. ' --' })
  local changes = 0
  vim.api.nvim_create_autocmd('User', {
    pattern = 'OccChanged',
    callback = function()
      changes = changes + 1
    end,
  })
  vim.fn.system({ 'occ', 'reconnect', '--host', host })
  wait('the connection', function()
    return occ.status(host) == host .. ' connected'
  end)
  wait('the event', function()
    return changes > 0
  end)
  same(occ.status('nobody'), 'nobody unknown')
  wait('both hosts to be known', function()
    return occ.status():match('^occ: %d/2$')
  end)
end

function tests.output_comes_as_it_is_written_into_a_buffer()
  vim.cmd('OccExec ' .. host .. ' -- echo first; while [ ! -e ' .. dir .. '/go ]; do sleep 0.05; done; echo second >&2; printf third; exit 3')
  local buffer = vim.api.nvim_get_current_buf()
  wait('the first line', function()
    return lines()[1] == 'first'
  end)
  write(dir .. '/go', '')
  wait('its end', function()
    return vim.b[buffer].occ_exit == 3
  end)
  same(lines(), { 'first', 'second', 'third' })
  same(vim.bo.buftype, 'nofile')
  assert(said[#said]:find('exit 3', 1, true), said[#said])
  vim.cmd('bwipeout!')
  -- Who closes the buffer ends the command.
  vim.cmd('OccExec ' .. host .. ' -- trap "touch ' .. dir .. '/ended; exit" TERM HUP; echo on; while :; do sleep 0.05; done')
  wait('its beginning', function()
    return lines()[1] == 'on'
  end)
  vim.cmd('bwipeout!')
  wait('the end of the command', function()
    return read(dir .. '/ended') ~= nil
  end)
end

function tests.output_goes_into_the_quickfix_list_with_the_hosts_files()
  write(dir .. '/a.c', 'one\ntwo\nthree\n')
  vim.cmd('OccExec! ' .. host .. ' -- echo ' .. dir .. '/a.c:2: wrong')
  wait('an entry', function()
    return #vim.fn.getqflist() == 1
  end)
  local item = vim.fn.getqflist()[1]
  same({ item.lnum, vim.trim(item.text), item.valid }, { 2, 'wrong', 1 })
  same(vim.fn.bufname(item.bufnr), 'occ://' .. host .. '/' .. dir .. '/a.c')
  vim.cmd('cfirst')
  same(vim.api.nvim_get_current_line(), 'two')
  same(vim.bo.filetype, 'c')
  vim.cmd('cclose | bwipeout!')
end

function tests.a_command_of_a_quickfix_list_is_ended_from_its_window()
  local function begin(name)
    local path = dir .. '/' .. name
    vim.cmd('OccExec! ' .. host .. ' -- trap "touch ' .. path .. '; exit" TERM HUP; echo on; while :; do sleep 0.05; done')
    wait('its beginning', function()
      return #vim.fn.getqflist() == 1
    end)
    return path
  end
  local first, second = begin('first-ended'), begin('second-ended')
  same(vim.bo.buftype, 'quickfix')
  vim.cmd('silent colder')
  vim.cmd('execute "normal \\<C-c>"')
  wait('the end of the command whose list is shown', function()
    return read(first) ~= nil
  end)
  same(read(second), nil)
  vim.cmd('silent cnewer')
  vim.cmd('execute "normal \\<C-c>"')
  wait('the end of the other', function()
    return read(second) ~= nil
  end)
  vim.cmd('execute "normal \\<C-c>"')
  vim.cmd('cclose')
end

function tests.every_place_in_a_file_is_one_of_the_host()
  write(dir .. '/b.c', 'one\ntwo\n')
  vim.cmd('OccExec! ' .. host .. ' -- cd ' .. dir .. '; grep -n . $PWD/b.c $PWD/a.c')
  wait('all entries', function()
    return #vim.fn.getqflist() == 5
  end)
  for _, item in ipairs(vim.fn.getqflist()) do
    local name = vim.fn.bufname(item.bufnr)
    same((name:gsub('[ab]%.c$', '')), 'occ://' .. host .. '/' .. dir .. '/')
  end
  vim.cmd('cclose')
end

function tests.what_fails_beside_a_read_takes_nothing_from_it()
  local text = {}
  for i = 1, 200000 do
    text[i] = 'line ' .. i .. ' of a long file\n'
  end
  local path = dir .. '/beside'
  write(path, table.concat(text))
  local is_over = false
  require('occ.rpc').request({
    method = 'POST',
    path = '/v1/hosts/' .. host .. '/exec',
    headers = { accept = 'application/x-ndjson' },
    body = { shell = 'until [ -e ' .. dir .. '/over ]; do echo x; sleep 0.02; done' },
  }, {
    event = function()
      error('of somebody else')
    end,
    done = function()
      is_over = true
      error('of somebody else')
    end,
  })
  wait('the first error', function()
    return #failed > 0
  end)
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  same(#lines(), #text)
  write(dir .. '/over', '')
  wait('its end', function()
    return is_over
  end)
  assert(#failed > 0 and failed[1]:find('of somebody else'), vim.inspect(failed))
  failed = {}
  vim.cmd('%bwipeout!')
end

function tests.what_is_changed_while_it_is_written_stays_changed()
  local path = dir .. '/changing'
  write(path, 'v1\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  local buffer = vim.api.nvim_get_current_buf()
  vim.schedule(function()
    vim.api.nvim_buf_set_lines(buffer, 0, -1, false, { 'v2' })
  end)
  vim.cmd('write')
  same({ read(path), lines(), vim.bo.modified }, { 'v1\n', { 'v2' }, true })
  -- What was read, or written before, is on the host no more.
  vim.cmd('write')
  vim.o.undolevels = vim.o.undolevels
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, { 'v3' })
  vim.schedule(function()
    vim.cmd('undo')
  end)
  vim.cmd('write')
  same({ read(path), lines(), vim.bo.modified }, { 'v3\n', { 'v2' }, true })
  vim.cmd('redo | undo')
  same({ lines(), vim.bo.modified }, { { 'v2' }, true })
  vim.cmd('write')
  same({ read(path), vim.bo.modified }, { 'v2\n', false })
  -- An option may change what the file would be.
  vim.schedule(function()
    vim.bo[buffer].fileformat = 'dos'
  end)
  vim.cmd('write')
  same({ read(path), vim.bo.modified }, { 'v2\n', true })
  vim.cmd('edit!')
  same({ lines(), vim.bo.fileformat, vim.bo.modified }, { { 'v2' }, 'unix', false })
  same({ read(path), vim.bo.modified }, { 'v2\n', false })
  vim.cmd('bwipeout!')
end

function tests.nothing_that_undo_brings_back_is_left_for_what_the_host_has()
  local rpc = require('occ.rpc')
  local wait_for_answer = rpc.wait
  local path = dir .. '/undone'
  -- A write during which the buffer changes, and one whose outcome nobody knows.
  for _, meanwhile in ipairs({
    function(...)
      vim.o.undolevels = vim.o.undolevels
      vim.api.nvim_buf_set_lines(0, 1, -1, false, { 'three' })
      return wait_for_answer(...)
    end,
    function(...)
      wait_for_answer(...)
      return { status = 503, headers = {}, problem = { status = 503, detail = 'Cut.' } }
    end,
  }) do
    write(path, 'one\n')
    vim.cmd('OccOpen ' .. host .. ':' .. path)
    vim.api.nvim_buf_set_lines(0, 1, -1, false, { 'two' })
    rpc.wait = meanwhile
    vim.cmd('write')
    rpc.wait = wait_for_answer
    same({ read(path), vim.bo.modified }, { 'one\ntwo\n', true })
    for _, keys in ipairs({ 'undo 0', 'redo', 'redo', 'undo', 'undo', 'earlier 1f', 'later 1f', 'undo 0' }) do
      -- In one breath, before anything that is scheduled runs.
      vim.cmd('silent ' .. keys)
      for _, leave in ipairs({ 'bdelete', 'bwipeout', 'quit', 'qall' }) do
        local ok, why = pcall(vim.cmd, leave)
        assert(not ok and tostring(why):find('No write since last change'), keys .. ' | ' .. leave .. ': ' .. tostring(why))
      end
    end
    same(lines(), { 'one' })
    -- Written again, it is what the host has.
    vim.cmd('write!')
    same({ read(path), vim.bo.modified }, { 'one\n', false })
    vim.cmd('bdelete')
  end
  failed = {}
end

function tests.a_buffer_that_is_wiped_meanwhile_is_no_error_of_ours()
  local path = dir .. '/wiped'
  write(path, 'one\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  local buffer = vim.api.nvim_get_current_buf()
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, { 'two' })
  vim.schedule(function()
    vim.cmd('bwipeout! ' .. buffer)
  end)
  local _, why = pcall(vim.cmd, 'write')
  assert(not tostring(why):find('Invalid buffer'), why)
  same(read(path), 'two\n')
end

function tests.a_session_brings_files_back_with_what_is_in_them()
  local session = dir .. '/session.vim'
  for _, name in ipairs({ 'first', 'second', 'hidden' }) do
    write(dir .. '/' .. name, name .. '\nlast\n')
  end
  vim.cmd('OccOpen ' .. host .. ':' .. dir .. '/hidden')
  vim.cmd('OccOpen ' .. host .. ':' .. dir .. '/first')
  vim.cmd('split | OccOpen ' .. host .. ':' .. dir .. '/second')
  vim.cmd('normal! G')
  -- In two windows, and in two tabs.
  vim.cmd('split | tab split')
  vim.cmd('mksession! ' .. session .. ' | %bwipeout!')
  vim.cmd('source ' .. session)
  local shown = {}
  for _, window in ipairs(vim.api.nvim_list_wins()) do
    local buffer = vim.api.nvim_win_get_buf(window)
    local name = vim.fn.fnamemodify(vim.api.nvim_buf_get_name(buffer), ':t')
    same(vim.api.nvim_buf_get_lines(buffer, 0, -1, false), { name, 'last' })
    shown[#shown + 1] = name .. ' ' .. vim.api.nvim_win_get_cursor(window)[1]
  end
  table.sort(shown)
  same(shown, { 'first 1', 'second 2', 'second 2', 'second 2' })
  vim.cmd('buffer ' .. dir:gsub('.*/', '') .. '/hidden')
  same({ lines()[1], vim.bo.modified }, { 'hidden', false })
  same(failed, {})
  vim.cmd('tabonly | only | %bwipeout!')
end

function tests.a_file_is_edited_and_never_over_what_somebody_else_wrote()
  local path = dir .. '/a b.conf'
  write(path, 'one\nzwei ü\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  same(lines(), { 'one', 'zwei ü' })
  same(require('occ').status(), host .. ' connected')
  assert(not vim.bo.modified)
  vim.api.nvim_buf_set_lines(0, 2, 2, false, { 'three' })
  vim.cmd('write')
  same(read(path), 'one\nzwei ü\nthree\n')
  assert(not vim.bo.modified)
  -- The tag has been renewed.
  vim.api.nvim_buf_set_lines(0, 0, 1, false, { '1' })
  vim.cmd('write')
  same(read(path), '1\nzwei ü\nthree\n')
  same(failed, {})
  -- As long, and within the same second.
  write(path, '2\nzwei ü\nthree\n')
  vim.api.nvim_buf_set_lines(0, 0, 1, false, { '3' })
  vim.cmd('write')
  same(read(path), '2\nzwei ü\nthree\n')
  assert(vim.bo.modified)
  assert(failed[1]:find('has changed there since it was read; nothing was written', 1, true), failed[1])
  pcall(vim.cmd, 'wq')
  same(vim.fn.bufname(), 'occ://' .. host .. '/' .. path)
  same(read(path), '2\nzwei ü\nthree\n')
  vim.cmd('edit!')
  same(lines()[1], '2')
  vim.api.nvim_buf_set_lines(0, 0, 1, false, { '4' })
  write(path, 'theirs')
  vim.cmd('write!')
  same(read(path), '4\nzwei ü\nthree\n')
  failed = {}
  vim.cmd('bwipeout!')
end

function tests.what_somebody_else_wrote_within_the_same_second_is_seen_in_any_bytes()
  local path = dir .. '/nul'
  write(path, 'a\0a\n')
  local time = vim.loop.fs_stat(path).mtime.sec
  vim.loop.fs_utime(path, time, time)
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  write(path, 'b\0b\n')
  vim.loop.fs_utime(path, time, time)
  vim.bo.modified = true
  vim.cmd('write')
  same(read(path), 'b\0b\n')
  assert(failed[1]:find('has changed there since it was read; nothing was written', 1, true), vim.inspect(failed))
  failed = {}
  -- As it was written from here it may be written over.
  vim.cmd('write! | set modified | write')
  same({ read(path), failed }, { 'a\0a\n', {} })
  vim.cmd('bwipeout!')
end

function tests.bytes_and_ends_of_lines_stay_as_they_are()
  local path = dir .. '/bytes'
  for _, text in ipairs({ 'no end', 'dos\r\nlines\r\n', 'mixed\r\nlines\n', '\255\0\1\n', '', '\n', '\n\n', '\239\187\191mark\n', '\239\187\191' }) do
    write(path, text)
    vim.cmd('edit! occ://' .. host .. '/' .. path)
    vim.bo.modified = true
    vim.cmd('write')
    same({ read(path), failed }, { text, {} })
  end
  vim.cmd('bwipeout!')
end

function tests.what_a_command_or_an_option_says_of_the_bytes_is_heeded()
  local path = dir .. '/said'
  write(path, 'a\nb\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  vim.cmd('write ++ff=dos')
  same({ read(path), vim.bo.fileformat, vim.bo.modified }, { 'a\r\nb\r\n', 'unix', false })
  vim.cmd('edit! ++ff=unix')
  same({ lines(), vim.bo.fileformat }, { { 'a\r', 'b\r' }, 'unix' })
  vim.cmd('edit! ++fileformat=mac')
  same({ lines(), vim.bo.fileformat }, { { 'a', '\rb', '\r' }, 'mac' })
  vim.cmd('set modified | write')
  same(read(path), 'a\r\nb\r\n')
  write(path, 'a\r\nb\n')
  vim.cmd('edit! ++ff=dos | set modified | write')
  same({ read(path), lines(), vim.bo.fileformat }, { 'a\r\nb\r\n', { 'a', 'b' }, 'dos' })
  -- The mark of UTF-8 is an option, not text, and stays as it was.
  vim.cmd('setlocal bomb fileformat=unix | write')
  same({ read(path), vim.bo.modified }, { '\239\187\191a\nb\n', false })
  vim.cmd('edit!')
  same({ lines(), vim.bo.bomb, vim.bo.modified }, { { 'a', 'b' }, true, false })
  vim.cmd('set modified | write')
  same(read(path), '\239\187\191a\nb\n')
  vim.cmd('setlocal nobomb | write | edit!')
  same({ read(path), vim.bo.bomb, failed }, { 'a\nb\n', false, {} })
  vim.cmd('bwipeout!')
end

function tests.a_name_that_was_not_read_is_a_new_file()
  local path = dir .. '/named'
  local function name(suffix)
    return 'occ://' .. host .. '/' .. path .. suffix
  end
  write(path, 'one\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  vim.cmd('saveas ' .. name('.as'))
  same({ read(path .. '.as'), failed, vim.bo.modified }, { 'one\n', {}, false })
  -- From then on its tag is known.
  vim.api.nvim_buf_set_lines(0, 0, -1, false, { 'two' })
  vim.cmd('write')
  same({ read(path .. '.as'), failed }, { 'two\n', {} })
  vim.cmd('file ' .. name('.file') .. ' | write')
  same({ read(path .. '.file'), failed }, { 'two\n', {} })
  -- One that is there stays, also the second time.
  write(path .. '.theirs', 'theirs\n')
  vim.cmd('saveas ' .. name('.theirs'))
  vim.cmd('write')
  same(read(path .. '.theirs'), 'theirs\n')
  same(#failed, 2)
  for _, why in ipairs(failed) do
    assert(why:find('is there already; nothing was written', 1, true), why)
  end
  vim.cmd('write!')
  same(read(path .. '.theirs'), 'two\n')
  same(read(path), 'one\n')
  vim.cmd('bwipeout!')
  failed = {}
  -- The same from a file of this machine.
  vim.cmd('edit ' .. path .. ' | saveas ' .. name('.here'))
  same({ read(path .. '.here'), failed }, { 'one\n', {} })
  same(require('occ').status(), host .. ' connected')
  vim.cmd('bwipeout!')
end

function tests.nothing_is_written_here_in_the_place_of_a_hosts_file()
  local path = dir .. '/part'
  local name = 'occ://' .. host .. '/' .. path
  write(path, 'one\ntwo\n')
  -- Where a directory of this machine has the name.
  local before = vim.fn.getcwd()
  vim.cmd('cd ' .. dir)
  local here = 'occ:/' .. host .. '/' .. dir .. '/part'
  vim.fn.mkdir(vim.fn.fnamemodify(here, ':h'), 'p')
  write(here, 'local\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  for _, command in ipairs({ '2write! ' .. name, '2write!', 'write! >> ' .. name, '2write ' .. name .. '.new', 'read ' .. name }) do
    failed = {}
    pcall(vim.cmd, command)
    assert(failed[1] and failed[1]:find('as a whole; nothing was done', 1, true), command .. vim.inspect(failed))
    same({ lines(), vim.bo.modified }, { { 'one', 'two' }, false })
  end
  vim.cmd('edit!')
  same({ read(path), read(here), read(here .. '.new') }, { 'one\ntwo\n', 'local\n', nil })
  failed = {}
  -- Under a name of this machine it is a file like any other.
  vim.cmd('saveas ' .. dir .. '/taken')
  same({ read(dir .. '/taken'), vim.b.occ_host, vim.bo.swapfile }, { 'one\ntwo\n', nil, vim.go.swapfile })
  -- What the editor refuses is said in its words.
  vim.o.hidden = false
  vim.bo.modified = true
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  assert(failed[1]:find('^occ: E37: '), vim.inspect(failed))
  failed = {}
  vim.o.hidden = true
  vim.cmd('cd ' .. before .. ' | %bwipeout!')
end

function tests.what_is_left_of_an_emptied_buffer_is_as_in_vim()
  local here, there = dir .. '/empty', dir .. '/emptied'
  for text, edits in pairs({
    ['one\ntwo\n'] = { '%delete', '%delete | undo', 'normal! dG', 'call setline(1, "") | 2delete' },
    ['no end'] = { '%delete' },
    [''] = { 'set modified', 'normal! ix', 'execute "normal! ix" | normal! x', 'normal! ox' },
  }) do
    for _, edit in ipairs(edits) do
      local left = {}
      for path, name in pairs({ [here] = here, [there] = 'occ://' .. host .. '/' .. there }) do
        write(path, text)
        vim.cmd('edit! ' .. name)
        vim.cmd('silent ' .. edit)
        vim.cmd('write')
        left[path] = read(path)
        vim.cmd('bwipeout!')
      end
      same({ edit, left[there], failed }, { edit, left[here], {} })
    end
  end
end

function tests.the_encoding_and_the_ends_of_lines_are_those_that_were_set()
  local path = dir .. '/encoded'
  write(path, 'ü\n')
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  vim.cmd('setlocal fileencoding=latin1 | write')
  same({ read(path), failed, vim.bo.modified }, { '\252\n', {}, false })
  -- What was written there is what is known of it.
  vim.cmd('write')
  same({ read(path), failed }, { '\252\n', {} })
  vim.cmd('write ++enc=utf-8')
  same({ read(path), failed }, { 'ü\n', {} })
  vim.cmd('write')
  -- What it has no letter for is not written as another one.
  vim.api.nvim_buf_set_lines(0, 0, -1, false, { '€' })
  vim.cmd('write!')
  same({ read(path), vim.bo.modified }, { '\252\n', true })
  assert(failed[1]:find("cannot be written in latin1", 1, true), vim.inspect(failed))
  failed = {}
  -- It is read in the encoding that is named, else as it is.
  vim.cmd('edit! ++enc=latin1')
  same({ lines(), vim.bo.fileencoding, vim.bo.modified }, { { 'ü' }, 'latin1', false })
  vim.cmd('set modified | write')
  same({ read(path), failed }, { '\252\n', {} })
  -- Also where its lines and its end are not to be touched.
  vim.cmd('setlocal binary modified | write')
  same({ read(path), failed }, { '\252\n', {} })
  vim.cmd('setlocal nobinary | edit!')
  same({ lines(), vim.bo.fileencoding }, { { '\252' }, '' })
  vim.cmd('set modified | write')
  same({ read(path), failed }, { '\252\n', {} })
  vim.cmd('setlocal fileencoding= fileformat=mac | write')
  same({ read(path), failed }, { '\252\r', {} })
  vim.cmd('setlocal fileencoding=utf-16le | call setline(1, "ü") | write')
  same(read(path), '\252\r')
  assert(failed[1]:find("cannot be written in utf-16le; nothing was written", 1, true), vim.inspect(failed))
  failed = {}
  -- What is not in it is not shown as if it were, nor written.
  vim.cmd('edit! ++enc=euc-jp')
  wait('why it cannot be read', function()
    return #failed > 0
  end)
  assert(failed[1]:find('cannot be read as euc-jp', 1, true), vim.inspect(failed))
  vim.cmd('write!')
  same(read(path), '\252\r')
  failed = {}
  vim.cmd('bwipeout!')
end

function tests.a_long_file_is_written()
  local path = dir .. '/long'
  local line = string.rep('0123456789abcde', 1024 * 1024 / 15)
  local all = {}
  -- In base64 more than one line for `occ api`.
  for i = 1, 49 do
    all[i] = i .. line
  end
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  vim.api.nvim_buf_set_lines(0, 0, -1, false, all)
  vim.cmd('write')
  same(failed, {})
  assert(not vim.bo.modified)
  assert(read(path) == table.concat(all, '\n') .. '\n', 'it is another file')
  -- A refusal comes while pieces are on their way.
  os.remove(path)
  write(path, 'theirs')
  vim.cmd('write')
  assert(failed[1]:find('has changed there since it was read', 1, true), vim.inspect(failed))
  same(read(path), 'theirs')
  failed = {}
  vim.cmd('bwipeout!')
  os.remove(path)
end

function tests.nothing_is_waited_for_that_cannot_come()
  local rpc = require('occ.rpc')
  local answer = rpc.wait({ method = 'PUT', path = '/v1/hosts', body_b64 = string.rep('QUFB', 17 * 1024 * 1024) }, {}, 60000)
  same(answer.problem.code, 'too_large')
  local exec = { method = 'POST', path = '/v1/hosts/' .. host .. '/exec' }
  exec.body = { shell = 'exec sleep 1000' }
  answer = rpc.wait(exec, {}, 100)
  assert(answer.problem.detail:find('No sign', 1, true), vim.inspect(answer))
  -- What gives signs is waited for.
  exec.body = { shell = 'for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.5; done' }
  exec.headers = { accept = 'application/x-ndjson' }
  answer = rpc.wait(exec, {}, 3000)
  same(answer.problem, nil)
end

function tests.a_file_that_may_not_be_written_is_read_only()
  local path = dir .. '/locked'
  write(path, 'one\n')
  vim.loop.fs_chmod(path, tonumber('444', 8))
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  same({ lines(), vim.bo.readonly }, { { 'one' }, true })
  vim.api.nvim_buf_set_lines(0, 0, -1, false, { 'two' })
  local ok, why = pcall(vim.cmd, 'write')
  assert(not ok and why:find('E45', 1, true), why)
  same(read(path), 'one\n')
  vim.cmd('write!')
  same({ read(path), failed, vim.bo.modified }, { 'two\n', {}, false })
  same(vim.loop.fs_stat(path).mode % 512, tonumber('444', 8))
  vim.loop.fs_chmod(path, tonumber('644', 8))
  vim.cmd('edit!')
  same(vim.bo.readonly, false)
  -- What was set by hand stays.
  vim.bo.readonly = true
  vim.cmd('edit!')
  same(vim.bo.readonly, true)
  vim.cmd('bwipeout!')
end

function tests.a_new_file_is_made_and_one_that_cannot_be_read_is_not_written()
  local path = dir .. '/new'
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  same(lines(), { '' })
  vim.api.nvim_buf_set_lines(0, 0, -1, false, { 'mine' })
  write(path, 'theirs\n')
  vim.cmd('write')
  assert(failed[1]:find('is there already', 1, true), vim.inspect(failed))
  os.remove(path)
  vim.cmd('write')
  same(read(path), 'mine\n')
  vim.cmd('bwipeout!')
  failed = {}
  vim.cmd('OccOpen ' .. host .. ':' .. dir)
  -- It is told when the screen has been drawn.
  wait('why it cannot be read', function()
    return #failed > 0
  end)
  assert(failed[1]:find('directory', 1, true), vim.inspect(failed))
  vim.api.nvim_buf_set_lines(0, 0, -1, false, { 'mine' })
  vim.cmd('write!')
  assert(failed[2]:find('could not be read', 1, true), vim.inspect(failed))
  vim.cmd('bwipeout!')
  failed = {}
end

function tests.an_error_that_comes_while_a_file_is_read_does_not_empty_it()
  local path = dir .. '/kept'
  write(path, 'kept\n')
  local stub = vim.api.nvim_err_writeln
  -- In a script and in a mapping an error, whosever it is, ends what is under way, without a word.
  vim.api.nvim_err_writeln = err_writeln
  for _, before in ipairs({
    function()
      vim.cmd('OccOpen ' .. host .. ':' .. dir)
    end,
    function()
      vim.schedule(function()
        err_writeln('of something else')
      end)
    end,
  }) do
    before()
    pcall(vim.cmd, 'OccOpen ' .. host .. ':' .. path)
    same(vim.api.nvim_buf_get_name(0), 'occ://' .. host .. '/' .. path)
    same({ lines(), vim.bo.readonly, vim.bo.modified }, { { 'kept' }, false, false })
    vim.cmd('write')
    same(read(path), 'kept\n')
    vim.cmd('bwipeout!')
  end
  vim.api.nvim_err_writeln = stub
  assert(failed[1]:find('directory') and failed[2]:find('of something else'), vim.inspect(failed))
  failed = {}
  -- What cannot be shown is not written either.
  local set_lines = vim.api.nvim_buf_set_lines
  vim.api.nvim_buf_set_lines = function()
    error('no')
  end
  pcall(vim.cmd, 'OccOpen ' .. host .. ':' .. path)
  vim.api.nvim_buf_set_lines = set_lines
  pcall(vim.cmd, 'write')
  same(read(path), 'kept\n')
  assert(failed[1]:find('could not be read, and is not written'), vim.inspect(failed))
  failed = {}
  vim.cmd('bwipeout!')
end

function tests.what_a_login_needs_is_asked_here()
  local asked = {}
  local answers = { 'wrong', vim.env.PASSPHRASE }
  -- Without a screen it is declined.
  vim.cmd('OccOpen ' .. vim.env.LOCKED .. ':' .. dir .. '/a.c')
  assert(failed[#failed]:find('nobody is here to answer', 1, true) or failed[#failed - 1]:find('nobody is here to answer', 1, true), vim.inspect(failed))
  failed = {}
  vim.cmd('bwipeout!')
  require('occ.prompts').has_person = function()
    return true
  end
  vim.fn.inputsecret = function(question)
    -- What is above the command line comes first.
    for _, view in ipairs(vim.api.nvim_list_wins()) do
      if vim.api.nvim_win_get_config(view).relative ~= '' then
        local above = vim.api.nvim_buf_get_lines(vim.api.nvim_win_get_buf(view), 0, -1, false)
        question = table.concat(above, '\n') .. '\n' .. question
      end
    end
    asked[#asked + 1] = question
    return table.remove(answers, 1)
  end
  vim.cmd('OccOpen ' .. vim.env.LOCKED .. ':' .. dir .. '/a.c')
  same(lines(), { 'one', 'two', 'three' })
  same(#asked, 2)
  assert(asked[1]:find('Passphrase for ', 1, true), asked[1])
  assert(asked[2]:find('That passphrase is wrong', 1, true), asked[2])
  vim.cmd('bwipeout!')
end

function tests.it_works_again_after_the_daemon_was_stopped_and_does_not_start_it_by_itself()
  local occ = require('occ')
  vim.fn.system({ 'occ', 'daemon', 'stop' })
  same(vim.v.shell_error, 0)
  wait('the status to say so', function()
    return occ.status() == 'occ: off'
  end)
  -- Longer than it waits between two looks.
  vim.wait(1500, function()
    return false
  end)
  vim.fn.system({ 'occ', 'daemon', 'status' })
  same(vim.v.shell_error, 3)
  vim.cmd('OccOpen ' .. host .. ':' .. dir .. '/a.c')
  same(lines(), { 'one', 'two', 'three' })
  wait('the status to be back', function()
    return occ.status() == host .. ' connected'
  end)
  vim.cmd('bwipeout!')
  -- The same for the process that carries everything.
  local job = require('occ.rpc').job()
  vim.fn.chansend(job, 'nonsense\n')
  wait('what it says', function()
    return failed[#failed] and failed[#failed]:find('expected ident', 1, true)
  end)
  failed = {}
  vim.fn.jobstop(job)
  wait('its end', function()
    return require('occ.rpc').job() ~= job
  end)
  vim.cmd('OccOpen ' .. host .. ':' .. dir .. '/a.c')
  same(lines(), { 'one', 'two', 'three' })
  vim.cmd('bwipeout!')
end

function tests.a_file_is_read_though_the_daemon_was_killed()
  local path = dir .. '/a.c'
  for _ = 1, 3 do
    local status = vim.fn.system({ 'occ', 'daemon', 'status' })
    vim.loop.kill(tonumber(status:match('process (%d+)')), 'sigkill')
    vim.cmd('OccOpen ' .. host .. ':' .. path)
    same({ lines(), vim.bo.readonly }, { { 'one', 'two', 'three' }, false })
    vim.cmd('bwipeout!')
  end
end

function tests.a_host_that_was_disconnected_is_said_with_the_way_back()
  local path = dir .. '/a.c'
  vim.cmd('OccOpen ' .. host .. ':' .. path)
  vim.fn.system({ 'occ', 'disconnect', '--host', host })
  same(vim.v.shell_error, 0)
  vim.cmd('set modified | write')
  local way = host .. ' is disconnected on request%. .*`occ connect %-%-host ' .. host .. '` connects it%.'
  assert(failed[1]:find(way), vim.inspect(failed))
  failed = { '' }
  vim.cmd('OccExec ' .. host .. ' -- true')
  wait('why it does not run', function()
    return failed[#failed]:find(way)
  end)
  vim.cmd('bwipeout!')
  failed = {}
  vim.fn.system({ 'occ', 'connect', '--host', host })
  vim.cmd('write')
  same({ failed, vim.bo.modified }, { {}, false })
  vim.cmd('bwipeout!')
end

function tests.checkhealth_says_that_it_works()
  vim.cmd('checkhealth occ')
  local text = table.concat(lines(), '\n')
  assert(text:find('occd [%d.]+ answers') and text:find('hosts: ' .. host, 1, true), text)
  assert(not text:find('ERROR'), text)
end

local order = {
  'base64_is_its_own_inverse',
  'a_digest_is_that_of_any_bytes',
  'the_state_is_known_from_events_and_names_are_completed',
  'output_comes_as_it_is_written_into_a_buffer',
  'output_goes_into_the_quickfix_list_with_the_hosts_files',
  'a_command_of_a_quickfix_list_is_ended_from_its_window',
  'every_place_in_a_file_is_one_of_the_host',
  'what_fails_beside_a_read_takes_nothing_from_it',
  'what_is_changed_while_it_is_written_stays_changed',
  'nothing_that_undo_brings_back_is_left_for_what_the_host_has',
  'a_buffer_that_is_wiped_meanwhile_is_no_error_of_ours',
  'a_session_brings_files_back_with_what_is_in_them',
  'a_file_is_edited_and_never_over_what_somebody_else_wrote',
  'what_somebody_else_wrote_within_the_same_second_is_seen_in_any_bytes',
  'bytes_and_ends_of_lines_stay_as_they_are',
  'what_a_command_or_an_option_says_of_the_bytes_is_heeded',
  'a_name_that_was_not_read_is_a_new_file',
  'nothing_is_written_here_in_the_place_of_a_hosts_file',
  'what_is_left_of_an_emptied_buffer_is_as_in_vim',
  'the_encoding_and_the_ends_of_lines_are_those_that_were_set',
  'a_long_file_is_written',
  'nothing_is_waited_for_that_cannot_come',
  'a_file_that_may_not_be_written_is_read_only',
  'a_new_file_is_made_and_one_that_cannot_be_read_is_not_written',
  'an_error_that_comes_while_a_file_is_read_does_not_empty_it',
  'what_a_login_needs_is_asked_here',
  'it_works_again_after_the_daemon_was_stopped_and_does_not_start_it_by_itself',
  'a_file_is_read_though_the_daemon_was_killed',
  'a_host_that_was_disconnected_is_said_with_the_way_back',
  'checkhealth_says_that_it_works',
}
same(#order, #vim.tbl_keys(tests))
for _, name in ipairs(order) do
  local ok, why = xpcall(tests[name], debug.traceback)
  if not ok then
    io.stderr:write(name .. ': ' .. why .. '\n' .. vim.inspect({ said = said, failed = failed }) .. '\n')
    vim.cmd('cquit 1')
  end
  io.stderr:write('\nok ' .. name .. '\n')
end
vim.cmd('qall!')
