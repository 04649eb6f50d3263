# Tells whether sessions have ended: of each that is there a line with its ID and `r` for one that runs, or `x STATUS`. The
# last line is `.`.
cd "$d" 2>/dev/null || { echo .; exit 0; }
for id in "$@"; do
  [ -e "$d/$id/meta" ] || continue
  cd "$d/$id" || continue
  s=r
  has_ended && s="x $(cat exit 2>/dev/null || echo lost)"
  echo "$id $s"
done
echo .
