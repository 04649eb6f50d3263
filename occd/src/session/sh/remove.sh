# Removes what is kept of a session that has ended. Arguments: its ID, and when the run was started that is meant, or nothing.
# Prints `k`, `r` when it runs, `l` when it is lost and something of it may run, `n` when there is none.
cd "$d/$1" 2>/dev/null || { echo n; exit 0; }
case $(cat meta 2>/dev/null) in
  *"$2"*) : ;;
  *) echo n; exit 0 ;;
esac
s=k
if [ -e exit ]; then
  :
elif [ -e sup ]; then
  s=l
  alive && s=r
fi
if [ "$s" = k ]; then
  cd "$d"
  [ -p "$1/tty" ] && rm -f "${TMUX_TMPDIR:-/tmp}/tmux-$(id -u)/occ-$1"
  rm -rf "./$1"
fi
echo "$s"
