-- SHA-256 (FIPS 180-4), which Neovim has only for bytes without NUL.

local M = {}

local bit = require('bit')
local band, bor, bxor, lshift, rshift, ror = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift, bit.ror
local tobit = bit.tobit

--- Returns the first 32 bits of what a number has after its point.
local function fraction(number)
  return tobit(math.floor(number % 1 * 2 ^ 32))
end

-- Of the square roots of the first 8 primes, and of the cube roots of the first 64.
local START, ROUND = {}, {}
local number = 2
while #ROUND < 64 do
  local is_prime = true
  for divisor = 2, math.sqrt(number) do
    is_prime = is_prime and number % divisor ~= 0
  end
  if is_prime then
    START[#START + 1] = #START < 8 and fraction(number ^ (1 / 2)) or nil
    ROUND[#ROUND + 1] = fraction(number ^ (1 / 3))
  end
  number = number + 1
end

--- Takes the blocks of 64 bytes that a text has into a state; what is left of the text is not looked at.
local function digest(state, text)
  local words = {}
  for start = 1, #text - 63, 64 do
    for i = 1, 16 do
      local a, b, c, d = text:byte(start + 4 * i - 4, start + 4 * i - 1)
      words[i] = bor(lshift(a, 24), lshift(b, 16), lshift(c, 8), d)
    end
    for i = 17, 64 do
      local x, y = words[i - 15], words[i - 2]
      x = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
      y = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      words[i] = tobit(words[i - 16] + x + words[i - 7] + y)
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for i = 1, 64 do
      local one = h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(g, band(e, bxor(f, g))) + ROUND[i] + words[i]
      local two = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, bxor(b, c)), band(b, c))
      a, b, c, d, e, f, g, h = tobit(one + two), a, b, c, tobit(d + one), e, f, g
    end
    for i, word in ipairs({ a, b, c, d, e, f, g, h }) do
      state[i] = tobit(state[i] + word)
    end
  end
end

--- Returns the digest of bytes in 64 hexadecimal digits.
function M.lua(bytes)
  local rest = bytes:sub(#bytes - #bytes % 64 + 1) .. '\128'
  rest = rest .. ('\0'):rep((56 - #rest) % 64)
  -- Its length in bits; numbers are whole below 2^53.
  for place = 7, 0, -1 do
    rest = rest .. string.char(math.floor(#bytes * 8 / 256 ^ place) % 256)
  end
  local state = { unpack(START) }
  digest(state, bytes)
  digest(state, rest)
  return table.concat(vim.tbl_map(bit.tohex, state))
end

--- The same, by Neovim where it can: that is six times as fast.
function M.of(bytes)
  return bytes:find('%z') and M.lua(bytes) or vim.fn.sha256(bytes)
end

return M
