#!/bin/sh
# Installs occ and occd for one user, with completions, man pages and the unit for systemd; from a checkout, which it
# builds, or from an unpacked archive. Run again, it replaces what it installed, and nothing else. hosts.json, occd.toml
# and what occd remembers are never touched.
set -eu

usage() {
    cat <<'END'
Usage: ./install.sh [--prefix DIR] [--uninstall] [--programs DIR]

  --prefix DIR     where to: bin/ and share/ below it [default: ~/.local]
  --uninstall      take away what was installed there, and what starts it at the login
  --programs DIR   from a checkout: take occ and occd from there; cargo builds only what packs them
END
}

fail() {
    printf 'Error: %s\n' "$1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
prefix=
programs=
uninstall=
while [ $# -gt 0 ]; do
    case $1 in
    --prefix | --programs)
        if [ $# -lt 2 ] || [ -z "$2" ]; then fail "$1 needs a directory."; fi
        case $2 in
        /*) dir=$2 ;;
        *) dir=$PWD/$2 ;;
        esac
        if [ "$1" = --prefix ]; then prefix=$dir; else programs=$dir; fi
        shift
        ;;
    --uninstall) uninstall=1 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        echo "Error: $1 is not known." >&2
        usage >&2
        exit 2
        ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    [ -n "${HOME:-}" ] || fail "HOME is not set: --prefix DIR says where to."
    prefix=$HOME/.local
fi
list=$prefix/share/occ/installed

# Prints a line of the list, for a file's name and its bytes from standard input: checksum, length, name. An older version
# wrote down names alone.
line() {
    printf '%s %s\n' "$(cksum)" "$1"
}

# Prints the names of what is installed.
listed() {
    [ ! -f "$list" ] || sed 's/^[0-9][0-9]* [0-9][0-9]* //' "$list" | LC_ALL=C sort -u
}

# Tells whether a file is as it was installed.
is_ours() {
    [ -f "$list" ] && [ -f "$prefix/$1" ] || return 1
    grep -qxF -- "$1" "$list" || grep -qxF -- "$(line "$1" <"$prefix/$1")" "$list"
}

# Tells whether something else has that name.
is_another() {
    { [ -e "$prefix/$1" ] || [ -L "$prefix/$1" ]; } && ! is_ours "$1"
}

# Stops where something else has one of the names that are read.
keep_off() {
    others=$(while IFS= read -r file; do
        ! is_another "$file" || echo "$prefix/$file"
    done)
    [ -n "$others" ] || return 0
    echo "$others" | while IFS= read -r file; do
        echo "Error: $file is there and not occ's: nothing is written over it." >&2
    done
    file=$(echo "$others" | sed 1q)
    echo "hint: mv '$file' '$file.old'; or --prefix DIR installs elsewhere" >&2
    exit 1
}

# Writes down what is installed.
record() {
    cat >"$list.new"
    mv -f "$list.new" "$list"
}

# Removes one installed file, or one that was being put there, and directories that held nothing else.
take_away() {
    rm -f "$prefix/$1" "$prefix/$1.new"
    dir=$(dirname "$1")
    while [ "$dir" != . ] && rmdir "$prefix/$dir" 2>/dev/null; do
        dir=$(dirname "$dir")
    done
}

# Prints the files of `occ daemon install` that exist: what systemd, launchd and a desktop start.
starters() {
    config=${XDG_CONFIG_HOME:-}
    case $config in /*) ;; *) config=${HOME:-}/.config ;; esac
    for file in "$config/systemd/user/occd.service" "$config/autostart/occd.desktop" \
        "${HOME:-}/Library/LaunchAgents/com.occd.agent.plist"; do
        [ ! -f "$file" ] || printf '%s\n' "$file"
    done
}

# Tells whether such a file starts a program of this prefix, whichever way that is written.
starts_ours() {
    for dir in "$prefix" "$(cd "$prefix" && pwd -P)"; do
        # As a word of a unit, of a desktop's entry (`occ daemon install` has the same), and of a shell in XML.
        unit=$(printf '%s\n' "$dir/bin/occd" | sed 's/%/%%/g')
        entry=$(printf '%s\n' "$dir/bin/occ" | sed 's/[`$]/\\\\&/g; s/%/%%/g')
        agent=$(printf '%s\n' "$dir/bin/occd" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g')
        if grep -qF -e "ExecStart=\"$unit\"" -e "Exec=\"$entry\" " -e "exec '$agent' " -- "$1" ||
            # As people write it.
            grep -qxF -e "ExecStart=$unit" -e "ExecStart=%h${unit#"${HOME:-}"}" -- "$1"; then
            return 0
        fi
    done
    return 1
}

# Says what takes away a file that starts a program which is gone.
say_left() {
    case $1 in
    *.service) how="systemctl --user disable --now occd.socket occd.service; " ;;
    *.plist) how="launchctl bootout gui/$(id -u)/com.occd.agent; " ;;
    *) how= ;;
    esac
    echo "$1 still starts what was removed: ${how}rm '$1' ends that."
}

if [ -n "$uninstall" ]; then
    if [ ! -f "$list" ]; then
        echo "Nothing of occ is installed in $prefix."
        exit 0
    fi
    # It goes on without its file, and nothing else could end it by name.
    pid=
    ! is_ours bin/occ || pid=$("$prefix/bin/occ" daemon status 2>/dev/null || true)
    case $pid in
    *"is running: process "*)
        pid=${pid#*"is running: process "}
        pid=${pid%%,*}
        ;;
    *) pid= ;;
    esac
    # Another one is none of ours to speak of. It is known by its command, with the path that occ starts it by: which
    # file it runs (/proc/PID/exe) a process that keeps keys shows to nobody but root.
    if [ -n "$pid" ]; then
        command=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || ps -p "$pid" -o args= 2>/dev/null || true)
        case $command in
        "$(cd "$prefix" && pwd -P)"/* | "$prefix"/*) ;;
        /*) pid= ;;
        esac
    fi
    # While there is an occ that does it. It takes away all that occ has put there, so all must be of this prefix.
    ours=$(starters | while IFS= read -r file; do ! starts_ours "$file" || echo "$file"; done)
    if [ -n "$ours" ] && [ "$ours" = "$(starters)" ] && is_ours bin/occ; then
        # That the daemon goes on is said below.
        if said=$("$prefix/bin/occ" daemon uninstall 2>&1); then
            echo "$said" | sed '/^occd (process .*) goes on\./d'
        else
            echo "$said" >&2
        fi
    fi
    listed | while IFS= read -r file; do
        if is_another "$file"; then
            echo "$prefix/$file is not occ's, and stays."
        else
            take_away "$file"
        fi
    done
    take_away share/occ/installed
    echo "Removed occ and occd from $prefix. hosts.json, occd.toml and what occd remembers stay."
    [ -z "$ours" ] || echo "$ours" | while IFS= read -r file; do
        [ ! -f "$file" ] || say_left "$file"
    done
    # One of the unit's has ended with it.
    [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null || echo "occd still runs: kill $pid ends it."
    exit 0
fi

# The unit names occd, and systemd starts no program with these in its path, however they are written.
impossible() {
    fail "$prefix has $1 in it, and systemd starts no program below such a directory: --prefix DIR installs elsewhere."
}
case $prefix in
*[[:cntrl:]]*) impossible "a control character" ;;
*\"*) impossible '"' ;;
*\'*) impossible "'" ;;
*\\*) impossible "\\" ;;
esac

# Before minutes of building.
printf 'bin/occ\nbin/occd\n' | keep_off
if [ -x "$here/bin/occ" ] && [ -x "$here/bin/occd" ]; then
    tree=$here
else
    command -v cargo >/dev/null || fail "building needs Rust: https://rustup.rs"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    tree=$work/occ
    if [ -n "$programs" ]; then
        (cd "$here" && cargo xtask dist --programs "$programs" --tree "$tree") >/dev/null
    else
        (cd "$here" && cargo xtask dist --tree "$tree") >/dev/null
    fi
fi

new=$(cd "$tree" && find bin share -type f | LC_ALL=C sort)
echo "$new" | keep_off
# As a word of a unit (systemd.syntax(7)), and that in a replacement of sed's.
occd=$(printf '%s\n' "$prefix/bin/occd" | sed 's/%/%%/g; s/[&|]/\\&/g')
# Prints a file as it is installed.
content() {
    case $1 in
    share/systemd/*) sed "s|^ExecStart=.*|ExecStart=\"$occd\"|" "$tree/$1" ;;
    *) cat "$tree/$1" ;;
    esac
}
lines=$(echo "$new" | while IFS= read -r file; do content "$file" | line "$file"; done)
old=$(listed)
# First of all, so that --uninstall takes away what a failure leaves behind.
mkdir -p "$prefix/share/occ"
{ [ -z "$old" ] || cat "$list"; echo "$lines"; } | LC_ALL=C sort -u | record
echo "$new" | while IFS= read -r file; do
    mkdir -p "$prefix/$(dirname "$file")"
    # A new file: a running program cannot be written to.
    content "$file" >"$prefix/$file.new"
    case $file in
    bin/*) chmod 755 "$prefix/$file.new" ;;
    *) chmod 644 "$prefix/$file.new" ;;
    esac
    mv -f "$prefix/$file.new" "$prefix/$file"
done
# What an older version had and this one has no more.
echo "$old" | while IFS= read -r file; do
    [ -z "$file" ] || echo "$new" | grep -qxF -- "$file" || is_another "$file" || take_away "$file"
done
echo "$lines" | record

version=$("$prefix/bin/occ" --version)
[ -z "$old" ] && did="Installed" || did="Replaced what was installed:"
cat <<END
$did $version
  programs      $prefix/bin/occ, occd
  completions   $prefix/share: bash, zsh, fish
  man pages     $prefix/share/man/man1: man occ
  systemd unit  $prefix/share/systemd/user/occd.service
END
case :$PATH: in
*":$prefix/bin:"*) ;;
*) echo "$prefix/bin is not in your PATH: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
running=$("$prefix/bin/occ" daemon status 2>/dev/null || true)
case $running in
*"is running"*) echo "The occd that runs goes on as it is: occ daemon restart takes the new one." ;;
esac
echo "Next: occ setup"
