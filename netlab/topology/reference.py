"""The reference of the topology file, docs/topology.md, written from its schema.

`python -m netlab.topology.reference > docs/topology.md` brings it up to date; a test says when that is due.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from netlab.topology.fields import LABEL
from netlab.topology.pod_schema import (
    ContainerPortSpec,
    ContainerSpec,
    EnvSpec,
    ExecSpec,
    FieldRefSpec,
    HeaderSpec,
    HostAliasSpec,
    HttpGetSpec,
    PodSpec,
    ProbeSpec,
    TcpSocketSpec,
    ValueFromSpec,
)
from netlab.topology.proxy_schema import ConntrackSpec, IptablesSpec, IpvsSpec, NftablesSpec
from netlab.topology.schema import (
    BridgeSpec,
    CheckSpec,
    HostGwSpec,
    IpipSpec,
    NodeSpec,
    SegmentSpec,
    TopologyFile,
    UdpSpec,
    UnderlaySpec,
    VxlanSpec,
)
from netlab.topology.service_schema import AffinitySpec, ClientIpSpec, ServicePortSpec, ServiceSpec
from netlab.topology.spec import Spec

# The sections in order, with what a field's type calls them.
SECTIONS: dict[type[Spec], str] = {
    TopologyFile: "The file",
    VxlanSpec: "backend vxlan",
    HostGwSpec: "backend host-gw",
    IpipSpec: "backend ipip",
    UdpSpec: "backend udp",
    BridgeSpec: "backend bridge",
    IptablesSpec: "iptables",
    NftablesSpec: "nftables",
    IpvsSpec: "ipvs",
    ConntrackSpec: "conntrack",
    UnderlaySpec: "underlay",
    SegmentSpec: "segment",
    NodeSpec: "node",
    PodSpec: "pod",
    ContainerSpec: "container",
    ContainerPortSpec: "container port",
    EnvSpec: "variable",
    ValueFromSpec: "source of a value",
    FieldRefSpec: "field reference",
    ProbeSpec: "probe",
    ExecSpec: "exec",
    TcpSocketSpec: "tcpSocket",
    HttpGetSpec: "httpGet",
    HeaderSpec: "header",
    HostAliasSpec: "host alias",
    ServiceSpec: "service",
    ServicePortSpec: "service port",
    AffinitySpec: "affinity",
    ClientIpSpec: "clientIP",
    CheckSpec: "check",
}
INTRODUCTION = """\
# The topology file

<!-- Written by `python -m netlab.topology.reference > docs/topology.md`; change netlab/topology/schema.py instead. -->

A topology file is YAML. The shortest is `nodes: 2`; `netlab init` writes a commented one to begin with,
`netlab schema` the JSON Schema for editors, and `topologies/` holds examples. Every problem of a file is reported at
once, with its line and column.

```yaml
nodes: 3
pods: 6
checks:
- {from: p-1, to: p-2}
```

- Names are DNS labels: lower-case letters, digits and `-` within, at most 63 characters. Nodes, external machines,
  routers and pods share one set of names, since `netlab exec NAME` takes any of them.
- A field with nothing after it has its default.
- Fields whose names begin with `x-` are ignored at the top of the file: a place for YAML anchors, which `*name` and
  `<<: *name` copy.
- YAML 1.1 reads `no`, `on`, `0755` and `22:22` as something else than text. netlab refuses them where it makes a
  difference, and says so: put them in quotes.
"""

EXAMPLES: dict[type[Spec], str] = {
    TopologyFile: """
name: dual
clusterCIDR: [10.244.0.0/16, "fd00:10:244::/56"]
serviceCIDR: [10.96.0.0/16, "fd00:10:96::/112"]
nodes: [n1, n2]
pods: {web: {node: n1, replicas: 2}, db: {node: n2}}
""",
    VxlanSpec: """
backend: {type: vxlan, VNI: 7, DirectRouting: true}
nodes: 2
""",
    IptablesSpec: """
nodes: 2
nodePortAddresses: [172.18.0.0/16, 127.0.0.0/8]
iptables: {masqueradeAll: true}
conntrack: {tcpBeLiberal: true}
""",
    IpvsSpec: """
nodes: 2
proxy: ipvs
ipvs: {scheduler: lc, strictARP: true}
""",
    UnderlaySpec: """
underlay:
  mtu: 9000
  segments:
    rack1: 172.18.1.0/24
    rack2: {cidr: 172.18.2.0/24, mtu: 1500}
  routers: {r1: [rack1, rack2]}
