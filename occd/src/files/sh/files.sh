# What is done with files where there is no SFTP: for any POSIX shell, and the tools of GNU, BSD or busybox.
# $1 says what, $2 is a path that begins with no hyphen. Errors are the tools' own, in the words of C.
LC_ALL=C; export LC_ALL; unset CDPATH
what=$1; p=$2; shift 2
no() { echo "$p: $1" >&2; exit 1; }
there() { [ -e "$1" ] || [ -L "$1" ]; }
# Says why it is not there, as a tool does.
must() { there "$1" || { ls -d "$1" >/dev/null; exit 1; }; }
has() { command -v "$1" >/dev/null 2>&1; }
form=ls
stat -c %f / >/dev/null 2>&1 && form=gnu || { stat -f %Xp / >/dev/null 2>&1 && form=bsd; }
# Mode, length, owner, group and time of a file.
one() {
  case $form in
    gnu) stat $2 -c '%f %s %u %g %Y' "$1";;
    bsd) stat $2 -f '%Xp %z %u %g %m' "$1";;
    *) (
      f=$1; l=$(ls -ldn $2 "$f") || exit
      set -f; set -- $l
      case $1 in [bc]*) set -- "$1" "$2" "$3" "$4" 0;; esac
      echo "$1 $5 $3 $4 $(date -r "$f" +%s 2>/dev/null || echo 0)");;
  esac
}
names() { for f in * .[!.]* ..?*; do ! there "$f" || printf '%s\0' "./$f"; done; }
case $what in
  stat) one "$p" "$1";;
  list)
    must "$p"; [ -d "$p" ] || no 'Not a directory'
    [ -r "$p" ] && [ -x "$p" ] && cd "$p" || no 'Permission denied'
    names; printf '\0'
    if [ $form = gnu ] && printf 'a\0' | xargs -0 true 2>/dev/null; then
      names | xargs -0 stat -c '%f %s %u %g %Y /%n' 2>/dev/null
    else
      for f in * .[!.]* ..?*; do
        ! there "$f" || ! r=$(one "./$f" '') || printf '%s /%s\n' "$r" "./$f"
      done
    fi
    exit 0;;
  real)
    must "$p"
    if [ -d "$p" ]; then cd "$p" || no 'Permission denied'; pwd -P; exit; fi
    readlink -f "$p" && exit
    cd "$(dirname "$p")" && printf '%s/%s\n' "$(pwd -P)" "$(basename "$p")";;
  readlink) must "$p"; [ -L "$p" ] || no 'Invalid argument'; readlink "$p";;
  symlink) ! there "$p" || no 'File exists'; ln -s -- "$1" "$p";;
  mkdir)
    ! there "$p" || no 'File exists'
    if [ -n "$1" ]; then mkdir -m "$(printf %o $((0$1 & ~0$(umask))))" "$p" 2>/dev/null && exit; fi
    mkdir "$p";;
  rename)
    must "$p"; to=$1
    if [ -n "$2" ]; then
      if [ -L "$to" ] && [ -d "$to" ]; then rm -f "$to"; fi
      [ ! -d "$to" ] || { p=$to; no 'Is a directory'; }
    elif [ -f "$p" ] && [ ! -L "$p" ]; then
      # At once, and never over another.
      if ln "$p" "$to" 2>/dev/null; then rm -f "$p"; exit; fi
    fi
    [ -n "$2" ] || ! there "$to" || { p=$to; no 'File exists'; }
    mv -f "$p" "$to" </dev/null;;
  rmdir) rmdir "$p";;
  rm) must "$p"; [ -L "$p" ] || [ ! -d "$p" ] || no 'Is a directory'; rm -f "$p";;
  rmall) must "$p"; rm -rf "$p";;
  chmod) must "$p"; chmod "$1" "$p";;
  touch) must "$p"; TZ=UTC0 touch -t "$1" "$p";;
  read)
    must "$p"; [ ! -d "$p" ] || no 'Is a directory'; [ -r "$p" ] || no 'Permission denied'
    # Open before that is said, and what is open is what is read.
    exec 3<"$p" || exit
    echo
    if [ -z "$1" ]; then exec cat <&3; fi
    tail -c "+$1" <&3 | head -c "$2";;
  write)
    if [ "$2" = 0 ]; then
      [ -z "$1" ] || umask 077
      (set -C; : >"$p") || { ! there "$p" || no 'File exists'; exit 1; }
    else
      must "$p"; size=$(wc -c <"$p") || exit
      [ "$size" -eq "$2" ] || { echo "$size"; exit 98; }
    fi
    exec 3>>"$p" || exit
    echo ok
    exec cat >&3;;
  settle)
    # Mode, mode of a new file, time, owner, and whether it is to be on the disk. All of them follow links.
    [ ! -L "$p" ] && [ -f "$p" ] || no 'it is not the file any more that was written'
    [ -z "$4" ] || chown "$4" "$p" 2>/dev/null
    if [ -n "$1" ]; then chmod "$1" "$p" || exit
    elif [ -n "$2" ]; then chmod "$(printf %o $((0$2 & ~0$(umask))))" "$p" || exit; fi
    [ -z "$3" ] || TZ=UTC0 touch -t "$3" "$p" || exit
    [ -z "$5" ] || sync "$p" 2>/dev/null
    exit 0;;
  merge)
    # What is in $p goes to $1, directory by directory; what is there and not in $p stays.
    merge() (
      cd "$1" || exit
      for f in * .[!.]* ..?*; do
        there "$f" || continue
        if [ -d "$f" ] && [ ! -L "$f" ]; then
          if [ -d "$2/$f" ] && [ ! -L "$2/$f" ]; then
            merge "$f" "$2/$f" || exit
          else mv -f "./$f" "$2/$f" </dev/null || exit; fi
        else
          [ -L "$2/$f" ] || [ ! -d "$2/$f" ] || { echo "$2/$f: Is a directory" >&2; exit 1; }
          [ ! -L "$2/$f" ] || rm -f "$2/$f"
          mv -f "./$f" "$2/$f" </dev/null || exit
        fi
      done
    )
    merge "$p" "$(cd "$1" && pwd)";;
esac
