# Signals the program of a session and what it has started. Arguments: the session's ID, and a signal's name, or `end`: TERM,
# and KILL after 2 s to what has not ended by then. Prints `k`, `x STATUS` when the program has ended, `a` when something lives in
# spite of all, `n` when there is no such session.
id=$1

# Prints the processes whose environment names the session, where the system shows environments. To busybox's grep a NUL would be
# the end.
named() {
  for f in $(grep -lzxF "OCC_SESSION_ID=$id" /proc/[0-9]*/environ 2>/dev/null); do
    f=${f#/proc/}
    echo "${f%/environ}"
  done
}

# Prints the processes that write to the session's output, where the system shows open files.
writers() {
  LC_ALL=C ls -l /proc/[0-9]*/fd 2>/dev/null | awk -v s="/sessions/$id/" '/^\/proc/ { split($1, a, "/") } /^l.w/ && (index($0, s "of") || index($0, s "ef")) { print a[3] }'
}

# Leaves in k what the session has started: the process $1 with its descendants, and whatever has left the family but is known by
# its environment or its output, unless $2; not the supervisor, which notes the end. Without $1 that too, and what descends
# from it.
tree() {
  k=$( { ps -A -o pid= -o ppid= -o args= 2>/dev/null || ps -o pid= -o ppid= -o args= 2>/dev/null; } | awk -v r="$1" -v e="$([ -n "$2" ] || echo $(named; writers))" -v s="/sessions/$id/" '{ p[$1] = $2; if ($3 ~ /sh$/ && index($0, s "run ")) o[$1] = 1 } END { if (r > 0 && (r in p || NR == 0)) k[r] = 1; if (r == "") for (i in o) k[i] = 1; do { n = 0; for (i in p) if ((p[i] in k) && (i in k) == 0) { k[i] = 1; n = 1 } } while (n); n = split(e, q, " "); while (n) k[q[n--]] = 1; if (r) for (i in o) delete k[i]; for (i in k) print i }')
}

# Ends all that, until nothing is found three times: what is about to start another process, or to become one, may not have been
# seen. $1 is as with tree; once the program has ended, its number may be anybody's.
end_all() {
  t=0 q=0
  while [ "$q" -lt 3 ]; do
    [ -n "$1" ] && [ -e exit ] && set -- -
    tree "$1"
    if [ -n "$k" ]; then
      [ "$t" -lt 20 ] || { echo a; exit 0; }
      kill -KILL $k 2>/dev/null
      q=0
    fi
    t=$((t+1)) q=$((q+1))
    rest
  done
}

over() {
  if [ -e exit ]; then
    echo "x $(cat exit)"
    exit 0
  fi
}

# Waits until the program has ended, for 2 s at most.
until_over() {
  n=0
  until [ -e exit ] || [ "$n" -ge 80 ]; do
    n=$((n+1))
    rest
  done
}

# Waits until nothing of what was signalled runs, for the rest of that time. What has ended, and nobody has asked how, has no program.
until_gone() {
  until [ "$n" -ge 80 ]; do
    w=
    for p in $k; do
      kill -0 "$p" 2>/dev/null || continue
      [ -e /proc/self/exe ] && { [ -e "/proc/$p/exe" ] || continue; }
      w=1
    done
    [ -n "$w" ] || return
    n=$((n+1))
    rest
  done
}

cd "$d/$id" 2>/dev/null || { [ "$2" = end ] && end_all; echo n; exit 0; }
case $2$(cat exit 2>/dev/null) in
  endlost) end_all ;;
  end?*) end_all - ;;
esac
over
f=pid
case $(cat meta 2>/dev/null) in
  *'"tty":true'*) f=tty.pid ;;
esac
t=0
until [ -e "$f" ] || [ "$t" -ge 50 ]; do
  t=$((t+1))
  rest
done
over
alive || [ -e exit ] || { [ "$2" = end ] && end_all; note_lost; }
over
read -r r <pid
# In a terminal the program is one of others, which have to see how it ends.
[ -e tty.pid ] && read -r p <tty.pid && tree "$p" alone || tree "$r"
if [ "$2" = end ]; then
  kill -TERM $k 2>/dev/null
  before=$k
  until_over
  until_gone
  kill -KILL $before 2>/dev/null
  end_all "$r"
  until_over
  over
  echo a
else
  kill -"$2" $k 2>/dev/null
  echo k
fi
