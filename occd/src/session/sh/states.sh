# Tells whether sessions have ended, and writes nothing: of each that is there a line with its ID and `r` for one that runs, or
# `x STATUS`. The last line is `.`. Says nothing where it cannot look.
cd "$d" 2>/dev/null || exit 1
for id in "$@"; do
  [ -e "$d/$id" ] || continue
  if cd "$d/$id" 2>/dev/null && ended; then
    echo "$id x $s"
  else
    echo "$id r"
  fi
done
echo .