nodes: {n1: {segment: rack1}, n2: {segment: rack2}}
""",
    NodeSpec: """
nodes:
- n1
- {name: n2, ip: 172.18.0.20}
external: [client]
""",
    PodSpec: """
nodes: 2
pods:
- {name: web, replicas: 3, labels: {app: web}}  # web-1, web-2, web-3
- {name: agent, perNode: 1, hostNetwork: true}  # agent-1 on n1, agent-2 on n2
- {name: db, node: n2, ip: 10.244.7.5}
""",
    ContainerSpec: """
nodes: 1
pods:
- name: web
  hostAliases: [{ip: 10.1.2.3, hostnames: [db.local]}]
  containers:
  - {name: http, command: [python3, -m, http.server, "80"], env: {PYTHONUNBUFFERED: "1"}}
  - {name: clock, command: "while sleep 1; do date; done", restartPolicy: Never}
""",
    ProbeSpec: """
nodes: 1
pods:
- name: web
  containers:
  - name: echo  # without a command: netlab's echo server
    ports: [{name: http, containerPort: 8080}]
    env: [{name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 2}
""",
    ServiceSpec: """
nodes: 2
proxy: nftables
pods:
- {name: web, replicas: 3, labels: {app: web}, containers: [{name: echo, ports: [8080]}]}
services:
- {name: web, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
- name: outside
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
  loadBalancerSourceRanges: [172.18.0.0/16]
- {name: peers, clusterIP: None, selector: {app: web}}
- {name: docs, type: ExternalName, externalName: example.org}
""",
    CheckSpec: """
nodes: 2
pods: 2
external: [client]
checks:
- {from: p-1, to: p-2, size: 1450}
- {from: p-1, to: p-2, size: 1451, expect: too-big}
- {from: client, to: p-1, expect: unreachable}
""",
}


def render_reference() -> str:
    """Return docs/topology.md."""
    definitions = TopologyFile.model_json_schema()["$defs"]
    definitions[TopologyFile.__name__] = TopologyFile.model_json_schema()
    sections = (_section(model, title, definitions[model.__name__]) for model, title in SECTIONS.items())
    return "\n".join([INTRODUCTION, *sections])


def _section(model: type[Spec], title: str, schema: dict[str, Any]) -> str:
    lines = [f"## {title}", "", str(model.__doc__).strip().splitlines()[0], ""]
    fields = [*_rows(schema)]
    if fields:
        lines += ["| field | type | default | meaning |", "|---|---|---|---|", *sorted(fields, key=_is_optional), ""]
    else:
        lines += ["It has no options.", ""]
    if model in EXAMPLES:
        lines += ["```yaml", EXAMPLES[model].strip(), "```", ""]
    return "\n".join(lines)


def _is_optional(row: str) -> bool:
    return "| (needed) |" not in row


def _rows(schema: dict[str, Any]) -> Iterator[str]:
    """Yield a table row for each field but `type`, which names the section."""
    for name, field in schema["properties"].items():
        if "const" not in field:
            default = "(needed)" if name in schema.get("required", ()) else _default(field)
            meaning = field.get("description") or ""
            yield f"| `{name}` | {_type(field)} | {default} | {meaning} |".replace("  ", " ")


def _default(field: dict[str, Any]) -> str:
    if "x-default" in field:
        return str(field["x-default"])
    default = field.get("default")
    if default in (None, "", [], {}):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _type(schema: dict[str, Any]) -> str:
    """Return what a JSON Schema allows, in words."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if choices:
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "oneOf" in schema:
        return f"mapping with `type`, as in {', '.join(_type(choice) for choice in schema['oneOf'])}"
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return _plain_type(schema)


def _plain_type(schema: dict[str, Any]) -> str:
    """Return the one type that a JSON Schema names, in words."""
    match schema["type"]:
        case "array":
            words = f"list of {_grouped(schema['items'])}"
        case "object":
            values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
            words = f"mapping of name to {_grouped(values[0])}"
        case "integer" if schema.get("maximum"):
            words = f"integer, {schema['minimum']} to {schema['maximum']}"
        case "string":
            is_name = schema.get("pattern") == LABEL
            words = "name" if is_name else schema.get("x-kind", "text")
        case other:
            words = str(other)
    return words


def _grouped(schema: dict[str, Any]) -> str:
    words = _type(schema)
    return f"({words})" if " or " in words else words


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2].replace("Settings", "Spec")
    title = next(title for model, title in SECTIONS.items() if model.__name__ == name)
    return f"[{title}](#{title.replace(' ', '-').lower()})"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
