# A program in a terminal: it runs in tmux, or in screen where there is no tmux. Anybody may attach to its screen; what it
# writes there is this script's output. Lines of this script's input are typed. Arguments: the program and its arguments.
t=${XDG_CACHE_HOME:-$HOME/.cache}/occ/sessions/$OCC_SESSION_ID
# What interrupts the program is typed, and not sent to what is around it.
trap '' INT QUIT
mkfifo "$t/tty" "$t/tty.go" || exit 126
# Written over, which a full disk has room for.
echo 0137 >"$t/tty.status"
tm() { tmux -L "occ-$OCC_SESSION_ID" -f /dev/null "$@"; }
sc() { SCREENDIR=$t/screen screen -S occ "$@"; }

# Runs the program in the terminal, once what it writes is read, and notes its number and its status. What is typed to
# interrupt it comes to this shell as well, which must outlive it: a trap is no program's, as ignoring would be.
p='trap : INT QUIT; read -r x <"$0.go"; sh -c '"'"'echo $$ >"$0.new" && mv "$0.new" "$0.pid"; exec "$@"'"'"' "$0" "$@" 9>&-; printf "%04d\n" $? 1<>"$0.status"'

# Without a terminal nobody else comes to write to the one who reads.
none() {
  : >"$t/tty"
  exit 126
}

in_tmux() {
  tm new-session -d -s occ -x 80 -y 24 sh -c "$p" "$t/tty" "$@" || none
  tm set-option -g status off
  # Every key is the program's.
  tm set-option -g prefix None
  tm pipe-pane -t occ "exec cat >'$t/tty'"
}
# At the end of an argument tmux takes a semicolon for the end of its command.
type_in_tmux() {
  case $1 in
    *\;) tm send-keys -t occ -l -- "${1%;}\\;" ;;
    *) tm send-keys -t occ -l -- "$1" ;;
  esac
  tm send-keys -t occ "${2:-Enter}"
}
end_in_tmux() {
  tm send-keys -t occ C-d
}

# Screen opens its log anew when it finds it changed, as it does now and then by itself, and would stand still for ever
# where nobody has it open at that moment: so it is open here until screen is gone. Of its window's end fd 8 tells.
in_screen() {
  mkdir -m 700 "$t/screen" || none
  mkfifo "$t/tty.end" || none
  exec 6<>"$t/tty" 7<>"$t/tty.end" 8<"$t/tty.end"
  exec 7>&-
  printf '%s\n' "logfile $t/tty" 'logfile flush 0' 'deflog on' 'startup_message off' 'vbell off' 'deflogin off' 'escape ""' >"$t/screen.rc"
  sc -c "$t/screen.rc" -d -m sh -c 'exec 9>"$0.end"; '"$p" "$t/tty" "$@" 6>&- 8<&- || none
}
# Waits for screen's end, when all that was written is in its log.
out_of_screen() {
  cat <&8 >/dev/null
  # One that was killed leaves its socket.
  x=0
  while [ "$x" -lt 100 ]; do
    set -- "$t/screen"/*
    [ -e "$1" ] || break
    sleep 0.1 2>/dev/null || sleep 1
    x=$((x+1))
  done
  exec 6>&- 8<&-
}
type_in_screen() {
  if [ -n "$2" ]; then
    paste_in_screen '%s\004' "$1"
  else
    paste_in_screen '%s\r' "$1"
  fi
}
end_in_screen() {
  paste_in_screen '\004'
}
# A line goes by a file, since screen would read signs of its own from arguments. It may be slower than we are.
paste_in_screen() {
  k=$((k+1))
  rm -f "$t/screen.in.$((k-20))"
  printf "$@" >"$t/screen.in.$k"
  sc -X readreg p "$t/screen.in.$k"
  sc -p 0 -X paste p
}

with=tmux k=0
command -v tmux >/dev/null || with=screen
exec 4>&1
cat "$t/tty" >&4 &
exec 4>&-
"in_$with" "$@"
exec 3<&0
# Nobody's child, so that it is not waited for. The end of the input is typed as well: twice behind a line without an end, which
# the first one hands over.
(
  {
    while IFS= read -r l; do
      "type_in_$with" "$l"
    done
    [ -z "$l" ] || "type_in_$with" "$l" C-d
    "end_in_$with"
  } <&3 >/dev/null 2>&1 6>&- 8<&- &
)
echo >"$t/tty.go"
exec 3<&-
[ "$with" = tmux ] || out_of_screen
wait
s=$(cat "$t/tty.status" 2>/dev/null || echo 137)
s=${s#"${s%%[1-9]*}"}
exit "${s:-0}"
