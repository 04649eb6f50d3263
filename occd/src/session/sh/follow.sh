# Sends the output of a session. Arguments: its ID, where to begin in standard output and in standard error (an offset, `kept:N`
# for that or the first byte that is kept, `end`, `lines:N` for the last lines, `-` for not at all), and whether to go on with
# what comes (1 or 0). Prints first
# `a INPUT OUTPUT ERROR`, where the input ends and the output begins; before bytes of a stream, `o FROM LENGTH` or
# `e FROM LENGTH`; `l o` or `l e` where some of a stream was not kept, since the disk was full; in the end `x STATUS`, or `.`
# where it does not go on; `n` when there is no such session.
cd "$d/$1" 2>/dev/null || { echo n; exit 0; }
on=$4

# Leaves in n where a stream ($1) is to begin, and in m where it ends at this moment.
begin() {
  end "$1"
  m=$n
  case $2 in
    end) : ;;
    lines:*) lines "$1" "${2#lines:}" ;;
    kept:*) first "$1" && [ "$n" -ge "${2#kept:}" ] || n=${2#kept:} ;;
    *) n=$2 ;;
  esac
}

# Leaves in n, and in k, the first byte of a stream that is kept.
first() {
  for f in "$1"/*; do
    number "$f"
    break
  done
  k=$n
}

# Leaves in n where the last lines ($2) of a stream begin.
lines() {
  first "$1"
  n=$((m-$(cat "$1"/* | head -c $((m-k)) | tail -n "$2" | wc -c)))
}

# Sends what there is of a stream ($1) from an offset ($2) to the end of a segment, or to $3 where it does not go on. Leaves
# the next offset in p.
send() {
  p=$2 m=$3
  [ "$p" = - ] && return
  [ "$on" = 0 ] && [ "$p" -ge "$m" ] && return
  k=
  for f in "$1"/*; do
    number "$f"
    if [ -n "$k" ] && [ "$n" -gt "$p" ]; then
      break
    fi
    k=$f b=$n
  done
  # There is none yet, or the session was removed.
  [ "$k" = "$1/*" ] && return
  # Open before its length is known: it may be removed, and what is announced must come.
  { piece "$1"; } <"$k"
  # Then there is another one.
  [ -e "$k" ] || w=1
} 2>/dev/null

piece() {
  size "$k"
  # It has been removed, or is empty.
  [ "$n" -gt 0 ] || return
  [ "$p" -lt "$b" ] && p=$b
  c=$((b+n-p))
  [ "$on" = 0 ] && [ "$((p+c))" -gt "$m" ] && c=$((m-p))
  if [ "$c" -gt 0 ]; then
    w=1
    echo "$1 $p $c"
    tail -c +$((p-b+1)) | head -c "$c"
    p=$((p+c))
  fi
}

follow() {
  quiet=0 before= lost=
  while :; do
    # Lengths and what else is there, all by one process. Looked at first, so that nothing can come between this and the
    # look at the output.
    now=$(LC_ALL=C ls -ln o e exit o.end e.end o.lost e.lost 2>/dev/null)
    if [ "$now" = "$before" ] && [ "$on" = 1 ]; then
      wait_on || return
      continue
    fi
    before=$now quiet=0
    over=0
    [ -e exit ] && [ -e o.end ] && [ -e e.end ] && over=1
    w=0
    send o "$o" "$om"
    o=$p
    send e "$e" "$em"
    e=$p
    for f in o e; do
      case $lost in
        *$f*) : ;;
        *) [ -e "$f.lost" ] && lost=$lost$f && echo "l $f" ;;
      esac
    done
    if [ "$w" = 1 ]; then
      # There may be more, in the next segment.
      quiet=0 before=
      continue
    fi
    if [ "$over" = 1 ]; then
      echo "x $(cat exit)"
      return
    fi
    if [ "$on" = 0 ]; then
      echo .
      return
    fi
  done
}

# Waits a little. Fails when there is nothing to wait for: the connection is gone, or the program, and nothing has changed for
# a while since: what it has left behind may hold the output open for ever.
wait_on() {
  kill -0 $$ 2>/dev/null || return
  quiet=$((quiet+1))
  # Since it was seen there: one that has come since the last look is to be looked at.
  case $before in
    *' exit'*) [ "$quiet" -lt 150 ] || { echo "x $(cat exit)"; return 1; } ;;
  esac
  if [ $((quiet%50)) = 1 ]; then
    # The session was removed.
    [ -e meta ] || { echo n; return 1; }
    alive || [ -e exit ] || note_lost
  fi
  rest
}

begin o "$2"
o=$n om=$m
begin e "$3"
e=$n em=$m
end i
echo "a $n $o $e"
if [ "$on" = 0 ]; then
  follow
  exit 0
fi
# The end of the standard input is the end of the connection, and of this shell.
follow </dev/null &
cat >/dev/null
