# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_metrics_global_optspecs
    string join \n h/help V/version
end

function __fish_metrics_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_metrics_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_metrics_using_subcommand
    set -l cmd (__fish_metrics_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c metrics -n "__fish_metrics_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_needs_command" -s V -l version -d 'Print version'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "serve" -d 'Serves metrics until SIGTERM or SIGINT; a second signal ends it at once'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "agent" -d 'Measures this host and sends that to a server, until SIGTERM or SIGINT; a second signal ends it at once'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "put" -d 'Stores one value'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "get" -d 'Prints what is stored for a key, or for all keys that match a pattern'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "watch" -d 'Shows the newest values of some keys, as they change'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "plot" -d 'Draws what is stored for some keys'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "import" -d 'Stores the lines of a file: `put KEY VALUE TIMESTAMP`, or the same without put'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "export" -d 'Prints everything that is stored, as lines that `import` reads'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "check" -d 'Reads everything in a folder of points, and says what is damaged'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "backup" -d 'Writes a backup: a new folder that `metrics serve --data` can serve'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "delete" -d 'Deletes points from a folder that is not in use'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "schema" -d 'Prints the statements that create the tables of a store in ClickHouse'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "demo" -d 'Measures this host for some seconds, stores that in a server of its own, and shows what is stored'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "bench" -d 'Measures how many puts a second a server acknowledges. Stores keys that begin with metrics-bench'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "completions" -d 'Prints the completions for a shell'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "man" -d 'Prints the manual page'
complete -c metrics -n "__fish_metrics_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l listen -d 'Sets where the server listens [default: 127.0.0.1:8888]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l data -d 'Keeps points in this folder: the same as --store disk:DIR' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l store -d 'Sets where points are kept: memory:, disk:DIR, or clickhouse://USER:PASSWORD@HOST:PORT,../DATABASE [default: memory:]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l keep -d 'Sets how long points are kept on disk or in ClickHouse, such as 400d [default: for ever]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l sync -d 'Sets when the disk is synced: always, before a put is acknowledged; or a time such as 1s, of which a loss of power may then take what was acknowledged [default: always]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l max-disk -d 'Sets how much the folder may take, such as 50GiB; above it puts wait, as on a full disk [default: the disk]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l tls-cert -d 'Serves TLS with this certificate chain (PEM)' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l tls-key -d 'The key of the certificate (PEM)' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l tls-client-ca -d 'Accepts only clients with a certificate of this authority (PEM)' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l graphite -d 'Accepts Graphite\'s plaintext protocol too, over TCP and UDP; it has neither TLS nor a token' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l http -d 'Serves HTTP too: the page, the API, Graphite\'s render API, and what InfluxDB\'s clients write' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l token-file -d 'Requires the token in this file for HTTP; needed unless HTTP is on a loopback address' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l http-limit -d 'Sets a limit of HTTP, by the name in an error (NAME=N); may be repeated, times are in seconds' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l max-memory -d 'Bounds the memory, such as 1GiB: half of it for points and snapshots, an eighth for answers that are not read, an eighth for connections of 64 KiB each, the rest for what is not counted. Lowers limits, never raises one, except that of a store in memory [default: 1GiB of points in memory, about 1.3GiB in all with points on disk]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l max-connections -d 'Sets how many connections there may be [default: 10,000, and what --max-memory and the process\'s limit of open files allow]' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l relay -d 'Sends what is stored on to this destination too, several times for several. With any, the relays of the file do not count; rules, names and bounds can be set there only' -r
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l relay-spool -d 'Keeps what relays cannot send in this folder [default: the folder relays in that of --data]' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l config -d 'Reads what is not set otherwise from this file (TOML, the names of these options)' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l no-token -d 'Lets everybody who can reach it use HTTP'
complete -c metrics -n "__fish_metrics_using_subcommand serve" -l check-config -d 'Checks the configuration, and does not serve'
complete -c metrics -n "__fish_metrics_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l server -d 'Sets the server: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT?ca_file=FILE`, or several with commas between them, over one store [default: 127.0.0.1:8888]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l interval -d 'Sets how often the host is measured, at seconds that are a multiple of it [default: 10s]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l jitter -d 'Sets up to how much later than that, so that many hosts do not measure at once [default: a tenth of the interval]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l host -d 'Sets the name of the host in keys [default: that of the system]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l keys -d 'Sets where keys have the name of the host [default: dotted]' -r -f -a "dotted\t'HOST.cpu'
labels\t'cpu;host=HOST'"
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l label -d 'Adds a label to all keys; may be given several times' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l include -d 'Sends only what this glob matches, such as `disk.*`; may be given several times' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l exclude -d 'Does not send what this glob matches, such as `network.*.veth*`; may be given several times' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l spool -d 'Keeps what cannot be sent in this folder' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l max-spool -d 'Sets how much the folder may take; the oldest samples are dropped beyond that [default: 256MiB]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l max-queue -d 'Sets how much memory unsent samples may take; the oldest are dropped beyond that [default: 4MiB]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd -d 'Listens for StatsD and DogStatsD over UDP at this address' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd-socket -d 'Listens for StatsD and DogStatsD on this Unix socket, which is created; every user may send to it' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd-max-series -d 'Sets how many series programs may report, by name and tags [default: 10,000]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd-max-set-members -d 'Sets how many members a set may have in an interval [default: 10,000]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd-percentiles -d 'Sets the percentiles of timers, histograms and distributions [default: 50,90,99]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l statsd-keep-gauges -d 'Sets how long a gauge is sent again that no program sets any more [default: 1h]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l stop-timeout -d 'Sets how long the agent may take to send what is left when it is stopped [default: 5s]' -r
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l config -d 'Reads what is not set otherwise from this file (TOML, the names of these options)' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand agent" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l check-config -d 'Checks the configuration, and does not measure'
complete -c metrics -n "__fish_metrics_using_subcommand agent" -l once -d 'Prints what would be sent, measured for a second, and sends nothing'
complete -c metrics -n "__fish_metrics_using_subcommand agent" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand put" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand put" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand put" -s h -l help -d 'Print help'
complete -c metrics -n "__fish_metrics_using_subcommand get" -l from -d 'Leaves out what is older than this: seconds since 1970, RFC 3339, a date, -6h' -r
complete -c metrics -n "__fish_metrics_using_subcommand get" -l until -d 'Leaves out what is newer than this' -r
complete -c metrics -n "__fish_metrics_using_subcommand get" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand get" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand get" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand get" -l fail -d 'Exits with status 4 if nothing was found'
complete -c metrics -n "__fish_metrics_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand watch" -l interval -d 'Sets how often the server is asked, such as 1s or 5m' -r
complete -c metrics -n "__fish_metrics_using_subcommand watch" -l sort -d 'Sets by what the table is sorted' -r -f -a "name\t''
value\t'The highest first'
age\t'The newest first'"
complete -c metrics -n "__fish_metrics_using_subcommand watch" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand watch" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand watch" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l from -d 'Leaves out what is older than this: seconds since 1970, RFC 3339, a date, -6h' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l until -d 'Leaves out what is newer than this' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -s o -l output -d 'Sets what is drawn [default: svg if the name of --file ends with .svg, term otherwise]' -r -f -a "term\t'Characters'
svg\t'A vector graphic'"
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l file -d 'Writes the chart to this file' -r -F
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l width -d 'Sets the width: columns [default: those of the terminal, or 80] or, of an SVG, pixels [default: 800]' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l height -d 'Sets the height without the legend: rows [default: 20, or 8 for each of several charts] or, of an SVG, pixels [default: 320]' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand plot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand import" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand import" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand import" -l resume -d 'Goes on where an earlier import of the same file stopped'
complete -c metrics -n "__fish_metrics_using_subcommand import" -s h -l help -d 'Print help'
complete -c metrics -n "__fish_metrics_using_subcommand export" -l from -d 'Leaves out what is older than this: seconds since 1970, RFC 3339, a date, -6h' -r
complete -c metrics -n "__fish_metrics_using_subcommand export" -l until -d 'Leaves out what is newer than this' -r
complete -c metrics -n "__fish_metrics_using_subcommand export" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand export" -l server -d 'Sets the server that the command talks to: HOST:PORT, `unix:/PATH`, a URL such as `metrics+tls://HOST:PORT`, or several with commas between them' -r
complete -c metrics -n "__fish_metrics_using_subcommand export" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand check" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand backup" -l server -d 'Copies what this server has' -r
complete -c metrics -n "__fish_metrics_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand delete" -l from -d 'Leaves out what is older than this: seconds since 1970, RFC 3339, a date, -6h' -r
complete -c metrics -n "__fish_metrics_using_subcommand delete" -l until -d 'Leaves out what is newer than this' -r
complete -c metrics -n "__fish_metrics_using_subcommand delete" -l dry-run -d 'Says what would be deleted, and deletes nothing'
complete -c metrics -n "__fish_metrics_using_subcommand delete" -l yes -d 'Deletes without being asked'
complete -c metrics -n "__fish_metrics_using_subcommand delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand schema" -l store -d 'The store, as `metrics serve` has it: clickhouse://USER:PASSWORD@HOST:PORT,../DATABASE?OPTION=VALUE&..' -r
complete -c metrics -n "__fish_metrics_using_subcommand schema" -l keep -d 'How long points are kept, such as 400d [default: for ever]' -r
complete -c metrics -n "__fish_metrics_using_subcommand schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand demo" -l seconds -d 'Sets for how many seconds the host is measured' -r
complete -c metrics -n "__fish_metrics_using_subcommand demo" -s h -l help -d 'Print help'
complete -c metrics -n "__fish_metrics_using_subcommand bench" -l connections -d 'Sets how many connections the client has' -r
complete -c metrics -n "__fish_metrics_using_subcommand bench" -l callers -d 'Sets how many callers put at the same time, each the next when the last is acknowledged' -r
complete -c metrics -n "__fish_metrics_using_subcommand bench" -l seconds -d 'Sets for how many seconds it measures' -r
complete -c metrics -n "__fish_metrics_using_subcommand bench" -s o -l output -d 'Sets how samples are printed [default: table on a terminal, line elsewhere]' -r -f -a "table\t'Columns for people: time, value, key'
json\t'One JSON object a line'
csv\t'Comma-separated values with a header'
line\t'`put` lines, as `import` and the server read them'"
complete -c metrics -n "__fish_metrics_using_subcommand bench" -l server -d 'Sets the server that is measured' -r
complete -c metrics -n "__fish_metrics_using_subcommand bench" -l timeout -d 'Sets how many seconds one request may take' -r
complete -c metrics -n "__fish_metrics_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "serve" -d 'Serves metrics until SIGTERM or SIGINT; a second signal ends it at once'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "agent" -d 'Measures this host and sends that to a server, until SIGTERM or SIGINT; a second signal ends it at once'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "put" -d 'Stores one value'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "get" -d 'Prints what is stored for a key, or for all keys that match a pattern'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "watch" -d 'Shows the newest values of some keys, as they change'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "plot" -d 'Draws what is stored for some keys'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "import" -d 'Stores the lines of a file: `put KEY VALUE TIMESTAMP`, or the same without put'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "export" -d 'Prints everything that is stored, as lines that `import` reads'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "check" -d 'Reads everything in a folder of points, and says what is damaged'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "backup" -d 'Writes a backup: a new folder that `metrics serve --data` can serve'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "delete" -d 'Deletes points from a folder that is not in use'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "schema" -d 'Prints the statements that create the tables of a store in ClickHouse'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "demo" -d 'Measures this host for some seconds, stores that in a server of its own, and shows what is stored'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "bench" -d 'Measures how many puts a second a server acknowledges. Stores keys that begin with metrics-bench'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "completions" -d 'Prints the completions for a shell'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "man" -d 'Prints the manual page'
complete -c metrics -n "__fish_metrics_using_subcommand help; and not __fish_seen_subcommand_from serve agent put get watch plot import export check backup delete schema demo bench completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
