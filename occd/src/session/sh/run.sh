# The supervisor: it starts a program, keeps its output, feeds it its input, and notes how it ended.
# Arguments: the program's umask, the bytes of each stream to be kept, the directory, the program and its arguments.
#
# It is started without `&` (start.sh), which would make the program ignore SIGINT, and the program is waited for
# in the foreground, which no trap interrupts. Its own standard streams lead nowhere; it needs no terminal,
# no session and no process group of its own.
cd "${0%/run}" || exit 1
trap '' HUP
printf 'lost\n' >exit.new
mask=$1 keep=$2 dir=$3
shift 3
echo $$ >sup.new && mv sup.new sup
# Whoever has started this waits for a line.
echo ok
exec >/dev/null

# Writes what comes into segments, each named by where it begins. dd writes at once what it has read, and ends
# after so many reads; a file that did not grow then means the end.
pump() {
  t=0 f=
  while :; do
    if [ -z "$f" ]; then
      b=$t
      f=$1/$(printf %016d "$t")
    fi
    dd bs=65536 count=64 2>/dev/null >>"$f"
    r=$?
    size "$f"
    if [ $((b+n)) -le "$t" ]; then
      [ "$r" = 0 ] && break
      [ -d "$1" ] || return
      # The disk is full, or broken: what was read, 64 KiB at most, is lost, and the program must not stand still for that.
      true >"$1.lost"
      rest
      continue
    fi
    t=$((b+n))
    if [ "$n" -ge 1048576 ]; then
      f=
      trim "$1"
    fi
  done
  true >"$1.end"
}

# Removes the oldest segments, as long as enough is left.
trim() {
  p=
  for g in "$1"/*; do
    if [ -n "$p" ]; then
      number "$g"
      [ $((t-n)) -ge "$keep" ] || break
      rm -f "$p"
    fi
    p=$g
  done
}

# Writes the input to the program. The first segment has what is next; the last one may grow. While there is
# nothing, it waits for a line in the fifo `wake`, which is sent if the file `idle` is there.
feed() {
  p=0 i=0
  while :; do
    # Looked for first, so that nothing can be written between this and the look at the input.
    e=0
    [ -e in.eof ] && e=1
    set -- i/*
    f=$1
    number "$f"
    b=$n
    size "$f"
    c=$((b+n-p))
    if [ "$c" -gt 0 ]; then
      [ "$c" -gt 1048576 ] && c=1048576
      tail -c +$((p-b+1)) "$f" | head -c "$c" || return
      p=$((p+c))
      echo "$p" >in.offset
      [ "$i" = 1 ] && rm -f idle
      i=0
      continue
    fi
    if [ $# -gt 1 ]; then
      rm -f "$f"
      continue
    fi
    [ -e exit ] && return
    [ "$e" = 1 ] && return
    # The session was removed.
    [ -e in.offset ] || return
    if [ "$i" = 0 ]; then
      true >idle
      i=1
      continue
    fi
    read -r x <&5
    rm -f idle
    i=0
  done
}

# Runs the program and notes its status. Its number is that of the shell whose place it takes.
program() {
  (
    # Messages of this shell on how the program ended are not the program's.
    exec 2>&3 3>&- 5>&-
    trap - HUP
    OCC_SESSION_ID=${PWD##*/}
    export OCC_SESSION_ID
    exec sh -c 'echo $$ >pid.new && mv pid.new pid; umask "$1"; e=$(cat env 2>/dev/null); rm -f env; eval "$e"; cd "$2" || exit 126; unset OLDPWD; shift 2; exec "$@"' sh "$mask" "$dir" "$@"
  )
  s=$?
  # In the place of what is there already, which a full disk has room for.
  printf '%04d\n' "$s" 1<>exit.new && mv exit.new exit
  # The feeder may wait for input.
  echo >&5
}

pump o <of &
pump e <ef &
# Sessions that ended a week ago.
for x in $(find .. -name exit -mtime +6 2>/dev/null); do
  rm -rf "${x%/exit}"
done &
exec 5<>wake
feed | program "$@" >of 3>ef 2>/dev/null
