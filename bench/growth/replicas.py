"""How the rate grows with the number of replicas."""

import statistics

from drain import drain
from place import log
from tables import number, ratio, table

COUNTS = (1, 2, 4)
# Without delay the processors of this machine are the limit; with one, the places of a worker are.
DELAYS = ("0ms", "200ms")


def prepare(place, _options, base, _connections):
    return place.make("replicas", base)


def measure(place, options, db, connections):
    text = []
    for delay in DELAYS:
        found = {count: [] for count in COUNTS}
        # The first drain warms up what was never read. What waits for the provider needs fewer runs.
        runs, first = (options.runs, 0) if delay == DELAYS[0] else (options.runs // 2, 1)
        for around in range(first, options.reps + 1):
            for count in COUNTS:
                drained = drain(place, db, "replicas", runs, connections, count, delay)
                log(f"round {around}, {count} replicas, provider {delay}: {drained.rate:,.0f} runs/s")
                if around:
                    found[count].append(drained)

        def over(of):
            return [statistics.median(of(d) for d in found[count]) for count in COUNTS]

        def line(what, values, digits=0):
            return [what] + [number(v, digits) for v in values] + [ratio(values[1], values[0]),
                                                                   ratio(values[2], values[0])]
        rows = [
            line("drain, runs/s", over(lambda d: d.rate)),
            line("workers' CPU, µs per run", over(lambda d: d.worker_ms * 1000)),
            line("PostgreSQL's CPU, µs per run", over(lambda d: d.postgres_ms * 1000)),
            line("statements' time in PostgreSQL, µs per run", over(lambda d: d.seen.all() / d.runs)),
            line("hints that led to no claim, per 1,000 runs", over(lambda d: d.conflicts / d.runs * 1000), 1),
            line("calls in a transaction, on average", over(lambda d: d.batches), 1),
        ]
        head = [f"provider's delay {delay}", *(f"{count}" for count in COUNTS), "2 ÷ 1", "4 ÷ 1"]
        text.append(table(head, rows))
    db.close()
    if not options.keep:
        place.drop("replicas")
    return "\n\n".join(text)
