"""What the guest image is made of, and the commands that make it. Pure: `build` runs them.

Read in the order of a build: `Recipe` and `key`, `pip_argv` (Python packages), `files` (what netlab adds),
`bootstrap_argv` with its hooks (Debian, the kernel), `squash_argv` (the disk), `failure` (what a log tells).
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from netlab.errors import NetlabError, NotSupported

ARCHITECTURE = "x86_64"
NEEDED_BY = "building the virtual machines' image"
SOURCE_MOUNT = "/netlab"  # where a guest finds netlab's own source: the image has none
PYTHON_OF = {"bookworm": "3.11", "trixie": "3.13"}  # the suites that are known to work
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")  # bookworm's glibc is 2.36
PACKAGES = (
    "python3",
    "libstdc++6",  # numpy's wheels need it; a Debian with apt has it
    "python3-iptables",  # PyPI has no wheel of it, and the guest no compiler
    "iproute2",
    "iptables",
    "nftables",
    "ipset",
    "ipvsadm",
    "conntrack",
    "wireguard-tools",
    "ethtool",
    "iputils-ping",
    "iperf3",
    "tcpdump",
    "procps",
    "mount",
    "kmod",
    "netbase",
    "curl",  # the guide and the demos ask Services with it
)
FROM_DEBIAN = ("python-iptables",)
KERNEL = "linux-image-cloud-amd64"  # depends on the newest one
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "squashfs", "overlay")
UNWANTED = (
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/lib/x86_64-linux-gnu/gconv",
    "var/cache/*",
    "var/log/*",
    "var/lib/dpkg/info/*.md5sums",
)


@dataclass(frozen=True, slots=True)
class Project:
    """What a guest must know of netlab as a package: requirements (PEP 508), entry points (group, name, value)."""

    name: str
    requirements: tuple[str, ...]
    entry_points: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is in an image, except what Debian and PyPI offer on the day."""

    project: Project
    suite: str = "bookworm"
    packages: tuple[str, ...] = PACKAGES

    @property
    def python(self) -> str:
        """Return the version of the suite's python3."""
        return PYTHON_OF[self.suite]

    @property
    def site(self) -> str:
        """Return the guest's folder of Python packages, relative to its root."""
        return f"usr/local/lib/python{self.python}/dist-packages"


def key(recipe: Recipe) -> str:
    """Return the name of the recipe's image: a hash of the commands and files that make it."""
    nowhere = Path()
    commands = (pip_argv(recipe, "", nowhere), bootstrap_argv(recipe, nowhere, "", ()), squash_argv(nowhere))
    return hashlib.sha256(repr((commands, files(recipe))).encode()).hexdigest()[:12]


def read_project(pyproject: Mapping[str, Any]) -> Project:
    """Return what a pyproject.toml says about the project: its requirements, and those of its tests."""
    project = pyproject["project"]
    points = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    return Project(
        project["name"],
        (*project["dependencies"], *project["optional-dependencies"]["test"]),
        tuple((group, name, value) for group, found in points.items() for name, value in found.items()),
    )


