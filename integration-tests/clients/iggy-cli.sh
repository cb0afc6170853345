#!/usr/bin/env bash
# Drives the `iggy` command line (iggy-cli 0.14.0) through everything that it can do
# over TCP, as a person would, and checks what it says.
#
#   cargo install iggy-cli@0.14.0 --locked
#   cargo run --release -- dev                       # in another terminal
#   clients/iggy-cli.sh [HOST:PORT [USER PASSWORD]]
#
# It needs a server without streams, and removes what it makes. The last line is
# `N passed, M failed`.
set -uo pipefail
export LC_ALL=C NO_COLOR=1 TERM=dumb

address=${1:-127.0.0.1:8090}
user=${2:-iggy}
password=${3:-iggy}
iggy=${IGGY_CLI:-iggy}
if ! command -v "$iggy" >/dev/null; then
    printf '%s is not there: cargo install iggy-cli@0.14.0 --locked, or say where it is in IGGY_CLI\n' "$iggy"
    exit 2
fi
passed=0
failed=0
output=
code=0
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
# Contexts and sessions of whoever runs this stay as they are.
export HOME=$files
unset XDG_CONFIG_HOME IGGY_HOME

judge() { # whether what was expected
    if [ "$1" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'NOT AS EXPECTED: %s\n' "$2"
    fi
}

# Runs the command with these arguments: output and code are what came of it.
run() {
    printf '$ iggy %s\n' "$*"
    output=$("$iggy" --tcp-server-address "$address" -u "$user" -p "$password" "$@" 2>&1 </dev/null)
    code=$?
    output=$(grep -v -e 'WARN keyring' -e '^ *[0-9]*: ' -e '^  *at ' <<<"$output")
    printf '%s\n' "$output"
}

# says TEXT ARGS...: the command succeeds, and its output has TEXT, a basic regular
# expression.
says() {
    local text=$1
    run "${@:2}"
    [ "$code" = 0 ] && grep -q -e "$text" <<<"$output"
    judge $? "success and $text"
}

# refuses TEXT ARGS...: the command fails, and says so.
refuses() {
    local text=$1
    run "${@:2}"
    [ "$code" != 0 ] && grep -q -e "$text" <<<"$output"
    judge $? "failure and $text"
}

# As another user: as NAME PASSWORD says|refuses TEXT ARGS...
as() {
    local user=$1 password=$2
    shift 2
    "$@"
}

# -- the server
says 'Ping' ping --count 3
says 'User ID' me
says 'Streams Count' stats
says 'Name' cluster metadata
says 'segment_size' options topic
says 'Address' client list
says 'inactive\|Inactive\|none\|No' session status

# -- streams
says 'created' stream create prod
refuses 'already exists' stream create prod
says 'created' stream create other
says 'prod' stream list
says 'prod' stream get prod
says 'prod' stream get 0
says 'updated' stream update other renamed
says 'renamed' stream get renamed
says 'was not found' stream get other

# -- topics
says 'created' topic create prod sensors 3 none
refuses 'already exists' topic create prod sensors 3 none
says 'created' topic create prod logs 1 gzip 15days 2min -m 2GB --durability persisted
says 'created' topic create prod tuned 1 none --set segment_size=128MiB
refuses 'nvalid\|option\|Option' topic create prod wrong 1 none --set no_such_key=1
says 'sensors' topic list prod
says 'gzip' topic get prod logs
says '15days' topic get prod logs
says '2.00 GB\|2 GB\|2.0 GB\|1.86' topic get prod logs
says 'updated' topic update prod tuned finer gzip 1day
says 'finer' topic get prod finer
says 'was not found' topic get prod tuned

# -- partitions
says 'partitions: 2\|2 partition' partition create prod sensors 2
says '5' topic get prod sensors
says '2 partition' partition delete prod sensors 2
refuses 'not found' partition create prod nowhere 1

# -- messages
says 'sent\|Sent' message send prod sensors -p 0 first second 'the third'
says 'sent\|Sent' message send prod sensors -m some-key by-key
says 'sent\|Sent' message send prod sensors -p 2 last-but-one last-of-all
says 'sent\|Sent' message send prod sensors -p 1 -H 'kind:string:test,number:uint64:7' with-headers
says 'first' message poll prod sensors 0 --first
says 'last-of-all' message poll prod sensors 2 --last
says 'second' message poll prod sensors 0 --offset 1 -m 2
says 'with-headers' message poll prod sensors 1 --first -m 10
says 'kind' message poll prod sensors 1 --first -m 10 --show-headers
says 'first' message poll prod sensors 0 --next -a -c 7
says 'second' message poll prod sensors 0 --next -a -c 7 -m 2
says '2' consumer-offset get 7 prod sensors 0
says 'set\|Set' consumer-offset set 7 prod sensors 0 0
says 'second' message poll prod sensors 0 --next -c 7
says 'stored\|output\|file\|Stored' message poll prod sensors 0 --first -m 3 --output-file "$files/messages"
says 'sent\|Sent' message send prod sensors -p 2 --input-file "$files/messages"
says 'the third' message poll prod sensors 2 --last
refuses 'not found\|partition\|Partition' message poll prod sensors 9 --first
says 'delete\|Delete' segment delete prod sensors 0 1
refuses 'unsupported\|unavailable\|Unsupported\|supported' message flush prod sensors 0
says 'purge\|Purge' topic purge prod sensors
says 'empty\|No messages\|Polled messages\|0 messages\|no messages' message poll prod sensors 0 --first
says 'purge\|Purge' stream purge prod

# -- consumer groups
says 'created' consumer-group create prod sensors readers
refuses 'already exists' consumer-group create prod sensors readers
says 'readers' consumer-group list prod sensors
says 'readers' consumer-group get prod sensors readers
says 'deleted' consumer-group delete prod sensors readers
says 'was not found' consumer-group get prod sensors readers

# -- users
says 'created' user create guest secret-1 -g r_str,p_msg
refuses 'already exists' user create guest secret-1
says 'guest' user list
says 'guest' user get guest
as guest secret-1 says 'prod' stream list
as guest secret-1 refuses 'nauthorized' stream create forbidden
as guest secret-1 refuses 'nauthorized' user list
says 'permissions\|Permissions' user permissions guest -g m_str -s 0:m_str,s_msg#0:p_msg
as guest secret-1 says 'created' stream create allowed
says 'password\|Password' user password guest secret-1 secret-2
as guest secret-1 refuses 'nvalid\|credentials' stream list
as guest secret-2 says 'allowed' stream list
says 'username\|name' user name guest visitor
as visitor secret-2 says 'allowed' stream list
says 'inactive' user status visitor inactive
as visitor secret-2 refuses 'nactive\|credentials\|authenticated' stream list
says 'active' user status visitor active
as visitor secret-2 says 'allowed' stream delete allowed
says 'deleted' user delete visitor
says 'was not found' user get visitor
refuses 'Cannot delete user' user delete 0

# -- tokens
says 'created\|Token' pat create robot 1day
token=$(sed -n 's/^Token: //p' <<<"$output")
says 'robot' pat list
printf '$ iggy --token ... me\n'
output=$("$iggy" --tcp-server-address "$address" --token "$token" me 2>&1)
code=$?
printf '%s\n' "$output"
[ $code = 0 ] && grep -q 'User ID' <<<"$output"
judge $? 'a login with the token'
refuses 'already exists' pat create robot 1day
# It looks for the token in the keyring of the desktop afterwards, and fails where
# there is none.
printf '$ iggy pat delete robot\n'
"$iggy" --tcp-server-address "$address" -u "$user" -p "$password" pat delete robot >/dev/null 2>&1
says 'personal access tokens' pat list
! grep -q robot <<<"$output"
judge $? 'the token is gone'
output=$("$iggy" --tcp-server-address "$address" --token "$token" me 2>&1)
[ $? != 0 ]
judge $? 'the deleted token is refused'

# -- the archive
says 'napshot' snapshot --snapshot-types process_list resource_usage --out-dir "$files"
unzip -l "$files"/*.zip
judge $? 'a zip archive'

# -- the rest of what was made
says 'deleted' topic delete prod finer
says 'deleted' topic delete prod 0
says 'deleted' stream delete prod
says 'deleted' stream delete renamed
refuses 'not found' stream delete prod
user=nobody refuses 'nvalid\|credentials' stream list

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
