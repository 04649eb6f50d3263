# Signals the program of a session and what it has started. Arguments: the session's ID, and a signal's name, or `end`: TERM,
# and KILL 2 s later. Prints `k`, `x STATUS` when it has ended, `a` when it lives in spite of all, `n` when there
# is no such session.
id=$1

# Adds to k the processes whose environment names the session, where the system shows environments. To busybox's grep a NUL
# would be the end.
named() {
  for f in $(grep -lzxF "OCC_SESSION_ID=$id" /proc/[0-9]*/environ 2>/dev/null); do
    f=${f#/proc/}
    k="$k ${f%/environ}"
  done
}

# Leaves in k the process $1 and its descendants, and those that have left the family; without $1 what is left of the supervisor
# and of what it has started.
tree() {
  k=$( { ps -A -o pid= -o ppid= -o args= 2>/dev/null || ps -o pid= -o ppid= -o args= 2>/dev/null; } | awk -v r="$1" -v s="/sessions/$id/" '{ p[$1] = $2; if (r == "" && $3 ~ /sh$/ && index($0, s "run ")) k[$1] = 1 } END { if (r) k[r] = 1; do { n = 0; for (i in p) if ((p[i] in k) && (i in k) == 0) { k[i] = 1; n = 1 } } while (n); for (i in k) print i }')
  k=${k:-$1}
  named
}

# Ends what a session has left behind whose supervisor is gone: the number of its program may be anybody's. What becomes
# another program at this moment shows no environment, so it is looked for until nothing is found three times.
leftovers() {
  t=0 q=0
  while [ "$q" -lt 3 ]; do
    tree
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

until_over() {
  n=0
  while [ "$n" -lt 80 ]; do
    over
    n=$((n+1))
    rest
  done
}

cd "$d/$id" 2>/dev/null || { [ "$2" = end ] && leftovers; echo n; exit 0; }
case $2$(cat exit 2>/dev/null) in
  endlost) leftovers ;;
esac
over
t=0
until [ -e pid ] || [ "$t" -ge 50 ]; do
  t=$((t+1))
  rest
done
over
alive || [ -e exit ] || { leftovers; note_lost; }
over
read -r r <pid
tree "$r"
if [ "$2" = end ]; then
  kill -TERM $k 2>/dev/null
  until_over
  old=$k
  tree "$r"
  kill -KILL $old $k 2>/dev/null
  until_over
  echo a
else
  kill -"$2" $k 2>/dev/null
  echo k
fi
