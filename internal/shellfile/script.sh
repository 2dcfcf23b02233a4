# Reads or replaces a config.json, in POSIX sh.
# Arguments: read or write; the path, or nothing for the clients' own; a token
# that makes the name of the temporary file unique; keep, or nothing. With keep a
# file that exists keeps its owner and permissions, and what is written has
# reached the disk before it counts.
#
# Standard input for write: a line with the size and the two sums of the new
# content, and those of the content that it takes the place of; then the new
# content. Standard output: see answer. Its last line says that all arrived.
#
# Standard output stays open until the script ends: container runtimes close
# standard input when standard output ends.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/busybox
export LC_ALL PATH
umask 077
set -f
mode=$1 path=$2 token=$3 keep=$4 real= temp= sum= have=none

# state prints size and sum of a file; none for one that is not there.
state() {
	[ -e "$1" ] || { printf none; return 0; }
	set -- $(wc -c <"$1") $($sum <"$1")
	[ $# -ge 2 ] && printf '%s %s' "$1" "$2"
}

# answer ends the script with a result, what went wrong, and the content.
answer() {
	result=$1
	set -- $2
	[ ! -e "$temp" ] || rm -f "$temp"
	[ "$result" = failed ] || have=$(state "$real" 2>/dev/null)
	printf '%s\n' 'regkeeper-file 1' "result $result" "uid $uid" "path $path" "sum $sum" "file $have" "why $*" ''
	[ "$result" = failed ] || [ "$have" = none ] || cat "$real"
	printf '\nregkeeper-end\n'
	exit 0
}

uid=$(id -u 2>/dev/null)
[ -n "$uid" ] || while read -r key uid rest; do
	[ "$key" != Uid: ] || break
done </proc/self/status
home=$HOME
[ -n "$home" ] || while IFS=: read -r rest rest id rest rest folder rest; do
	[ "$id" != "$uid" ] || { home=$folder; break; }
done </etc/passwd
case $path in
'')
	if [ -n "$DOCKER_CONFIG" ]; then
		path=${DOCKER_CONFIG%/}/config.json
	elif [ -n "$home" ]; then
		path=${home%/}/.docker/config.json
	else
		answer failed home
	fi
	;;
'~/'*) path=${home%/}/${path#??} ;;
esac
case $path in
/*) ;;
*) path=$(pwd)/$path ;;
esac
for tool in cat wc rm mv mkdir chmod; do
	command -v $tool >/dev/null 2>&1 || answer failed "tools $tool"
done
for tool in sha256sum cksum; do
	$tool </dev/null >/dev/null 2>&1 && sum=$tool && break
done
[ -n "$sum" ] || answer failed 'tools sha256sum'

# A link is written through: what it leads to is replaced.
real=$path
links=0
while [ -L "$real" ]; do
	links=$((links + 1))
	[ $links -le 40 ] || answer failed links
	to=$(readlink "$real") || answer failed 'tools readlink'
	case $to in
	/*) real=$to ;;
	*) real=${real%/*}/$to ;;
	esac
done
[ ! -d "$real" ] || answer failed folder
[ ! -e "$real" ] || [ -r "$real" ] || answer failed 'read permission denied'
[ "$mode" = write ] || answer read

read -r size sha crc oldsize oldsha oldcrc || answer lost
new="$size $sha" old="$oldsize $oldsha"
[ $sum != cksum ] || new="$size $crc" old="$oldsize $oldcrc"
[ "$oldsize" != none ] || old=none

folder=${real%/*}
folder=${folder:-/}
name=${real##*/}
base=$folder made=
while [ ! -d "$base" ]; do
	made=$base
	base=${base%/*}
	base=${base:-/}
done
# What root makes belongs to whom the file, or the nearest folder, belongs to.
own= bits=600
[ ! -e "$real" ] || base=$real
set -- $(ls -lnd "$base")
if [ -n "$keep" ] && [ "$base" = "$real" ]; then
	own=$3:$4 bits=${1#?}
	bits=${bits%[.+@]} rest=${bits#???}
	bits=u=${bits%??????},g=${rest%???},o=${rest#???}
elif [ "$uid" = 0 ] && [ "$3" != 0 ]; then
	own=$3:$4
fi
if [ -n "$made" ]; then
	why=$(mkdir -p "$folder" 2>&1) || answer failed "folder $why"
	[ -z "$own" ] || why=$(chown -R "$own" "$made" 2>&1) || answer failed "own $why"
fi
# What killed writers left may hold a secret.
(
	set +f
	for left in "${folder%/}/.$name.regkeeper-"*; do
		pid=${left%-*}
		[ ! -d /proc/self ] || [ -d "/proc/${pid##*-}" ] || rm -f "$left"
	done
)

temp=${folder%/}/.$name.regkeeper-$$-$token
trap 'rm -f "$temp"' EXIT
trap 'exit 1' HUP INT PIPE TERM
why=$({ set -C; cat >"$temp"; } 2>&1) || answer failed "write $why"
[ "$(state "$temp")" = "$new" ] || answer lost
chmod $bits "$temp" 2>/dev/null
[ -z "$own" ] || why=$(chown "$own" "$temp" 2>&1) || answer failed "own $why"
[ -z "$keep" ] || dd if=/dev/null of="$temp" conv=notrunc,fsync 2>/dev/null
[ "$(state "$real")" = "$old" ] || answer changed
why=$(mv -f "$temp" "$real" 2>&1) || {
	[ ! -e "$temp" ] || answer failed "rename $why"
	answer lost
}
temp=
answer written
