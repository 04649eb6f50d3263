-- Hosts of occd in Neovim: state, commands, files. See doc/occ.txt.

local M = {}

--- Runs a line of a host's shell, see |occ.exec()|.
function M.exec(host, line, options)
  return require('occ.exec').run(host, line, options)
end

--- Opens HOST:PATH.
function M.open(spot)
  require('occ.file').open(spot)
end

--- Returns the hosts by name, as the API has them, from memory.
function M.hosts()
  return require('occ.hosts').all()
end

--- Returns a text for the status line, from memory: of a host, or of the current buffer's, else of all.
function M.status(host)
  local all = M.hosts()
  local available = require('occ.hosts').available()
  if not available then
    return available == nil and 'occ: …' or 'occ: off'
  end
  host = host or vim.b.occ_host
  if host then
    return host .. ' ' .. (all[host] and all[host].state or 'unknown')
  end
  local connected, count = 0, 0
  for _, status in pairs(all) do
    count = count + 1
    connected = connected + (status.state == 'connected' and 1 or 0)
  end
  return string.format('occ: %d/%d', connected, count)
end

--- Completes names of hosts.
function M.complete(lead, ending)
  local found = {}
  for _, name in ipairs(require('occ.hosts').names()) do
    if name:sub(1, #lead) == lead then
      found[#found + 1] = name .. ending
    end
  end
  return found
end

return M
