# Completion of occ for fish. occ completions fish prints it; what may stand where is occ's own answer.

function __occ_complete
    set -l current (commandline -ct)
    # occ knows words without quotes; fish puts them into the line with those that they need.
    set -l word (string unescape -- "$current")
    set -l lines (command occ __complete fish (commandline -opc) "$word" 2>/dev/null)
    test (count $lines) -gt 1; and printf '%s\n' $lines[2..-1]
    if test "$lines[1]" = files
        __fish_complete_path "$current"
    end
end

complete -c occ -f -a '(__occ_complete)'
