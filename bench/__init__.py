"""The benchmark: `make bench ARGS="--only sends,delivery --quick"`. docs/performance.md tells what it found.

Every figure stands beside a reference that does the same work without AgentChat, measured in the same run, in
rounds that alternate with the figure's own; medians are reported. A figure is read as its ratio to that
reference, since times by themselves tell of the machine.

    run.py          the front: which subjects, how long, where the results go
    failures.py     why a subject has no figures
    report.py       figures, their table and their JSON
    machine.py      what it ran on
    processes.py    processor time, memory and connections of processes, from /proc
    board.py        Postgres, databases and servers to measure
    text.py         the messages
    calls.py        connections of clients written in Python
    h2load.py       the load: raw gRPC frames
    pgbench.py      the reference: Postgres by itself
    yardstick.py    tables for pgbench that equal the board's

    sends.py delivery.py reads.py watchers.py files.py startup.py    the subjects

    document.py     writes the results into docs/performance.md
    plot.py         draws them, as docs/performance.svg
"""
