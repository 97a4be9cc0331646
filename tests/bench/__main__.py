"""The command line of the benchmarks: `scripts/bench --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tests.bench import cli, datapath, dns, first_packet, first_packet_lab, path, scale, services, up, vm
from tests.bench.contenders import CONTENDERS
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
    of_services = commands.choices["services"]
    of_services.add_argument("-n", dest="sizes", type=_sizes, default=services.SIZES, help="services: 1000,5000,10000")
    kinds = services.VARIANTS
    of_services.add_argument("--variants", type=_some_of(kinds), default=kinds, help=f"of {','.join(kinds)}")
    _add_datapath(commands.choices["datapath"])
    _add_first_packet(commands.choices["first-packet"])
    return parser


def _add_first_packet(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n", dest="sizes", type=_sizes, default=first_packet.SIZES, help="services: 10,1000,5000,10000"
    )
    kinds = first_packet_lab.VARIANTS
    command.add_argument("--variants", type=_some_of(kinds), default=kinds, help=f"of {','.join(kinds)}")
    _add_files(command)


def _add_files(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", dest="json_file", metavar="FILE", help="keep every sample in a file")
    command.add_argument("--plot", dest="plot_file", metavar="FILE", help="draw a picture: FILE.png, .svg or .pdf")


def _add_datapath(command: argparse.ArgumentParser) -> None:
    tests = [*datapath.TESTS, datapath.PROCESSES]
    for name, known in (("variants", list(BACKENDS)), ("tests", tests), ("topologies", list(datapath.TOPOLOGIES))):
        command.add_argument(f"--{name}", type=_some_of(known), default=known, help=f"of {','.join(known)}")
    command.add_argument("--seconds", type=int, default=2, help="of one run of a test (default 2)")
    _add_files(command)


def main() -> None:
    """Run one benchmark."""
    options = vars(_parser().parse_args())
    command = options.pop("command")
    unknown = set(options.get("tools", ())) - CONTENDERS.keys()
    if unknown:
        sys.exit(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    try:
        match command:
            case "up":
                up.main(up.Options(**options))
            case "scale":
                scale.main(**options)
            case "cli":
                cli.main(**options)
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
    except BenchError as exc:
        sys.exit(f"bench: {exc}")
    except KeyboardInterrupt:  # what is in a sandbox ends with it
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
