#!/usr/bin/env bash
# Makes a table of the lines "crash points: ..." that the suite `crash` prints, summed over all runs in the files or
# standard input. usage: scripts/crash-table.sh [log ...]
set -euo pipefail
# ...crash points: what | lower | mode | points | files checked | MiB checked | seconds
sed -n 's/^.*crash points: //p' "$@" | awk -F' *[|] *' '
    {
        key = $1 " | " $2 " | " $3
        if (!(key in points)) order[++rows] = key
        points[key] += $4; files[key] += $5; mib[key] += $6; all += $4
    }
    END {
        print "| crash | lower | mode | points | files compared | MiB compared |"
        print "|---|---|---|---|---|---|"
        for (row = 1; row <= rows; row++) {
            key = order[row]
            printf "| %s | %d | %d | %d |\n", key, points[key], files[key], mib[key]
        }
        printf "| **all** | | | **%d** | | |\n", all
    }'