def pip_argv(recipe: Recipe, python: str, target: Path) -> tuple[str, ...]:
    """Return the pip command that puts packages for the guest's Python, which is not ours, in a folder."""
    wanted = [text for text in recipe.project.requirements if not text.lower().startswith(FROM_DEBIAN)]
    return (
        *(python, "-m", "pip", "install", "--target", str(target), "--no-compile", "--only-binary=:all:"),
        *(f"--platform={platform}_{ARCHITECTURE}" for platform in PLATFORMS),
        *("--implementation=cp", f"--python-version={recipe.python}"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar=off"),
        *wanted,
    )


def files(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """Return what netlab puts in the guest: path relative to its root -> mode and text."""
    project = recipe.project
    # As if netlab were installed: so that pytest loads its plugin.
    metadata = f"{recipe.site}/{project.name.replace('-', '_')}-0.dist-info"
    script = "#!/usr/bin/python3\nimport sys; from netlab.cli.main import main; sys.exit(main())\n"
    return {
        f"{recipe.site}/netlab.pth": (0o644, f"{SOURCE_MOUNT}\n"),
        f"{metadata}/METADATA": (0o644, f"Metadata-Version: 2.1\nName: {project.name}\nVersion: 0\n"),
        f"{metadata}/entry_points.txt": (0o644, _entry_points(project)),
        "usr/local/bin/netlab": (0o755, script),
        "etc/hostname": (0o644, "netlab\n"),  # mmdebstrap copies this machine's
        "etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        "etc/resolv.conf": (0o644, ""),
    }


def _entry_points(project: Project) -> str:
    lines: list[str] = []
    for group, points in groupby(project.entry_points, key=lambda point: point[0]):
        lines += [f"[{group}]", *(f"{name} = {value}" for _, name, value in points)]
    return "\n".join([*lines, ""])


# Hooks run outside the guest's root, which is $1, with the rights of its root user.

# A root whose /usr is merged from the start needs no `usrmerge`, which brings all of Perl.
MERGE_USR = r"""
set -eu
for folder in bin sbin lib lib64; do
  mkdir -p "$1/usr/$folder"
  ln -s "usr/$folder" "$1/$folder"
done
mkdir -p "$1/etc/apt/preferences.d"
printf 'Package: usrmerge\nPin: release *\nPin-Priority: -1\n' >"$1/etc/apt/preferences.d/usrmerge"
"""

# The kernel is unpacked, not installed: its package wants a boot loader and an initramfs.
UNPACK_KERNEL = f"""
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends {KERNEL} | sed -n 's/^ *Depends: //p' | head -n 1)
mkdir "$1/kernel" "$1/usr/lib/modules"
cd "$1/kernel"
apt-get download "$package"
dpkg-deb --extract ./*.deb .
mv boot/vmlinuz-* "$1/boot/vmlinuz"
mv ./lib/modules/* "$1/usr/lib/modules/" || mv ./usr/lib/modules/* "$1/usr/lib/modules/"
cd /
rm -r "$1/kernel"
release=$(basename "$1"/usr/lib/modules/*)
echo "$release" >"$1/boot/release"
chroot "$1" depmod "$release"
"""

# The modules that an initramfs needs to reach the root, with what they depend on and the lists to find them by.
COPY_BOOT_MODULES = rf"""
set -eu
release=$(cat "$1/boot/release")
mkdir "$1/boot/modules"
chroot "$1" modprobe --set-version "$release" --show-depends --all {" ".join(BOOT_MODULES)} >"$1/boot/needed"
{{
  sed -n 's,^insmod /\([^ ]*\).*,\1,p' "$1/boot/needed"
  printf "lib/modules/$release/%s\n" modules.dep modules.builtin
}} | sort -u | tar -C "$1/usr" -cf - -T - | tar -C "$1/boot/modules" -xf -
rm "$1/boot/needed"
"""

# Debian compiles its own. A file that does not compile, such as a package's template, costs time only when imported.
COMPILE = """
chroot "$1" python3 -m compileall -q -j 0 /usr/local/lib || echo "not everything was compiled"
"""

# Nothing of this machine stays either: apt's sources and settings may hold a proxy's password.
CLEAN = rf"""
set -eu
cd "$1"
rm -rf boot/* etc/apt var/lib/apt {" ".join(UNWANTED)}
"""


def bootstrap_argv(recipe: Recipe, scratch: Path, sources: str, options: Iterable[str]) -> tuple[str, ...]:
    """Return the mmdebstrap command that writes the guest's root to its output, as a tar archive.

    It puts scratch/extra.tar in, and leaves vmlinuz, release and modules/ in scratch/boot. `sources` is a file for apt,
    or "" for mmdebstrap's own choice.
    """
    extra, boot = shlex.quote(str(scratch / "extra.tar")), shlex.quote(str(scratch / "boot"))
    hooks = (f"tar-in {extra} /", UNPACK_KERNEL, COPY_BOOT_MODULES, COMPILE, f"sync-out /boot {boot}", CLEAN)
    return (
        *("mmdebstrap", "--mode=auto", "--variant=essential", "--architectures=amd64", "--format=tar"),
        *(f"--include={','.join(recipe.packages)}", "--dpkgopt=force-unsafe-io", "--skip=cleanup"),
        *(f"--aptopt={option}" for option in options),
        f"--setup-hook={MERGE_USR.strip()}",
        *(f"--customize-hook={hook.strip()}" for hook in hooks),
        *(recipe.suite, "-", *([sources] if sources else [])),
    )


def bound(*, is_root: bool) -> tuple[str, ...]:
    """Return what stands before a program's own command so that it ends with the process that started it.

    As root, mmdebstrap mounts in the namespace that it finds, and its children live on when it is killed: in namespaces
    of their own both go with it. Without root it makes these namespaces itself, and must remove its files itself.
    """
    if not is_root:
        return ("setpriv", "--pdeathsig", "TERM")
    return ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


STAGES = {  # mmdebstrap says -> a user reads
    "running apt-get update": "reading Debian's package lists",
    "downloading packages": "fetching Debian packages",
    "extracting archives": "unpacking Debian packages",
    "installing essential": "installing Debian packages",
    "running special hook: tar-in": "adding the kernel and Python packages",
    "creating tarball": "packing the disk",
}


def find_stage(line: str) -> str | None:
    """Return what a line of mmdebstrap's output tells its user about where a build is."""
    return next((stage for sign, stage in STAGES.items() if line.startswith(f"I: {sign}")), None)


def squash_argv(target: Path) -> tuple[str, ...]:
    """Return the mksquashfs command that makes a disk of the tar archive on its input.

    zstd is a third smaller than lz4, and costs no time that could be measured in a guest under TCG.
    """
    quiet = ("-noappend", "-no-progress", "-quiet")
    compression = ("-comp", "zstd", "-Xcompression-level", "3")
    return ("mksquashfs", "-", str(target), "-tar", "-root-mode", "0755", *quiet, *compression)


def pack_argv(tree: Path, target: Path, exclude: Iterable[str]) -> tuple[str, ...]:
    """Return the mksquashfs command that packs a source tree. `exclude`: names or patterns of names, at any depth."""
    quick = ("-noappend", "-no-progress", "-quiet", "-all-root", "-no-xattrs", "-comp", "lz4")
    patterns = [f"... {pattern}" for pattern in exclude]
    return ("mksquashfs", str(tree), str(target), *quick, *(["-wildcards", "-e", *patterns] if patterns else []))


CAUSES = (  # what a log says -> what to do about it; the first that is found
    (
        re.compile(r"No space left on device|Failed to write to output filesystem"),
        "make room, or set NETLAB_CACHE and TMPDIR to folders with more",
    ),
    (re.compile(r"NO_PUBKEY|is not signed|EXPKEYSIG"), "apt install debian-archive-keyring"),
    (
        re.compile(r"Could not resolve|[Cc]onnection refused|timed out|Could not connect|connection broken|Err:"),
        "`apt-get update` and `pip download click` must work on this machine: check its network, proxy and mirrors",
    ),
    (
        re.compile(r"Unable to locate package|No matching distribution"),
        "check what this machine's apt sources and pip's index offer",
    ),
)
RIGHTS = {  # what a log says -> what is missing, and how to get it
    "unshare: unshare failed": ("CAP_SYS_ADMIN", "leave the container that this is, or start it with that capability"),
    "unable to pick chroot mode": (
        "a range of user ids for your user",
        "`apt install uidmap` and write one to /etc/subuid and /etc/subgid, or be root",
    ),
}
ERROR = re.compile(r"^(E: |ERROR: |FATAL ERROR|mksquashfs: |.*: error: )", re.MULTILINE)
CONSEQUENCE = re.compile(r"E: (mmdebstrap failed|setup failed|env |run_chroot|Sub-process)|.*reading tar file")


def failure(log: str, statuses: Iterable[int], file: str) -> NetlabError:
    """Return the error that the log and the statuses of a build's programs tell of. `file` is where the log is."""
    for sign, (feature, hint) in RIGHTS.items():
        if sign in log:
            return NotSupported(feature, NEEDED_BY, f"{hint}; log: {file}")
    lines = [line.strip()[:300] for line in log.splitlines() if not CONSEQUENCE.match(line)]
    cause, advice = next(((cause, advice) for cause, advice in CAUSES if cause.search(log)), (ERROR, "see the log"))
    first = [line for line in lines if cause.search(line)][:1]
    ended = f"programs ended with status {', '.join(map(str, statuses))}"
    said = list(dict.fromkeys([*first, *filter(ERROR.match, lines)]))[:3] or [ended]
    return NetlabError("\n  ".join(["the virtual machines' image was not built:", *said]), f"{advice}; log: {file}")
