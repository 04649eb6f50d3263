# Takes input for a session from standard input. Arguments: its ID, the offset of the first byte, how many come, and
# whether they are the last (1 or 0), and whether they may have been sent before (1 or 0). What is there already is then
# dropped; else it is another's. Nothing may be missing before the first byte.
# Prints a word and where the input ends now: `k` taken, `m` another's is there, `h` a hole, `c` closed before, `b` busy
# (too much waits for the program), `f` not written, `x` the program has ended, `g` it was lost; `short` when not
# all of it came, `n` when there is no such session.
umask 077
cd "$d/$1" 2>/dev/null || { echo n; exit 0; }
from=$2 length=$3 last=$4 again=$5
t=in.$$
cat >"$t" 2>/dev/null || {
  rm -f "$t"
  end i
  echo "f $n"
  exit 0
}
size "$t"
if [ "$n" -lt "$length" ]; then
  rm -f "$t"
  echo short
  exit 0
fi
k=0
# Another that takes input at this moment.
until ln -s $$ lock 2>/dev/null; do
  # The session was removed.
  [ -e meta ] || { echo n; exit 0; }
  k=$((k+1))
  s=$(LC_ALL=C ls -ln lock 2>/dev/null)
  s=${s##* }
  if [ -n "$s" ]; then
    [ "$k" -lt 500 ] && kill -0 "$s" 2>/dev/null || rm -f lock
  fi
  rest
done
end i
read -r fed <in.offset
fed=${fed:-$n}
known=$((n-from))
r=k
if [ -e exit ] && [ "$length$last" = 00 ]; then
  r=x
elif [ "$known" -ge "$length" ] && { [ "$again" = 1 ] || [ "$known" = 0 ]; } && { [ -e in.eof ] || [ "$last" = 0 ]; }; then
  r=k
elif [ -e exit ]; then
  r=x
elif [ "$from" -gt "$n" ]; then
  r=h
elif [ "$known" -gt 0 ] && [ "$again" = 0 ]; then
  r=m
elif [ -e in.eof ]; then
  r=c
elif [ $((n-fed)) -gt 16777216 ]; then
  r=b
else
  if [ "$known" -lt "$length" ]; then
    # A new segment, since the old one can go when it has been read.
    if [ $((n-b)) -ge 1048576 ]; then
      f=i/$(printf %016d "$n")
    fi
    tail -c +$((known+1)) "$t" >>"$f" || r=f
    end i
  fi
  [ "$r" = k ] && [ "$last" = 1 ] && true >in.eof
fi
[ "$r" = x ] && [ "$(cat exit 2>/dev/null)" = lost ] && r=g
rm -f "$t" lock
[ -e idle ] && echo 1<>wake
echo "$r $n"
