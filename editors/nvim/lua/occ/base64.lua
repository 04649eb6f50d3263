-- Base64 (RFC 4648, section 4), which Neovim has from 0.10 on.

local M = {}

local LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local bit = require('bit')
local of_value, of_letter = {}, {}
for i = 1, #LETTERS do
  of_value[i - 1] = LETTERS:sub(i, i)
  of_letter[LETTERS:byte(i)] = i - 1
end

function M.encode(bytes)
  local out = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local n = bit.lshift(a, 16) + bit.lshift(b or 0, 8) + (c or 0)
    out[#out + 1] = of_value[bit.rshift(n, 18)]
      .. of_value[bit.band(bit.rshift(n, 12), 63)]
      .. (b and of_value[bit.band(bit.rshift(n, 6), 63)] or '=')
      .. (c and of_value[bit.band(n, 63)] or '=')
  end
  return table.concat(out)
end

function M.decode(text)
  local out = {}
  local char, band, rshift = string.char, bit.band, bit.rshift
  for i = 1, #text, 4 do
    local a, b, c, d = text:byte(i, i + 3)
    a, b, c, d = of_letter[a], of_letter[b], of_letter[c], of_letter[d]
    local n = bit.lshift(a, 18) + bit.lshift(b, 12) + bit.lshift(c or 0, 6) + (d or 0)
    if d then
      out[#out + 1] = char(rshift(n, 16), band(rshift(n, 8), 255), band(n, 255))
    elseif c then
      out[#out + 1] = char(rshift(n, 16), band(rshift(n, 8), 255))
    else
      out[#out + 1] = char(rshift(n, 16))
    end
  end
  return table.concat(out)
end

return M
