# Completion of flockstep in bash. To load it in every shell:
#   flockstep completion bash > ~/.local/share/bash-completion/completions/flockstep
_flockstep() {
    local all="" word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    if ((COMP_CWORD == 1)); then
        all="@words@ --help --version"
    else
        case "${COMP_WORDS[1]} $before" in
@cases@
        esac
    fi
    [[ $all == *= ]] && compopt -o nospace
    mapfile -t COMPREPLY < <(compgen -W "$all" -- "$word")
}
complete -o default -F _flockstep flockstep
