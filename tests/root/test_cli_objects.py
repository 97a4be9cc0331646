"""`netlab apply`, `get`, `delete`, `scale` and `rollout` as people type them: output, exit statuses, mistakes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netlab.codec import to_json
from netlab.control.protocol import ask
from netlab.errors import NetlabError
from netlab.topology.service import Port, Service, ServiceType
from tests.waiting import until

pytestmark = pytest.mark.root

LAB = "name: obj\nnodes: 2\npods: {client: {node: n1}}\n"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: web}
  type: NodePort
  ports: [{port: 80, nodePort: 30080}]
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: echo
        image: nginx
        ports: [{containerPort: 80}]
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [192.0.2.9]}]
"""
OUTSIDE = "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{port: 80}]}\n"
WEB = "---\n".join([SERVICE.replace("NAME", "web"), DEPLOYMENT.replace("NAME", "web"), OUTSIDE, SLICE])
NEVER = DEPLOYMENT.replace("NAME", "never").replace("app: web", "app: never").replace("replicas: 2", "replicas: 1")
NEVER += "        readinessProbe: {exec: {command: ['false']}, periodSeconds: 1}\n"
MISTAKES = """\
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: first}
spec:
  selectr: {app: web}
  ports: [{port: 80}]
---
apiVersion: apps/v2
kind: Deployment
---
apiVersion: v1
kind: Service
metadata: {name: third}
spec:
  type: NodePort
  ports:
  - {port: 80, nodePort: 99}
---
apiVersion: v1
kind: Service
metadata: {name: fourth}
spec:
  clusterIP: 10.97.0.1
  ports: [{port: 80}]
"""
CLASHES = """\
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: port}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: range}
spec:
  clusterIP: 10.97.0.1
  selector: {app: web}
  ports: [{port: 80}]
"""


class Shell:
    """Types commands in a folder with manifests, in a lab that is up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "NETLAB_STATE": str(folder / "state"), "COLUMNS": "80"}
        self.argv = [sys.executable, "-m", "netlab"]

    def __call__(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.argv, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self.env,
            cwd=self.folder,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command and return while it runs."""
        pipe = subprocess.PIPE
        return subprocess.Popen([*self.argv, *argv], stdout=pipe, stderr=pipe, text=True, env=self.env, cwd=self.folder)

    def on_terminal(self, *argv: str) -> list[str]:
        """Run a command on a terminal and return the lines that it prints."""
        master, slave = pty.openpty()
        process = subprocess.Popen([*self.argv, *argv], stdout=slave, env=self.env, cwd=self.folder)
        os.close(slave)
        said = b""
        while True:
            try:
                said += os.read(master, 4096)
            except OSError:
                break
        os.close(master)
        assert process.wait() == 0
        return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()

    def file(self, name: str, text: str) -> str:
        """Write a file and return its name."""
        (self.folder / name).write_text(text)
        return name

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind's objects."""
        return [item["name"] for item in json.loads(self("get", kind, "-o", "json").stdout)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("objects"))
    assert shell("up", shell.file("lab.yaml", LAB)).returncode == 0
    yield shell
    assert shell("down", "obj").returncode == 0


@pytest.fixture
def shell(up: Shell) -> Iterator[Shell]:
    """Give a test the lab, and take away what it applied."""
    yield up
    for kind in ("deployments", "services"):
        for name in up.names(kind):
            if name != "kubernetes":
                assert up("delete", kind, name).returncode == 0
    if "outside-1" in up.names("endpointslices"):
        assert up("delete", "endpointslice", "outside-1").returncode == 0
    until(lambda: up.names("pods") == ["client"])


@pytest.fixture
def web(shell: Shell) -> Shell:
    assert shell("apply", "-f", shell.file("web.yaml", WEB), "--wait").returncode == 0
    return shell


# --- apply -----------------------------------------------------------------------------------------------------------


def test_apply_says_what_became_of_each_object(shell: Shell) -> None:
    assert shell("apply", "--dry-run", "-f", shell.file("web.yaml", WEB)).stdout == ""
    assert shell.names("services") == ["kubernetes"]
    done = shell("apply", "-f", "web.yaml", "--wait")
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "service/web created",
            "service/outside created",
            "deployment/web created",
            "endpointslice/outside-1 created",
            "deployment/web: successfully rolled out",
        ],
    )
    assert "note: Deployment: spec.template.spec.containers[].image: the built-in echo server" in done.stderr
    again = shell("apply", "-f", "web.yaml").stdout
    assert [line.split()[1] for line in again.splitlines()] == ["unchanged"] * 4
    other = shell("apply", "-f", "-", stdin=WEB.replace("replicas: 2", "replicas: 3"))
    assert "deployment/web configured" in other.stdout
    assert shell("rollout", "status", "deployment/web").returncode == 0
    assert len(shell.names("pods")) == 4


