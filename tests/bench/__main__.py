"""The command line of the benchmarks: `scripts/bench --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.bench import capture, cli, datapath, dns, first_packet, in_vm, modes, path, scale, services, up, vm
from tests.bench.contenders import CONTENDERS
from tests.bench.first_packet_figures import Figure
from tests.bench.measure import BenchError
from tests.bench.overlays import BACKENDS

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def _sizes(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _tools(text: str) -> list[str]:
    return text.split(",")


def _some_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what takes words with commas between them apart, and refuses others."""

    def parse(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
        return [word for word in known if word in text.split(",")]

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Ratios measured side by side in one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in (
        ("up", up),
        ("scale", scale),
        ("cli", cli),
        ("capture", capture),
        ("path", path),
        ("datapath", datapath),
        ("dns", dns),
        ("vm", vm),
        ("services", services),
        ("first-packet", first_packet),
    ):
        command = commands.add_parser(name, help=str(module.__doc__).partition(": ")[2].partition("\n")[0])
        command.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
        command.add_argument("--seed", type=int, default=1, help="of the order within the rounds (default 1)")
    ups = commands.choices["up"]
    ups.add_argument("-n", dest="sizes", type=_sizes, default=up.SIZES, help="pods: 2,20,100,300,1000")
    ups.add_argument("--tools", type=_tools, default=tuple(CONTENDERS), help=f"of {','.join(CONTENDERS)}")
    ups.add_argument("--all", dest="everything", action="store_true", help="slow tools at all sizes, too")
    ups.add_argument("--json", dest="json_file", metavar="FILE", help="keep every sample in a file")
    commands.choices["path"].add_argument("--seconds", type=int, default=3, help="of one iperf3 run (default 3)")
    commands.choices["dns"].add_argument("--seconds", type=int, default=2, help="of one server's turn (default 2)")
    _add_services(commands.choices["services"], services.SIZES)
    ends = commands.choices["services"]
    ends.add_argument("--endpoints", type=_sizes, default=services.ENDPOINTS, help="of each service: 2,10")
    ends.add_argument("--bound", type=float, default=services.BOUND, help="seconds that a tool may take (default 60)")
    _add_datapath(commands.choices["datapath"])
    _add_services(commands.choices["first-packet"], first_packet.SIZES)
    _add_files(commands.choices["first-packet"])
    return parser


def _add_services(command: argparse.ArgumentParser, sizes: Sequence[int]) -> None:
    command.add_argument("-n", dest="sizes", type=_sizes, default=sizes, help=f"services: {','.join(map(str, sizes))}")
    kinds = modes.VARIANTS
    command.add_argument("--variants", type=_some_of(kinds), default=kinds, help=f"of {','.join(kinds)}")
    command.add_argument("--vm", action="store_true", help="in a VM of its own, whose kernel has IPVS")


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", dest="json_file", metavar="FILE", help="keep every sample in a file")
    command.add_argument("--plot", dest="plot_file", metavar="FILE", help="draw a picture: FILE.png, .svg or .pdf")


def _add_datapath(command: argparse.ArgumentParser) -> None:
    tests = [*datapath.TESTS, datapath.PROCESSES]
    for name, known in (("variants", list(BACKENDS)), ("tests", tests), ("topologies", list(datapath.TOPOLOGIES))):
        command.add_argument(f"--{name}", type=_some_of(known), default=known, help=f"of {','.join(known)}")
    command.add_argument("--seconds", type=int, default=2, help="of one run of a test (default 2)")
    _add_files(command)


def _run(command: str, options: dict[str, Any]) -> None:
    match command:
        case "up":
            up.main(up.Options(**options))
        case "scale":
            scale.main(**options)
        case "cli":
            cli.main(**options)
        case "capture":
            capture.main(**options)
        case "path":
            path.main(**options)
        case "datapath":
            datapath.main(datapath.Options(**options))
        case "dns":
            dns.main(**options)
        case "vm":
            vm.main(**options)
        case "services":
            services.main(**options)
        case "first-packet":
            first_packet.main(first_packet.Options(**options))


def _run_in_vm(command: str, options: dict[str, Any]) -> None:
    """Run a benchmark of Services in a VM; the files that were asked for are written here."""
    json_file, plot_file = options.pop("json_file", None), options.pop("plot_file", None)
    wanted = bool(json_file or plot_file)
    written = in_vm.run(in_vm.words(command, options, figures=wanted))
    if wanted:
        first_packet.keep([Figure(*row) for row in json.loads(written)], json_file, plot_file)


def main() -> None:
    """Run one benchmark."""
    options = vars(_parser().parse_args())
    command = options.pop("command")
    unknown = set(options.get("tools", ())) - CONTENDERS.keys()
    if unknown:
        sys.exit(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    try:
        if options.pop("vm", False):
            _run_in_vm(command, options)
        else:
            _run(command, options)
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    except KeyboardInterrupt:  # what is in a sandbox ends with it
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
