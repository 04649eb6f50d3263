# What the other scripts share. Sets d to the directory of all sessions.
d=${XDG_CACHE_HOME:-$HOME/.cache}/occ/sessions

# Leaves the length of a file in n. ls reads no byte of it, as some implementations of wc do.
size() {
  n=$(LC_ALL=C ls -ln "$1" 2>/dev/null)
  set -- $n
  n=${5:-0}
}

# Leaves the number in the name of a segment in n: without the zeros, which would make it octal.
number() {
  n=${1##*/}
  n=${n#"${n%%[1-9]*}"}
  n=${n:-0}
}

# Leaves the last segment of a directory in f and where it ends in n.
end() {
  for f in "$1"/*; do
    :
  done
  number "$f"
  b=$n
  size "$f"
  n=$((b+n))
}

# Whether the supervisor of the session in this directory runs. A process of the same number may be anybody's.
alive() {
  { read -r v <sup; } 2>/dev/null || return 1
  kill -0 "$v" 2>/dev/null || return 1
  if [ -r "/proc/$v/cmdline" ]; then
    grep -q "${PWD##*/}" "/proc/$v/cmdline" 2>/dev/null || return 1
  fi
}

# Leaves in s how the session in this directory has ended: its status, or `lost` where its supervisor is gone without a word,
# since the host ended it. Fails for one that runs, or has not begun.
ended() {
  s=$(cat exit 2>/dev/null) && return
  alive && return 1
  # Between the two looks.
  s=$(cat exit 2>/dev/null) && return
  s=lost
  [ -e sup ]
}

# Notes that the session in this directory was lost: in the place of what is there already, which a full disk has room for.
note_lost() {
  printf 'lost\n' 1<>exit.new && mv exit.new exit
  true >o.end
  true >e.end
}

# Waits a little: 20 ms where sleep knows parts of a second.
rest() {
  sleep 0.02 2>/dev/null || sleep 1
}