def test_every_mistake_of_a_file_is_told_and_nothing_is_applied(shell: Shell) -> None:
    done = shell("apply", "-f", shell.file("bad.yaml", MISTAKES))
    assert done.returncode == 2
    told = {line.partition(": ")[0]: line for line in done.stderr.splitlines() if line.startswith("bad.yaml:")}
    assert [place.rpartition(":")[0] for place in told] == ["bad.yaml:10", "bad.yaml:13", "bad.yaml:22", "bad.yaml:28"]
    unknown, version, number, address = told.values()
    assert "spec.selectr: unknown field; did you mean 'selector'?" in unknown
    assert "apps/v1" in version
    assert "nodePort" in number
    assert "10.97.0.1 is not in the serviceCIDR" in address
    assert done.stdout == ""
    assert shell.names("services") == ["kubernetes"]


def test_what_is_in_conflict_with_the_lab_is_told_and_nothing_is_applied(web: Shell) -> None:
    done = web("apply", "-f", web.file("clash.yaml", CLASHES))
    assert done.returncode == 2
    assert re.search(
        r"clash.yaml:12:\d+: spec.ports\[0\].nodePort: .*30080 is taken by Service default/web", done.stderr
    )
    assert "clash.yaml:18:14: spec.clusterIP: 10.97.0.1 is not in the serviceCIDR 10.96.0.0/16" in done.stderr
    assert "good" not in web.names("services")
    assert web("apply", "-f", "clash.yaml", "--dry-run").returncode == 2


def test_what_the_control_plane_refuses_changes_nothing(web: Shell) -> None:
    """The last of several Services cannot be: those before it have what they had."""
    before = web("get", "svc", "-o", "json").stdout
    plain = Service("web", ports=(Port(80),), selector=(("app", "web"),), headless=True)
    impossible = Service("bad", ports=(Port(80, node_port=1),), type=ServiceType.NODE_PORT)
    services = [to_json(service) for service in (plain, Service("new", ports=(Port(80),)), impossible)]
    with pytest.raises(NetlabError, match="nodePort 1: node ports are 30000 to 32767"):
        ask("obj", {"verb": "apply", "services": services})
    assert web("get", "svc", "-o", "json").stdout == before


ASK = """\
import sys, dns.message, dns.query, dns.rcode
answer = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), "10.96.0.10", timeout=5)
print(dns.rcode.to_text(answer.rcode()))
"""
SHOP = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
IN_SHOP = SERVICE.replace("name: NAME", "name: web, namespace: shop")


def test_a_namespace_is_there_with_nothing_in_it(shell: Shell) -> None:
    """Its name is NODATA in cluster DNS, where that of no namespace is NXDOMAIN."""

    def asked(name: str) -> str:
        return shell("exec", "client", "--", sys.executable, "-c", ASK, f"{name}.svc.cluster.local").stdout.strip()

    assert asked("shop") == "NXDOMAIN"
    assert shell("apply", "-f", shell.file("shop.yaml", SHOP)).stdout == "namespace/shop created\n"
    assert shell("apply", "-f", "shop.yaml").stdout == "namespace/shop unchanged\n"
    assert shell.names("namespaces") == ["default", "kube-system", "shop"]
    assert shell("get", "ns", "shop").stdout.split() == ["NAME", "STATUS", "shop", "Active"]
    until(lambda: asked("shop") == "NOERROR")
    assert shell("apply", "--allow-unmatched", "-f", shell.file("in.yaml", f"{SHOP}---\n{IN_SHOP}")).returncode == 0
    refused = shell("delete", "ns/shop")
    assert (refused.returncode, "namespace/shop is not empty: service/web is in it" in refused.stderr) == (2, True)
    assert shell("delete", "-f", "in.yaml").stdout == "service/web deleted\nnamespace/shop deleted\n"
    until(lambda: asked("shop") == "NXDOMAIN")


def test_two_files_are_one_whole(shell: Shell) -> None:
    files = [shell.file("one.yaml", SERVICE.replace("NAME", "a")), shell.file("two.yaml", MISTAKES)]
    assert shell("apply", "-f", files[0], "-f", files[1]).returncode == 2
    both = [shell.file("one.yaml", MISTAKES), shell.file("two.yaml", MISTAKES)]
    told = shell("apply", "-f", both[0], "-f", both[1]).stderr
    assert "one.yaml:10:" in told
    assert "two.yaml:10:" in told
    assert shell.names("services") == ["kubernetes"]
    service = shell.file("one.yaml", SERVICE.replace("NAME", "a"))
    assert shell("apply", "-f", service, "-f", "-", stdin=DEPLOYMENT.replace("NAME", "a")).stdout


