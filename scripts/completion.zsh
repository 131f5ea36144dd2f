#compdef flockstep
# Completion of flockstep in zsh. To load it in every shell, into a folder of $fpath:
#   flockstep completion zsh > ~/.zfunc/_flockstep
_flockstep() {
    local all="" before=${words[CURRENT-1]}
    if ((CURRENT == 2)); then
        all="@words@ --help --version"
    else
        case "${words[2]} $before" in
@cases@
        esac
    fi
    if [[ -z $all ]]; then
        _files
    elif [[ $all == *= ]]; then
        compadd -S '' -- ${=all}
    else
        compadd -- ${=all}
    fi
}
if [[ $funcstack[1] == _flockstep ]]; then _flockstep "$@"; else compdef _flockstep flockstep; fi
