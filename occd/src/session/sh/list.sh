# Tells of sessions: of those named, or of all. Prints two lines for each: its ID, `r` for one that runs or `x STATUS`, with
# `-` in place of a status that is not there, and where input, output and error output end; then what is
# known of it. The last line is `.`; before it comes `f` with a reason where the host keeps some, and does not show them.
cd "$d" 2>/dev/null || {
  [ -d "$d" ] && echo "f $d: permission denied"
  echo .
  exit 0
}
[ $# -gt 0 ] || set -- *
for id in "$@"; do
  [ -e "$d/$id/meta" ] || continue
  cd "$d/$id" || continue
  if ended; then
    [ -e exit ] || note_lost
    s="x $s"
  else
    s='r -'
  fi
  end i
  i=$n
  end o
  o=$n
  end e
  echo "$id $s $i $o $n"
  cat meta
done
echo .
