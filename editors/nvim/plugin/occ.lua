-- Commands and buffers of occ; what they do is loaded when it is used.

if vim.g.loaded_occ then
  return
end
vim.g.loaded_occ = true

vim.api.nvim_create_user_command('OccExec', function(command)
  require('occ.exec').command(command.args, command.bang)
end, {
  nargs = '+',
  bang = true,
  desc = 'Run a command on a host: HOST -- command',
  complete = function(lead, line)
    local before = line:sub(1, #line - #lead)
    return before:match('^%s*%S+%s+$') and require('occ').complete(lead, ' --') or {}
  end,
})

vim.api.nvim_create_user_command('OccOpen', function(command)
  require('occ').open(command.args)
end, {
  nargs = 1,
  desc = 'Edit a file of a host: HOST:PATH',
  complete = function(lead)
    return lead:find(':') and {} or require('occ').complete(lead, ':')
  end,
})

local group = vim.api.nvim_create_augroup('occ', {})
vim.api.nvim_create_autocmd('BufReadCmd', {
  group = group,
  pattern = 'occ://*',
  nested = true,
  callback = function(event)
    require('occ.file').read(event.buf, event.match)
  end,
})
vim.api.nvim_create_autocmd('BufWriteCmd', {
  group = group,
  pattern = 'occ://*',
  nested = true,
  callback = function(event)
    require('occ.file').write(event.buf, event.match, vim.v.cmdbang == 1)
  end,
})
vim.api.nvim_create_autocmd({ 'FileReadCmd', 'FileWriteCmd', 'FileAppendCmd' }, {
  group = group,
  pattern = 'occ://*',
  callback = function(event)
    require('occ.file').refuse_part(event.match)
  end,
})
vim.api.nvim_create_autocmd('BufFilePost', {
  group = group,
  callback = function(event)
    require('occ.file').renamed(event.buf)
  end,
})
