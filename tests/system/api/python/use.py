"""Uses a client that openapi-python-client has generated: arguments are its address and a connection;
the token is in VERIFYD_TOKEN."""

import os
import sys
import time

from verifyd_client import AuthenticatedClient
from verifyd_client.api.connections import list_connections
from verifyd_client.api.runs import list_runs, read_run, start_check
from verifyd_client.models import CheckStarted, Connection, Run, RunItem, StartCheck

base, connection = sys.argv[1], int(sys.argv[2])
client = AuthenticatedClient(
    base_url=base,
    token=os.environ["VERIFYD_TOKEN"],
    raise_on_unexpected_status=True,
    timeout=120,
)

# A list, whose rows have a type of their own.
page = list_connections.sync(client=client, limit=1)
assert isinstance(page.items[0], Connection), page
assert page.items[0].provider_connection_id == connection, page

# A check without a body.
started = start_check.sync(connection, client=client)
assert isinstance(started, CheckStarted), started
assert started.created and isinstance(started.run, RunItem), started

# Its run, until it is completed.
run = None
for _ in range(1200):
    run = read_run.sync(started.run.operation_run_id, client=client)
    assert isinstance(run, Run), run
    if run.status == "completed":
        break
    time.sleep(0.1)
assert run.outcome == "succeeded", run

# A check with a body, and the list of runs.
again = start_check.sync(connection, client=client, body=StartCheck(module="health_check"))
assert isinstance(again, CheckStarted), again
runs = list_runs.sync(client=client, connection=connection)
assert all(isinstance(run, RunItem) for run in runs.items), runs
assert {run.operation_run_id for run in runs.items} == {
    started.run.operation_run_id,
    again.run.operation_run_id,
}, runs
print("used")