LONE = "lone.yaml:5:19: spec.selector.app: no pod of namespace default has these labels"


def test_a_selector_that_finds_nothing(shell: Shell) -> None:
    refused = shell("apply", "-f", shell.file("lone.yaml", SERVICE.replace("NAME", "lone")))
    assert refused.returncode == 2
    assert LONE in refused.stderr
    assert "--allow-unmatched" in refused.stderr
    assert shell.names("services") == ["kubernetes"]
    done = shell("apply", "--allow-unmatched", "-f", "lone.yaml")
    assert done.returncode == 0
    assert f"warning: {LONE}" in done.stderr
    assert shell.names("services") == ["kubernetes", "lone"]


def test_a_port_that_is_not_on_the_pods_beside_another_mistake(shell: Shell) -> None:
    wrong = DEPLOYMENT.replace("NAME", "web").replace("replicas", "replcias")
    service = SERVICE.replace("NAME", "web").replace("port: 80,", "port: 80, targetPort: 81,")
    done = shell("apply", "-f", shell.file("two.yaml", f"{service}---\n{wrong}"))
    assert done.returncode == 2
    assert "two.yaml:7:34: spec.ports[0].targetPort: no pod that is selected declares TCP port 81" in done.stderr
    assert "two.yaml:13:3: spec.replcias: unknown field; did you mean 'replicas'?" in done.stderr
    assert shell.names("services") == ["kubernetes"]


def test_ctrl_c_during_a_wait_leaves_what_was_applied(shell: Shell) -> None:
    process = shell.start("apply", "--wait", "-f", shell.file("never.yaml", NEVER))
    assert process.stdout is not None
    assert process.stdout.readline() == "deployment/never created\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert shell.names("deployments") == ["never"]
    late = shell("rollout", "status", "deployment/never", "--timeout", "0.2")
    assert (late.returncode, "is not rolled out after 0.2 s: 1 of 1 pods are new, 0 available" in late.stderr) == (
        1,
        True,
    )


# --- get -------------------------------------------------------------------------------------------------------------


def test_get_shows_what_kubectl_shows(web: Shell) -> None:
    lines = web("get", "svc").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORTS"]
    assert re.fullmatch(r"web +NodePort +10\.96\.\d+\.\d+ +<none> +80:30080/TCP", lines[-1])
    assert web("get", "deploy/web").stdout.splitlines()[1].split() == ["web", "2/2", "2", "2"]
    pods = web("get", "pods").stdout.splitlines()
    assert re.fullmatch(r"web-\w+-\w+ +1/1 +Running +0 +10\.244\.\d\.\d+ +n[12]", pods[-1])
    assert web("get", "ep", "outside").stdout.splitlines()[1].split() == ["outside", "192.0.2.9:80"]
    slices = web("get", "endpointslices").stdout.splitlines()
    assert ["outside-1", "outside", "80", "192.0.2.9"] in [line.split() for line in slices]
    assert web("get", "nodes").stdout.splitlines()[1].split() == [
        "n1",
        "Ready",
        "iptables",
        "172.18.0.2",
        "10.244.1.0/24",
    ]
    assert web("get", "svc", "-A").stdout.splitlines()[0].startswith("NAMESPACE")
    assert web("get", "statefulsets").stdout == "no statefulsets\n"
    assert re.search("CLUSTER-IP.*UP-TO-DATE", web("get", "svc,deploy").stdout, re.DOTALL)


def test_get_fits_80_columns(web: Shell) -> None:
    for kind in ("svc", "pods", "endpoints", "endpointslices", "deployments", "nodes"):
        lines = web.on_terminal("get", kind)
        assert len(lines) > 1
        assert max(map(len, lines)) <= 80, lines


def test_get_as_json(web: Shell) -> None:
    (service,) = json.loads(web("get", "svc/web", "-o", "json").stdout)
    assert (service["type"], service["ports"], service["selector"]) == ("NodePort", "80:30080/TCP", {"app": "web"})
    (endpoints,) = json.loads(web("get", "endpoints", "web", "-o", "json").stdout)
    assert [subset["ready"] for subset in endpoints["subsets"]] == [True, True]
    assert web.names("sts") == []


# --- scale, rollout, delete ------------------------------------------------------------------------------------------


def test_scale_and_rollout(web: Shell) -> None:
    done = web("scale", "deployment/web", "--replicas", "3", "--wait")
    assert done.stdout == "deployment/web scaled\ndeployment/web: successfully rolled out\n"
    before = set(web.names("pods"))
    assert len(before) == 4
    assert web("rollout", "restart", "deploy/web").stdout == "deployment/web restarted\n"
    assert web("rollout", "status", "deploy", "web").stdout == "deployment/web: successfully rolled out\n"
    assert set(web.names("pods")) & before == {"client"}


