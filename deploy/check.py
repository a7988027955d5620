"""Checks rendered manifests and alerts; scripts/check-deploy calls it.

    check.py objects RENDERED.yaml...    against the API's schemas, and those in deploy/kubernetes/schemas
    check.py runbooks                    every alert has a section in docs/guides/alerts.md, and a test
"""

import json
import re
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

# An old and the newest release of Kubernetes whose schemas are there.
RELEASES = ("1.27", kubernetes_validate.latest_version())
# The fields of custom resources that the manifests use, from their public references.
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in Path("deploy/kubernetes/schemas").glob("*.json")}
RULES = Path("deploy/prometheus/rules.yml")


def problems_of_object(item):
    if item["kind"] in SCHEMAS:
        validator = jsonschema.Draft7Validator(SCHEMAS[item["kind"]])
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(item)]
    problems = []
    for release in RELEASES:
        try:
            kubernetes_validate.validate(item, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{release}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            problems.append(f"{release}: no schema of {item['apiVersion']} {item['kind']}")
    return problems


def problems_of_pod(item):
    """What the restricted profile of pod security asks for, and what verifyd needs besides."""
    pod = item.get("spec", {}).get("template", {}).get("spec")
    if pod is None:
        return []
    context = pod.get("securityContext", {})
    wanted = {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "a numeric user": context.get("runAsUser", 0) > 0,
        "seccomp RuntimeDefault": context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "no token of the API": pod.get("automountServiceAccountToken") is False,
    }
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        name = container["name"]
        wanted[f"{name}: a read-only root"] = own.get("readOnlyRootFilesystem") is True
        wanted[f"{name}: no privilege escalation"] = own.get("allowPrivilegeEscalation") is False
        wanted[f"{name}: no capability"] = own.get("capabilities", {}).get("drop") == ["ALL"]
        wanted[f"{name}: a limit on memory"] = "memory" in container.get("resources", {}).get("limits", {})
    mounts = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
    claims = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | claims
    wanted["volumes that are mounted, and no other"] = mounts == volumes
    return [f"not there: {what}" for what, there in wanted.items() if not there]


def check_objects(files):
    problems = []
    for file in files:
        items = [item for item in yaml.safe_load_all(Path(file).read_text()) if item]
        for item in items:
            name = f"{Path(file).name}: {item['kind']} {item['metadata']['name']}"
            problems += [f"{name}: {problem}" for problem in problems_of_object(item) + problems_of_pod(item)]
        print(f"  {Path(file).stem}: {len(items)} objects")
    return problems


def check_runbooks():
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    sections = set(re.findall(r"^## (\w+)$", Path("docs/guides/alerts.md").read_text(), flags=re.MULTILINE))
    cases = yaml.safe_load(Path("deploy/prometheus/tests.yml").read_text())["tests"]
    tested = {
        case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    problems = []
    for rule in rules:
        name = rule["alert"]
        # Behind an address that an installation puts in front.
        if not rule["annotations"].get("runbook_url", "").endswith(f"docs/guides/alerts.md#{name.lower()}"):
            problems.append(f"{name}: runbook_url does not lead to its section")
        if not {"summary", "description"} <= rule["annotations"].keys() or "severity" not in rule["labels"]:
            problems.append(f"{name}: needs summary, description and severity")
        if name not in tested:
            problems.append(f"{name}: no test in which it fires")
    names = {rule["alert"] for rule in rules}
    problems += [f"docs/guides/alerts.md: {name}" for name in sorted(names ^ sections)]
    print(f"  {len(rules)} alerts")
    return problems


def main():
    command, *arguments = sys.argv[1:]
    problems = {
        "objects": lambda: check_objects(arguments),
        "runbooks": check_runbooks,
    }[command]()
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
