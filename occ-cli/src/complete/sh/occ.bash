# Completion of occ for bash. occ completions bash prints it; what may stand where is occ's own answer.

_occ() {
    local kind word file words=()
    COMPREPLY=()
    {
        read -r kind || return 0
        while IFS= read -r word; do
            words+=("$word")
        done
    } < <(command occ __complete bash "$COMP_LINE" "$COMP_POINT" "$COMP_WORDBREAKS" 2>/dev/null)
    if [[ $kind == files ]]; then
        while IFS= read -r file; do
            [[ -d $file ]] && file+=/
            printf -v file %q "$file"
            words+=("$file")
        done < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}" 2>/dev/null)
    fi
    COMPREPLY=("${words[@]+"${words[@]}"}")
    if [[ ${#words[@]} == 1 && ${words[0]} == *[:=/] ]]; then
        # bash of macOS has none; there a space follows.
        compopt -o nospace 2>/dev/null
    fi
    return 0
}

complete -F _occ occ