def test_delete_by_file(web: Shell) -> None:
    assert web("delete", "-f", "web.yaml").stdout.splitlines() == [
        "deployment/web deleted",
        "endpointslice/outside-1 deleted",
        "service/web deleted",
        "service/outside deleted",
    ]
    assert web.names("services") == ["kubernetes"]
    again = web("delete", "-f", "-", stdin=WEB)
    assert (again.returncode, "there is no deployment/web in namespace default" in again.stderr) == (2, True)


STUBBORN = """\
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - {name: c, image: nginx, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}
"""


def test_a_pod_that_takes_long_to_end_holds_nobody_up(shell: Shell) -> None:
    def container() -> dict[str, Any]:
        listed = json.loads(shell("status", "-o", "json").stdout)["containers"]
        return next((entry for entry in listed if entry["pod"] == "stubborn"), {"state": ""})

    shell("apply", "-f", "-", stdin=STUBBORN)
    until(lambda: container()["state"] == "running")
    shell("delete", "pod/stubborn")
    until(lambda: container()["state"] == "stopping")
    assert shell("apply", "-f", "-", "--wait", stdin=DEPLOYMENT.replace("NAME", "web")).returncode == 0
    assert shell("up", "lab.yaml").returncode == 0
    done = shell("status")
    assert (done.returncode, "drift: none" in done.stdout) == (0, True), done.stdout
    assert container()["state"] == "stopping"
    os.kill(container()["pid"], signal.SIGKILL)
    until(lambda: "stubborn" not in shell.names("pods"))
    assert not container()["state"]


WRONG = [
    (["get", "servces"], "did you mean services?"),
    (["get", "foo"], "there are services, endpoints,"),
    (["get", "svc/nix"], "there is no service/nix in namespace default"),
    (["get"], "Missing argument"),
    (["delete"], "no object was named"),
    (["delete", "svc"], "no object was named"),
    (["delete", "-f", "x.yaml", "svc/nix"], "both by files and by words"),
    (["delete", "svc/nix"], "there is no service/nix in namespace default"),
    (["delete", "svc/kubernetes"], "service default/kubernetes is declared by the topology"),
    (["delete", "pod/client"], "pod/client is of the topology file"),
    (["delete", "node/n1"], "nodes cannot be deleted"),
    (["scale", "deploymnt/web", "--replicas", "2"], "did you mean deployment"),
    (["scale", "deployment/nix", "--replicas", "2"], "there is no deployment/nix"),
    (["scale", "deployment/nix"], "--replicas"),
    (["scale", "svc/kubernetes", "--replicas", "2"], "services are no workloads"),
    (["rollout", "status", "ds/nix"], "there is no daemonset/nix"),
    (["rollout", "undo", "deployment/nix"], "undo"),
    (["apply"], "--file"),
    (["apply", "-f", "no-such.yaml"], "no-such.yaml: there is no such file"),
    (["apply", "-f", "-"], "<stdin>: holds no object"),
    (["get", "svc", "-l", "nowhere"], "lab nowhere is not up"),
]


@pytest.mark.parametrize(("argv", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_mistake_is_explained(shell: Shell, argv: list[str], said: str) -> None:
    done = shell(*argv)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_a_daemon_set_cannot_be_scaled(shell: Shell) -> None:
    daemon = (
        DEPLOYMENT.replace("NAME", "web").replace("kind: Deployment", "kind: DaemonSet").replace("  replicas: 2\n", "")
    )
    assert shell("apply", "--wait", "-f", "-", stdin=daemon).returncode == 0
    done = shell("scale", "daemonset/web", "--replicas", "5")
    assert (done.returncode, "a DaemonSet has one pod on every node" in done.stderr) == (2, True)
    assert shell("delete", "daemonset/web").returncode == 0


# --- labs without a control plane ------------------------------------------------------------------------------------


def test_a_lab_without_services_says_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.file("web.yaml", WEB)
    assert shell("up", shell.file("lab.yaml", LAB.replace("name: obj", "name: bare\nproxy: none"))).returncode == 0
    try:
        for argv in (["get", "svc"], ["apply", "-f", "web.yaml"], ["rollout", "status", "deployment/web"]):
            done = shell(*argv, "-l", "bare")
            assert done.returncode == 1
            assert "proxy: none" in done.stderr
    finally:
        assert shell("down", "bare").returncode == 0
    down = shell("get", "svc", "-l", "bare")
    assert (down.returncode, "lab bare is not up" in down.stderr) == (2, True)
