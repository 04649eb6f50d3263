# Removes what is kept of a session that has ended. Argument: its ID. Prints `k`, `r` when it runs, `n` when there is none.
cd "$d/$1" 2>/dev/null || { echo n; exit 0; }
if [ -e exit ] || { [ -e sup ] && alive; [ $? -gt 0 ]; }; then
  cd "$d"
  rm -rf "./$1"
  echo k
else
  echo r
fi
