#!/usr/bin/env bash
# Drives the `iggy` command line (iggy-cli 0.14.0) through everything that it can do
# over TCP, as a person would, and checks what it prints.
#
#   cargo install iggy-cli@0.14.0 --locked
#   cargo run --release -- dev                       # in another terminal
#   integration-tests/clients/iggy-cli.sh [HOST:PORT [USER PASSWORD]]
#
# It needs a server without streams, and removes what it creates. The last line is
# `N passed, M failed`.
set -uo pipefail
export LC_ALL=C NO_COLOR=1 TERM=dumb

address=${1:-127.0.0.1:8090}
user=${2:-iggy}
password=${3:-iggy}
iggy=${IGGY_CLI:-iggy}
if ! command -v "$iggy" >/dev/null; then
    printf '%s does not exist: cargo install iggy-cli@0.14.0 --locked, or set its path in IGGY_CLI\n' "$iggy"
    exit 2
fi
passed=0
failed=0
output=
code=0
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
# The contexts and sessions of the user who runs this stay as they are.
export HOME=$files
unset XDG_CONFIG_HOME IGGY_HOME

judge() { # STATUS EXPECTATION: counts a check
    if [ "$1" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'NOT AS EXPECTED: %s\n' "$2"
    fi
}

# Runs the command with these arguments, and sets output and code.
run() {
    printf '$ iggy %s\n' "$*"
    output=$("$iggy" --tcp-server-address "$address" -u "$user" -p "$password" "$@" 2>&1 </dev/null)
    code=$?
    output=$(grep -v -e 'WARN keyring' -e '^ *[0-9]*: ' -e '^  *at ' <<<"$output")
    printf '%s\n' "$output"
}

# prints TEXT ARGS...: the command succeeds, and its output has TEXT, a basic regular
# expression.
prints() {
    local text=$1
    run "${@:2}"
    [ "$code" = 0 ] && grep -q -e "$text" <<<"$output"
    judge $? "success and $text"
}

# refuses TEXT ARGS...: the command fails, and its output has TEXT.
refuses() {
    local text=$1
    run "${@:2}"
    [ "$code" != 0 ] && grep -q -e "$text" <<<"$output"
    judge $? "failure and $text"
}

# As another user: as NAME PASSWORD prints|refuses TEXT ARGS...
as() {
    local user=$1 password=$2
    shift 2
    "$@"
}

# -- the server
prints 'Ping' ping --count 3
prints 'User ID' me
prints 'Streams Count' stats
prints 'Name' cluster metadata
prints 'segment_size' options topic
prints 'Address' client list
prints 'inactive\|Inactive\|none\|No' session status

# -- streams
prints 'created' stream create prod
refuses 'already exists' stream create prod
prints 'created' stream create other
prints 'prod' stream list
prints 'prod' stream get prod
prints 'prod' stream get 0
prints 'updated' stream update other renamed
prints 'renamed' stream get renamed
prints 'was not found' stream get other

# -- topics
prints 'created' topic create prod sensors 3 none
refuses 'already exists' topic create prod sensors 3 none
prints 'created' topic create prod logs 1 gzip 15days 2min -m 2GB --durability persisted
prints 'created' topic create prod tuned 1 none --set segment_size=128MiB
refuses 'nvalid\|option\|Option' topic create prod wrong 1 none --set no_such_key=1
prints 'sensors' topic list prod
prints 'gzip' topic get prod logs
prints '15days' topic get prod logs
prints '2.00 GB\|2 GB\|2.0 GB\|1.86' topic get prod logs
prints 'updated' topic update prod tuned finer gzip 1day
prints 'finer' topic get prod finer
prints 'was not found' topic get prod tuned

# -- partitions
prints 'partitions: 2\|2 partition' partition create prod sensors 2
prints '5' topic get prod sensors
prints '2 partition' partition delete prod sensors 2
refuses 'not found' partition create prod nowhere 1

# -- messages
prints 'sent\|Sent' message send prod sensors -p 0 first second 'the third'
prints 'sent\|Sent' message send prod sensors -m some-key by-key
prints 'sent\|Sent' message send prod sensors -p 2 last-but-one last-of-all
prints 'sent\|Sent' message send prod sensors -p 1 -H 'kind:string:test,number:uint64:7' with-headers
prints 'first' message poll prod sensors 0 --first
prints 'last-of-all' message poll prod sensors 2 --last
prints 'second' message poll prod sensors 0 --offset 1 -m 2
prints 'with-headers' message poll prod sensors 1 --first -m 10
prints 'kind' message poll prod sensors 1 --first -m 10 --show-headers
prints 'first' message poll prod sensors 0 --next -a -c 7
prints 'second' message poll prod sensors 0 --next -a -c 7 -m 2
prints '2' consumer-offset get 7 prod sensors 0
prints 'set\|Set' consumer-offset set 7 prod sensors 0 0
prints 'second' message poll prod sensors 0 --next -c 7
prints 'stored\|output\|file\|Stored' message poll prod sensors 0 --first -m 3 --output-file "$files/messages"
prints 'sent\|Sent' message send prod sensors -p 2 --input-file "$files/messages"
prints 'the third' message poll prod sensors 2 --last
refuses 'not found\|partition\|Partition' message poll prod sensors 9 --first
prints 'delete\|Delete' segment delete prod sensors 0 1
refuses 'unsupported\|unavailable\|Unsupported\|supported' message flush prod sensors 0
prints 'purge\|Purge' topic purge prod sensors
prints 'empty\|No messages\|Polled messages\|0 messages\|no messages' message poll prod sensors 0 --first
prints 'purge\|Purge' stream purge prod

# -- consumer groups
prints 'created' consumer-group create prod sensors readers
refuses 'already exists' consumer-group create prod sensors readers
prints 'readers' consumer-group list prod sensors
prints 'readers' consumer-group get prod sensors readers
prints 'deleted' consumer-group delete prod sensors readers
prints 'was not found' consumer-group get prod sensors readers

# -- users
prints 'created' user create guest secret-1 -g r_str,p_msg
refuses 'already exists' user create guest secret-1
prints 'guest' user list
prints 'guest' user get guest
as guest secret-1 prints 'prod' stream list
as guest secret-1 refuses 'nauthorized' stream create forbidden
as guest secret-1 refuses 'nauthorized' user list
prints 'permissions\|Permissions' user permissions guest -g m_str -s 0:m_str,s_msg#0:p_msg
as guest secret-1 prints 'created' stream create allowed
prints 'password\|Password' user password guest secret-1 secret-2
as guest secret-1 refuses 'nvalid\|credentials' stream list
as guest secret-2 prints 'allowed' stream list
prints 'username\|name' user name guest visitor
as visitor secret-2 prints 'allowed' stream list
prints 'inactive' user status visitor inactive
as visitor secret-2 refuses 'nactive\|credentials\|authenticated' stream list
prints 'active' user status visitor active
as visitor secret-2 prints 'allowed' stream delete allowed
prints 'deleted' user delete visitor
prints 'was not found' user get visitor
refuses 'Cannot delete user' user delete 0

# -- tokens
prints 'created\|Token' pat create robot 1day
token=$(sed -n 's/^Token: //p' <<<"$output")
prints 'robot' pat list
printf '$ iggy --token ... me\n'
output=$("$iggy" --tcp-server-address "$address" --token "$token" me 2>&1)
code=$?
printf '%s\n' "$output"
[ $code = 0 ] && grep -q 'User ID' <<<"$output"
judge $? 'a login with the token'
refuses 'already exists' pat create robot 1day
# The command then looks for the token in the keyring of the desktop, and fails where there
# is none.
printf '$ iggy pat delete robot\n'
"$iggy" --tcp-server-address "$address" -u "$user" -p "$password" pat delete robot >/dev/null 2>&1
prints 'personal access tokens' pat list
! grep -q robot <<<"$output"
judge $? 'the token is deleted'
output=$("$iggy" --tcp-server-address "$address" --token "$token" me 2>&1)
[ $? != 0 ]
judge $? 'the deleted token is refused'

# -- the archive
prints 'napshot' snapshot --snapshot-types process_list resource_usage --out-dir "$files"
unzip -l "$files"/*.zip
judge $? 'a zip archive'

# -- the rest of what was created
prints 'deleted' topic delete prod finer
prints 'deleted' topic delete prod 0
prints 'deleted' stream delete prod
prints 'deleted' stream delete renamed
refuses 'not found' stream delete prod
user=unknown refuses 'nvalid\|credentials' stream list

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
