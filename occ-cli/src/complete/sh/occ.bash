# Completion of occ for bash. occ completions bash prints it; what may stand where is occ's own answer.

_occ() {
    local kind word words=()
    COMPREPLY=()
    {
        read -r kind || return 0
        while IFS= read -r word; do
            words+=("$word")
        done
    } < <(command occ __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    COMPREPLY=("${words[@]+"${words[@]}"}")
    # bash of macOS has no compopt; there a space follows, and no files of a variable's directory are offered.
    if [[ ${#words[@]} == 0 && $kind == files ]]; then
        compopt -o default 2>/dev/null
    elif [[ ${#words[@]} == 1 && ${words[0]} == *[:=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -F _occ occ
