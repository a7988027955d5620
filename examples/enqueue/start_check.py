import json
import os
import urllib.request
import uuid

base = os.environ.get("VERIFYD_URL", "http://127.0.0.1:9464")
connection = os.environ.get("PROVIDER_CONNECTION_ID", "1")
request = urllib.request.Request(
    f"{base}/v1/connections/{connection}/checks",
    method="POST",
    headers={
        "Authorization": f"Bearer {os.environ['VERIFYD_TOKEN']}",
        "Idempotency-Key": str(uuid.uuid4()),
    },
)
with urllib.request.urlopen(request, timeout=10) as answer:
    print(json.load(answer)["run"]["operation_run_id"])
