# A program in a terminal: it runs in tmux, whose screen anybody may attach to; what it writes there is this script's
# output. Lines of this script's input are typed. Arguments: the program and its arguments.
t=${XDG_CACHE_HOME:-$HOME/.cache}/occ/sessions/$OCC_SESSION_ID
# What interrupts the program is typed, and not sent to what is around it.
trap '' INT QUIT
tm() { tmux -L "occ-$OCC_SESSION_ID" -f /dev/null "$@"; }
mkfifo "$t/tty" "$t/tty.go" || exit 126
tm new-session -d -s occ -x 80 -y 24 sh -c 'read -r x <"$0.go"; "$@"; echo $? >"$0.status"' "$t/tty" "$@" || exit 126
tm set-option -g status off
tm pipe-pane -t occ "exec cat >'$t/tty'"
exec 3<&0
while IFS= read -r l; do
  tm send-keys -t occ -l -- "$l"
  tm send-keys -t occ Enter
done <&3 >/dev/null 2>&1 &
echo >"$t/tty.go"
cat "$t/tty" 3<&-
exit "$(cat "$t/tty.status" 2>/dev/null || echo 137)"
