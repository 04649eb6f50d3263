# Starts a session. Arguments: its ID, the supervisor's script, what is known of the session as one line, the bytes to be
# kept of each stream, whether its environment comes on standard input (1 or 0; behind it `t` for one that takes tmux, `r` for
# one that takes the place of one that has ended), the directory, the program and its arguments. Prints `s`, `exists`, `r` when
# the one in its place runs, or `f` with a reason, `d` where the disk is full: then what was in its place is there as before.
mask=$(umask)
umask 077
id=$1 run=$2 meta=$3 keep=$4 env=$5 dir=$6
shift 6
case $dir in
  '' | '~') dir=$HOME ;;
  '~/'*) dir=$HOME/${dir#'~/'} ;;
  /*) : ;;
  *) dir=$HOME/$dir ;;
esac
case $env in
  *t*) command -v tmux >/dev/null || command -v screen >/dev/null || { echo 'f there is neither tmux nor screen on the host, and a terminal takes one'; exit 1; } ;;
esac
(cd "$dir") >/dev/null 2>&1 || {
  w='no such directory'
  [ -e "$dir" ] && w='not a directory'
  [ -d "$dir" ] && w='permission denied'
  echo "f $dir: $w"
  exit 1
}
r=$(mkdir -p "$d" 2>&1) || { echo "f $r"; exit 1; }
cd "$d" 2>/dev/null || { echo "f $d: permission denied"; exit 1; }
# Making the directory is what decides: a start that is asked for twice happens once.
old=
if [ -e "$id" ]; then
  case $env in
    *r*) [ "$(cat "$id/meta" 2>/dev/null)" = "$meta" ] && { echo exists; exit 0; } ;;
    *) echo exists; exit 0 ;;
  esac
  cd "$id" && { [ -e exit ] || { [ -e sup ] && alive; [ $? -gt 0 ]; }; } || { echo r; exit 0; }
  cd ..
  old=.$id.old
  rm -rf "$old"
  mv "$id" "$old" || { echo 'f its directory cannot be moved'; exit 1; }
fi
failed() {
  cd "$d"
  rm -rf "./$id"
  [ -n "$old" ] && mv "$old" "$id"
  echo "${2:-f} $1"
  exit 1
}
r=$(mkdir "$id" 2>&1) || failed "$r"
cd "$id" || failed "$d/$id: no such directory"
r=$({ mkdir o e i && true >i/0000000000000000 && mkfifo of ef wake && printf '%s\n' "$run" >run && printf '%s\n' "$meta" >meta && echo 0 >in.offset && [ -s in.offset ]; } 2>&1) || {
  case $r in
    '' | *'I/O error'* | *'rite error'* | *'No space'*) failed "$d cannot be written to: is the disk full?" d ;;
  esac
  failed "$r"
}
case $env in
  1*) cat >env ;;
esac
# By which occd would find this command, to end it.
unset OCC_EXEC_ID
set -- sh "$PWD/run" "$mask" "$keep" "$dir" "$@"
# A member of a pipeline does not ignore SIGINT, as what is started with `&` does. Its shell would wait for it, so it is
# killed by the other member.
link='"$@" </dev/null 2>/dev/null | { read -r x; kill -9 $$; }'
# Where the host ends what a user leaves behind, or this is a part of a service that may be stopped, but what belongs to the
# user's service manager stays, that is where it shall belong.
if [ -S "${XDG_RUNTIME_DIR:-/-}/systemd/private" ] && { [ -n "$INVOCATION_ID" ] || [ -e "/var/lib/systemd/linger/$(id -un)" ]; }; then
  { sh -c "$link" sh systemd-run --user --scope --quiet -- "$@"; } >/dev/null 2>&1
fi
[ -e sup ] || { sh -c "$link" sh "$@"; } >/dev/null 2>&1
[ -e sup ] || failed 'the supervisor did not start'
[ -n "$old" ] && rm -rf "$d/$old"
echo s
