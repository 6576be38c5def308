# SPDX-License-Identifier: BSD-3-Clause
# bash completion for moetap: verbs from its table, options and their choices from the verbs' help.
_moetap_pages()
{
	local page

	for page in /dev/shm/moetap-*; do
		[[ -e $page && $page != /dev/shm/moetap-hint-* ]] && printf '%s\n' "${page#/dev/shm/moetap-}"
	done
}

_moetap()
{
	local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	local moetap=${COMP_WORDS[0]} help words='' word verb=()

	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		mapfile -t COMPREPLY < <(compgen -W \
			"$("$moetap" --complete 2>/dev/null) --help --version" -- "$current")
		return
	fi
	# The verb, and the verb's own verb where it has some (hints show).
	verb=("${COMP_WORDS[1]}")
	help=$("$moetap" "${verb[@]}" --help 2>/dev/null </dev/null)
	if [[ $help == *$'\nVerbs:'* ]]; then
		if ((COMP_CWORD == 2)); then
			words=$(sed -n '/^Verbs:/,$s/^  \([a-z]\+\) .*/\1/p' <<<"$help")
			mapfile -t COMPREPLY < <(compgen -W "$words --help" -- "$current")
			return
		fi
		verb+=("${COMP_WORDS[2]}")
		help=$("$moetap" "${verb[@]}" --help 2>/dev/null </dev/null)
	fi
	# What the option before takes; flags take nothing.
	[[ $previous == --* ]] && word=$(sed -n "s/^  $previous \([^ ]*\) .*/\1/p" <<<"$help")
	if [[ $previous == --page ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_moetap_pages)" -- "$current")
		return
	fi
	if [[ -n $word ]]; then
		if [[ $word == *'|'* && $word != *[A-Z]* ]]; then
			mapfile -t COMPREPLY < <(compgen -W "${word//|/ }" -- "$current")
			return
		elif [[ $word != *.* ]]; then
			return
		fi
	elif [[ $current == -* ]]; then
		words=$(sed -n 's/^  \(--[a-z-]\+\) .*/\1/p' <<<"$help")
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
		return
	fi
	if [[ ${verb[*]} == 'map presets' ]]; then
		words=$("$moetap" map presets 2>/dev/null | sed 's/ .*//')
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
		return
	fi
	mapfile -t COMPREPLY < <(compgen -f -- "$current")
}
complete -o filenames -F _moetap moetap
