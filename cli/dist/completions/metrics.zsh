#compdef metrics

autoload -U is-at-least

_metrics() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_metrics_commands" \
"*::: :->metrics" \
&& ret=0
    case $state in
    (metrics)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:metrics-command-$line[1]:"
        case $line[1] in
            (serve)
_arguments "${_arguments_options[@]}" : \
'--listen=[Sets where the server listens \[default\: 127.0.0.1\:8888\]]:ADDRESS:PORT:_default' \
'--data=[Keeps points in this folder\: the same as --store disk\:DIR]:DIR:_files' \
'--store=[Sets where points are kept\: memory\:, disk\:DIR, or clickhouse\://USER\:PASSWORD@HOST\:PORT,../DATABASE \[default\: memory\:\]]:STORE:_default' \
'--keep=[Sets how long points are kept on disk or in ClickHouse, such as 400d \[default\: for ever\]]:TIME:_default' \
'--sync=[Sets when the disk is synced\: always, before a put is acknowledged; or a time such as 1s, of which a loss of power may then take what was acknowledged \[default\: always\]]:WHEN:_default' \
'--max-disk=[Sets how much the folder may take, such as 50GiB; above it puts wait, as on a full disk \[default\: the disk\]]:SIZE:_default' \
'--tls-cert=[Serves TLS with this certificate chain (PEM)]:FILE:_files' \
'--tls-key=[The key of the certificate (PEM)]:FILE:_files' \
'--tls-client-ca=[Accepts only clients with a certificate of this authority (PEM)]:FILE:_files' \
'--graphite=[Accepts Graphite'\''s plaintext protocol too, over TCP and UDP; it has neither TLS nor a token]:ADDRESS:PORT:_default' \
'--http=[Serves HTTP too\: the page, the API, Graphite'\''s render API, and what InfluxDB'\''s clients write]:ADDRESS:PORT:_default' \
'--token-file=[Requires the token in this file for HTTP; needed unless HTTP is on a loopback address]:FILE:_files' \
'*--http-limit=[Sets a limit of HTTP, by the name in an error (NAME=N); may be repeated, times are in seconds]:NAME=N:_default' \
'--max-memory=[Bounds the memory, such as 1GiB\: half of it for points and snapshots, an eighth for answers that are not read, an eighth for connections of 64 KiB each, the rest for what is not counted. Lowers limits, never raises one, except that of a store in memory \[default\: 1GiB of points in memory, about 1.3GiB in all with points on disk\]]:SIZE:_default' \
'--max-connections=[Sets how many connections there may be \[default\: 10,000, and what --max-memory and the process'\''s limit of open files allow\]]:N:_default' \
'*--relay=[Sends what is stored on to this destination too, several times for several. With any, the relays of the file do not count; rules, names and bounds can be set there only]:URL:_default' \
'--relay-spool=[Keeps what relays cannot send in this folder \[default\: the folder relays in that of --data\]]:DIR:_files' \
'--config=[Reads what is not set otherwise from this file (TOML, the names of these options)]:FILE:_files' \
'--no-token[Lets everybody who can reach it use HTTP]' \
'--check-config[Checks the configuration, and does not serve]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(agent)
_arguments "${_arguments_options[@]}" : \
'--server=[Sets the server\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT?ca_file=FILE\`, or several with commas between them, over one store \[default\: 127.0.0.1\:8888\]]:ADDRESS:_default' \
'--interval=[Sets how often the host is measured, at seconds that are a multiple of it \[default\: 10s\]]:TIME:_default' \
'--jitter=[Sets up to how much later than that, so that many hosts do not measure at once \[default\: a tenth of the interval\]]:TIME:_default' \
'--host=[Sets the name of the host in keys \[default\: that of the system\]]:NAME:_default' \
'--keys=[Sets where keys have the name of the host \[default\: dotted\]]:STYLE:((dotted\:"HOST.cpu"
labels\:"cpu;host=HOST"))' \
'*--label=[Adds a label to all keys; may be given several times]:NAME=VALUE:_default' \
'*--include=[Sends only what this glob matches, such as \`disk.*\`; may be given several times]:GLOB:_default' \
'*--exclude=[Does not send what this glob matches, such as \`network.*.veth*\`; may be given several times]:GLOB:_default' \
'--spool=[Keeps what cannot be sent in this folder]:DIR:_files' \
'--max-spool=[Sets how much the folder may take; the oldest samples are dropped beyond that \[default\: 256MiB\]]:SIZE:_default' \
'--max-queue=[Sets how much memory unsent samples may take; the oldest are dropped beyond that \[default\: 4MiB\]]:SIZE:_default' \
'--statsd=[Listens for StatsD and DogStatsD over UDP at this address]:ADDRESS:PORT:_default' \
'--statsd-socket=[Listens for StatsD and DogStatsD on this Unix socket, which is created; every user may send to it]:PATH:_files' \
'--statsd-max-series=[Sets how many series programs may report, by name and tags \[default\: 10,000\]]:N:_default' \
'--statsd-max-set-members=[Sets how many members a set may have in an interval \[default\: 10,000\]]:N:_default' \
'*--statsd-percentiles=[Sets the percentiles of timers, histograms and distributions \[default\: 50,90,99\]]:PERCENT:_default' \
'--statsd-keep-gauges=[Sets how long a gauge is sent again that no program sets any more \[default\: 1h\]]:TIME:_default' \
'--stop-timeout=[Sets how long the agent may take to send what is left when it is stopped \[default\: 5s\]]:TIME:_default' \
'--config=[Reads what is not set otherwise from this file (TOML, the names of these options)]:FILE:_files' \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--check-config[Checks the configuration, and does not measure]' \
'--once[Prints what would be sent, measured for a second, and sends nothing]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(put)
_arguments "${_arguments_options[@]}" : \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'-h[Print help]' \
'--help[Print help]' \
':key -- The key, such as palm.cpu:_default' \
':value -- The value, a finite number:_default' \
'::timestamp -- When it was measured\: seconds since 1970, RFC 3339, a date, -6h:_default' \
&& ret=0
;;
(get)
_arguments "${_arguments_options[@]}" : \
'--from=[Leaves out what is older than this\: seconds since 1970, RFC 3339, a date, -6h]:TIME:_default' \
'--until=[Leaves out what is newer than this]:TIME:_default' \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'--fail[Exits with status 4 if nothing was found]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':keys -- A key or a pattern\: * is any number of characters, ? is one. A pattern reads all keys:_default' \
&& ret=0
;;
(watch)
_arguments "${_arguments_options[@]}" : \
'--interval=[Sets how often the server is asked, such as 1s or 5m]:TIME:_default' \
'--sort=[Sets by what the table is sorted]:COLUMN:((name\:""
value\:"The highest first"
age\:"The newest first"))' \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'*::patterns -- A key or a pattern\: * is any number of characters, ? is one:_default' \
&& ret=0
;;
(plot)
_arguments "${_arguments_options[@]}" : \
'--from=[Leaves out what is older than this\: seconds since 1970, RFC 3339, a date, -6h]:TIME:_default' \
'--until=[Leaves out what is newer than this]:TIME:_default' \
'-o+[Sets what is drawn \[default\: svg if the name of --file ends with .svg, term otherwise\]]:FORMAT:((term\:"Characters"
svg\:"A vector graphic"))' \
'--output=[Sets what is drawn \[default\: svg if the name of --file ends with .svg, term otherwise\]]:FORMAT:((term\:"Characters"
svg\:"A vector graphic"))' \
'--file=[Writes the chart to this file]:FILE:_files' \
'--width=[Sets the width\: columns \[default\: those of the terminal, or 80\] or, of an SVG, pixels \[default\: 800\]]:N:_default' \
'--height=[Sets the height without the legend\: rows \[default\: 20, or 8 for each of several charts\] or, of an SVG, pixels \[default\: 320\]]:N:_default' \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'*::keys -- A key or a pattern\: * is any number of characters, ? is one. A pattern reads all keys:_default' \
&& ret=0
;;
(import)
_arguments "${_arguments_options[@]}" : \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'--resume[Goes on where an earlier import of the same file stopped]' \
'-h[Print help]' \
'--help[Print help]' \
'::file -- A file, or - for standard input:_files' \
&& ret=0
;;
(export)
_arguments "${_arguments_options[@]}" : \
'--from=[Leaves out what is older than this\: seconds since 1970, RFC 3339, a date, -6h]:TIME:_default' \
'--until=[Leaves out what is newer than this]:TIME:_default' \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--server=[Sets the server that the command talks to\: HOST\:PORT, \`unix\:/PATH\`, a URL such as \`metrics+tls\://HOST\:PORT\`, or several with commas between them]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::keys -- A key or a pattern\: * is any number of characters, ? is one. A pattern reads all keys:_default' \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':dir -- The folder, as `metrics serve --data DIR` has it:_files' \
&& ret=0
;;
(backup)
_arguments "${_arguments_options[@]}" : \
'--server=[Copies what this server has]:ADDRESS:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':dir -- The folder of points; with --server, the destination:_files' \
'::dest -- The destination, which must not exist or be empty:_files' \
&& ret=0
;;
(delete)
_arguments "${_arguments_options[@]}" : \
'--from=[Leaves out what is older than this\: seconds since 1970, RFC 3339, a date, -6h]:TIME:_default' \
'--until=[Leaves out what is newer than this]:TIME:_default' \
'--dry-run[Says what would be deleted, and deletes nothing]' \
'(--dry-run)--yes[Deletes without being asked]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':dir -- The folder, as `metrics serve --data DIR` has it:_files' \
':keys -- A key or a pattern\: * is any number of characters, ? is one:_default' \
&& ret=0
;;
(schema)
_arguments "${_arguments_options[@]}" : \
'--store=[The store, as \`metrics serve\` has it\: clickhouse\://USER\:PASSWORD@HOST\:PORT,../DATABASE?OPTION=VALUE&..]:STORE:_default' \
'--keep=[How long points are kept, such as 400d \[default\: for ever\]]:TIME:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(demo)
_arguments "${_arguments_options[@]}" : \
'--seconds=[Sets for how many seconds the host is measured]:N:_default' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(bench)
_arguments "${_arguments_options[@]}" : \
'--connections=[Sets how many connections the client has]:N:_default' \
'--callers=[Sets how many callers put at the same time, each the next when the last is acknowledged]:N:_default' \
'--seconds=[Sets for how many seconds it measures]:N:_default' \
'-o+[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--output=[Sets how samples are printed \[default\: table on a terminal, line elsewhere\]]:FORMAT:((table\:"Columns for people\: time, value, key"
json\:"One JSON object a line"
csv\:"Comma-separated values with a header"
line\:"\`put\` lines, as \`import\` and the server read them"))' \
'--server=[Sets the server that is measured]:ADDRESS:_default' \
'--timeout=[Sets how many seconds one request may take]:SECONDS:_default' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(completions)
_arguments "${_arguments_options[@]}" : \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':shell:(bash elvish fish powershell zsh)' \
&& ret=0
;;
(man)
_arguments "${_arguments_options[@]}" : \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_metrics__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:metrics-help-command-$line[1]:"
        case $line[1] in
            (serve)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(agent)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(put)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(get)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(watch)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(plot)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(import)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(export)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(backup)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(delete)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(schema)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(demo)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(bench)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(completions)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(man)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
}

(( $+functions[_metrics_commands] )) ||
_metrics_commands() {
    local commands; commands=(
'serve:Serves metrics until SIGTERM or SIGINT; a second signal ends it at once' \
'agent:Measures this host and sends that to a server, until SIGTERM or SIGINT; a second signal ends it at once' \
'put:Stores one value' \
'get:Prints what is stored for a key, or for all keys that match a pattern' \
'watch:Shows the newest values of some keys, as they change' \
'plot:Draws what is stored for some keys' \
'import:Stores the lines of a file\: \`put KEY VALUE TIMESTAMP\`, or the same without put' \
'export:Prints everything that is stored, as lines that \`import\` reads' \
'check:Reads everything in a folder of points, and says what is damaged' \
'backup:Writes a backup\: a new folder that \`metrics serve --data\` can serve' \
'delete:Deletes points from a folder that is not in use' \
'schema:Prints the statements that create the tables of a store in ClickHouse' \
'demo:Measures this host for some seconds, stores that in a server of its own, and shows what is stored' \
'bench:Measures how many puts a second a server acknowledges. Stores keys that begin with metrics-bench' \
'completions:Prints the completions for a shell' \
'man:Prints the manual page' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'metrics commands' commands "$@"
}
(( $+functions[_metrics__subcmd__agent_commands] )) ||
_metrics__subcmd__agent_commands() {
    local commands; commands=()
    _describe -t commands 'metrics agent commands' commands "$@"
}
(( $+functions[_metrics__subcmd__backup_commands] )) ||
_metrics__subcmd__backup_commands() {
    local commands; commands=()
    _describe -t commands 'metrics backup commands' commands "$@"
}
(( $+functions[_metrics__subcmd__bench_commands] )) ||
_metrics__subcmd__bench_commands() {
    local commands; commands=()
    _describe -t commands 'metrics bench commands' commands "$@"
}
(( $+functions[_metrics__subcmd__check_commands] )) ||
_metrics__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'metrics check commands' commands "$@"
}
(( $+functions[_metrics__subcmd__completions_commands] )) ||
_metrics__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'metrics completions commands' commands "$@"
}
(( $+functions[_metrics__subcmd__delete_commands] )) ||
_metrics__subcmd__delete_commands() {
    local commands; commands=()
    _describe -t commands 'metrics delete commands' commands "$@"
}
(( $+functions[_metrics__subcmd__demo_commands] )) ||
_metrics__subcmd__demo_commands() {
    local commands; commands=()
    _describe -t commands 'metrics demo commands' commands "$@"
}
(( $+functions[_metrics__subcmd__export_commands] )) ||
_metrics__subcmd__export_commands() {
    local commands; commands=()
    _describe -t commands 'metrics export commands' commands "$@"
}
(( $+functions[_metrics__subcmd__get_commands] )) ||
_metrics__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'metrics get commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help_commands] )) ||
_metrics__subcmd__help_commands() {
    local commands; commands=(
'serve:Serves metrics until SIGTERM or SIGINT; a second signal ends it at once' \
'agent:Measures this host and sends that to a server, until SIGTERM or SIGINT; a second signal ends it at once' \
'put:Stores one value' \
'get:Prints what is stored for a key, or for all keys that match a pattern' \
'watch:Shows the newest values of some keys, as they change' \
'plot:Draws what is stored for some keys' \
'import:Stores the lines of a file\: \`put KEY VALUE TIMESTAMP\`, or the same without put' \
'export:Prints everything that is stored, as lines that \`import\` reads' \
'check:Reads everything in a folder of points, and says what is damaged' \
'backup:Writes a backup\: a new folder that \`metrics serve --data\` can serve' \
'delete:Deletes points from a folder that is not in use' \
'schema:Prints the statements that create the tables of a store in ClickHouse' \
'demo:Measures this host for some seconds, stores that in a server of its own, and shows what is stored' \
'bench:Measures how many puts a second a server acknowledges. Stores keys that begin with metrics-bench' \
'completions:Prints the completions for a shell' \
'man:Prints the manual page' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'metrics help commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__agent_commands] )) ||
_metrics__subcmd__help__subcmd__agent_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help agent commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__backup_commands] )) ||
_metrics__subcmd__help__subcmd__backup_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help backup commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__bench_commands] )) ||
_metrics__subcmd__help__subcmd__bench_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help bench commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__check_commands] )) ||
_metrics__subcmd__help__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help check commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__completions_commands] )) ||
_metrics__subcmd__help__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help completions commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__delete_commands] )) ||
_metrics__subcmd__help__subcmd__delete_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help delete commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__demo_commands] )) ||
_metrics__subcmd__help__subcmd__demo_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help demo commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__export_commands] )) ||
_metrics__subcmd__help__subcmd__export_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help export commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__get_commands] )) ||
_metrics__subcmd__help__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help get commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__help_commands] )) ||
_metrics__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help help commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__import_commands] )) ||
_metrics__subcmd__help__subcmd__import_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help import commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__man_commands] )) ||
_metrics__subcmd__help__subcmd__man_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help man commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__plot_commands] )) ||
_metrics__subcmd__help__subcmd__plot_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help plot commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__put_commands] )) ||
_metrics__subcmd__help__subcmd__put_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help put commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__schema_commands] )) ||
_metrics__subcmd__help__subcmd__schema_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help schema commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__serve_commands] )) ||
_metrics__subcmd__help__subcmd__serve_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help serve commands' commands "$@"
}
(( $+functions[_metrics__subcmd__help__subcmd__watch_commands] )) ||
_metrics__subcmd__help__subcmd__watch_commands() {
    local commands; commands=()
    _describe -t commands 'metrics help watch commands' commands "$@"
}
(( $+functions[_metrics__subcmd__import_commands] )) ||
_metrics__subcmd__import_commands() {
    local commands; commands=()
    _describe -t commands 'metrics import commands' commands "$@"
}
(( $+functions[_metrics__subcmd__man_commands] )) ||
_metrics__subcmd__man_commands() {
    local commands; commands=()
    _describe -t commands 'metrics man commands' commands "$@"
}
(( $+functions[_metrics__subcmd__plot_commands] )) ||
_metrics__subcmd__plot_commands() {
    local commands; commands=()
    _describe -t commands 'metrics plot commands' commands "$@"
}
(( $+functions[_metrics__subcmd__put_commands] )) ||
_metrics__subcmd__put_commands() {
    local commands; commands=()
    _describe -t commands 'metrics put commands' commands "$@"
}
(( $+functions[_metrics__subcmd__schema_commands] )) ||
_metrics__subcmd__schema_commands() {
    local commands; commands=()
    _describe -t commands 'metrics schema commands' commands "$@"
}
(( $+functions[_metrics__subcmd__serve_commands] )) ||
_metrics__subcmd__serve_commands() {
    local commands; commands=()
    _describe -t commands 'metrics serve commands' commands "$@"
}
(( $+functions[_metrics__subcmd__watch_commands] )) ||
_metrics__subcmd__watch_commands() {
    local commands; commands=()
    _describe -t commands 'metrics watch commands' commands "$@"
}

if [ "$funcstack[1]" = "_metrics" ]; then
    _metrics "$@"
else
    compdef _metrics metrics
fi
