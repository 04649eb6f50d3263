-- :checkhealth occ

local rpc = require('occ.rpc')

local M = {}

-- Neovim 0.10, 0.8 and 0.7 have them under different names.
local health = vim.health or require('health')
local start = health.start or health.report_start
local ok = health.ok or health.report_ok
local warn = health.warn or health.report_warn
local fail = health.error or health.report_error

--- Returns what a route answers, without starting the daemon; nothing when that takes too long.
local function get(path)
  local answer
  rpc.request({ method = 'GET', path = path, start = false }, {
    done = function(message)
      answer = message
    end,
  })
  vim.wait(10000, function()
    return answer ~= nil
  end, 5)
  return answer
end

function M.check()
  start('occ')
  local program = rpc.command()[1]
  if vim.fn.executable(program) == 0 then
    return fail(program .. ' was not found', { 'put occ into the PATH, or set vim.g.occ_command' })
  end
  local version = vim.trim(vim.fn.system({ program, '--version' }))
  ok(version .. ' (' .. vim.fn.exepath(program) .. ')')
  local answer = get('/v1/version')
  if not answer then
    return fail('occ api does not answer', { 'occ daemon status' })
  elseif answer.problem and answer.problem.code == 'daemon_not_running' then
    return warn('occd is not running; it is started by the first command')
  elseif answer.problem then
    return fail(answer.problem.detail, { 'occ daemon status' })
  end
  local daemon = answer.headers['occ-version'] or '?'
  if version == 'occ ' .. daemon then
    ok('occd ' .. daemon .. ' answers')
  else
    warn('occd ' .. daemon .. ' answers, which is another version', { 'occ daemon restart' })
  end
  local list = get('/v1/hosts')
  local names = {}
  for _, status in ipairs(list and list.body and list.body.hosts or {}) do
    names[#names + 1] = status.name
  end
  if #names == 0 then
    warn('there are no hosts', { 'occ host add NAME ADDRESS' })
  else
    ok('hosts: ' .. table.concat(names, ', '))
  end
end

return M
