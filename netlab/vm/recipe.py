"""What the guest image is made of, and the commands that make it. Pure: `image` runs them.

Read in the order of a build: `Recipe` and `key`, `pip_argv` (Python packages), `files` (what netlab adds),
`bootstrap_argv` (Debian, the kernel) with the texts of its hooks, `squash_argv` (the disk). What differs between
machines, their apt sources and apt settings, is read by `debian_sources` and `apt_options`, and is not in the key.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from netlab.errors import NetlabError

ARCHITECTURE = "x86_64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE_MOUNT = "/netlab"  # where a guest finds netlab's own source; the image has none

PYTHON_OF = {"bookworm": "3.11", "trixie": "3.13"}
PACKAGES = (
    "python3",
    "python3-iptables",  # PyPI has no wheel of python-iptables, and the guest no compiler
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
    "kmod",
    "mount",
    "netbase",
)
FROM_DEBIAN = ("python-iptables",)
KERNEL = "linux-image-cloud-amd64"  # depends on the newest one
BOOT_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "squashfs",
    "overlay",
)
UNWANTED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bash-completion/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
    "/usr/share/i18n/*",
)


@dataclass(frozen=True, slots=True)
class Project:
    """What the guest must know of netlab's own package: requirements (PEP 508), entry points (group, name, value)."""

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
    here = Path()
    commands = (pip_argv(recipe, "", here), bootstrap_argv(recipe, here, "", ()), squash_argv(here))
    return hashlib.sha256(repr((commands, files(recipe))).encode()).hexdigest()[:12]


def read_project(pyproject: Mapping[str, object]) -> Project:
    """Return what the guest needs to know from a pyproject.toml: what netlab needs, and what its tests need."""
    project = pyproject["project"]
    assert isinstance(project, Mapping)
    points = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    return Project(
        project["name"],
        (*project["dependencies"], *project["optional-dependencies"]["test"]),
        tuple((group, name, value) for group, found in points.items() for name, value in found.items()),
    )


def pip_argv(recipe: Recipe, python: str, target: Path) -> tuple[str, ...]:
    """Return the pip command that puts the guest's Python packages in a folder, for the guest's Python, not ours."""
    name = re.compile(r"[A-Za-z0-9._-]+")
    wanted = [text for text in recipe.project.requirements if name.findall(text)[0].lower() not in FROM_DEBIAN]
    platforms = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")  # bookworm's glibc is 2.36
    return (
        *(python, "-m", "pip", "install", "--target", str(target), "--no-compile", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar=off", "--only-binary=:all:"),
        *(f"--platform={platform}_{ARCHITECTURE}" for platform in platforms),
        *("--implementation=cp", f"--python-version={recipe.python}"),
        *wanted,
    )


def files(recipe: Recipe) -> dict[str, tuple[int, str]]:
    """Return what netlab puts in the guest: path relative to its root -> mode and text.

    The metadata says what an installed netlab would say: it makes pytest load netlab's plugin.
    """
    project = recipe.project
    groups = groupby(project.entry_points, key=lambda point: point[0])
    sections = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for _, name, value in found), ""]) for group, found in groups
    ]
    metadata = f"{recipe.site}/{project.name.replace('-', '_')}-0.dist-info"
    script = "#!/usr/bin/python3\nimport sys; from netlab.cli.main import main; sys.exit(main())\n"
    return {
        f"{recipe.site}/netlab.pth": (0o644, f"{SOURCE_MOUNT}\n"),
        f"{metadata}/METADATA": (0o644, f"Metadata-Version: 2.1\nName: {project.name}\nVersion: 0\n"),
        f"{metadata}/entry_points.txt": (0o644, "\n".join(sections)),
        "usr/local/bin/netlab": (0o755, script),
        "etc/hostname": (0o644, "netlab\n"),  # mmdebstrap copies this machine's
        "etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost\n"),
        "etc/resolv.conf": (0o644, ""),
    }


# A root that has its /usr merged from the start needs no `usrmerge`, which brings all of Perl.
MERGE_USR = """
set -eu
for folder in bin sbin lib lib64; do
  mkdir -p "$1/usr/$folder"
  ln -s "usr/$folder" "$1/$folder"
done
mkdir -p "$1/etc/apt/preferences.d"
printf 'Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n' >"$1/etc/apt/preferences.d/usrmerge"
"""

# Hooks run outside the guest's root, which is $1, as its root user; `apt` is this machine's, at work on that root.
UNPACK_KERNEL = f"""
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends {KERNEL} | sed -n 's/^ *Depends: //p' | head -n 1)
mkdir "$1/kernel"
cd "$1/kernel"
apt-get download "$package"
dpkg-deb --extract ./*.deb .
release=$(basename boot/vmlinuz-*)
release=${{release#vmlinuz-}}
mv boot/vmlinuz-* "$1/boot/vmlinuz"
mkdir -p "$1/usr/lib/modules"
for folder in lib/modules usr/lib/modules; do
  [ ! -d "$folder/$release" ] || mv "$folder/$release" "$1/usr/lib/modules/"
done
cd /
rm -r "$1/kernel"
chroot "$1" depmod "$release"
echo "$release" >"$1/boot/release"
"""

# The modules that an initramfs needs to reach the root, with what they depend on and the lists that modprobe reads.
COPY_BOOT_MODULES = f"""
set -eu
release=$(cat "$1/boot/release")
mkdir "$1/boot/modules"
chroot "$1" modprobe --set-version "$release" --show-depends --all {" ".join(BOOT_MODULES)} |
  sed -n 's,^insmod /\\([^ ]*\\).*,\\1,p' | sort -u >"$1/boot/list"
for name in modules.dep modules.builtin modules.builtin.modinfo modules.order modules.alias modules.softdep; do
  [ ! -e "$1/usr/lib/modules/$release/$name" ] || echo "lib/modules/$release/$name" >>"$1/boot/list"
done
tar -C "$1/usr" -cf - -T "$1/boot/list" | tar -C "$1/boot/modules" -xf -
rm "$1/boot/list"
"""

# Sources are not looked at when a module is imported: that is worth it where each system call is emulated.
COMPILE = """
set -eu
for folder in /usr/lib/python3 /usr/lib/python3.* /usr/local/lib/python3.*; do
  chroot "$1" python3 -m compileall -q -f -j 2 --invalidation-mode unchecked-hash "$folder"
done
"""

# Nothing of this machine stays: its apt sources and settings may hold a proxy's password.
CLEAN = """
set -eu
rm -rf "$1"/boot/* "$1"/etc/apt "$1"/var/lib/apt "$1"/var/cache/* "$1"/var/log/* "$1"/var/lib/dpkg/info/*.md5sums
"""


def bootstrap_argv(recipe: Recipe, scratch: Path, sources: str, options: Iterable[str]) -> tuple[str, ...]:
    """Return the mmdebstrap command that writes the guest's root to its output, as a tar archive.

    It reads scratch/extra.tar, and leaves vmlinuz, release and modules/ in scratch/boot.
    """
    extra, boot = shlex.quote(str(scratch / "extra.tar")), shlex.quote(str(scratch / "boot"))
    hooks = (f"tar-in {extra} /", UNPACK_KERNEL, COPY_BOOT_MODULES, COMPILE, f"sync-out /boot {boot}", CLEAN)
    return (
        *(
            "mmdebstrap",
            "--mode=auto",
            "--variant=essential",
            "--architectures=amd64",
            "--format=tar",
            "--skip=cleanup",
        ),
        f"--include={','.join(recipe.packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNWANTED),
        *(f"--aptopt={option}" for option in options),
        f"--setup-hook={MERGE_USR}",
        *(f"--customize-hook={hook}" for hook in hooks),
        *(recipe.suite, "-", *([sources] if sources else [])),
    )


def squash_argv(target: Path) -> tuple[str, ...]:
    """Return the mksquashfs command that makes a disk of the tar archive on its input."""
    return ("mksquashfs", "-", str(target), "-tar", "-noappend", "-no-progress", "-quiet", *COMPRESSION)


COMPRESSION = ("-comp", "zstd", "-Xcompression-level", "3")


def pack_argv(tree: Path, target: Path, exclude: Sequence[str]) -> tuple[str, ...]:
    """Return the mksquashfs command that packs a source tree, fast; `exclude` holds wildcards for names at any depth."""
    quick = ("-noappend", "-no-progress", "-quiet", "-all-root", "-no-xattrs", "-comp", "lz4")
    without = ("-wildcards", "-e", *(f"... {pattern}" for pattern in exclude)) if exclude else ()
    return ("mksquashfs", str(tree), str(target), *quick, *without)


DEBIAN_SUITE = re.compile(r"(?P<name>[a-z]+)(?P<pocket>(-updates|-security)?)")
NAMES = {*PYTHON_OF, "bullseye", "buster", "forky", "oldstable", "stable", "testing"}
ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+)")
Stanza = dict[str, str]  # one source in deb822 style: field, in lower case -> value


def debian_sources(texts: Iterable[tuple[str, str]], suite: str) -> str:
    """Return those of a machine's apt sources that are Debian's own archive, for `suite` (sources.list(5), deb822).

    `texts` holds file names and contents. Empty when there are none, as on Ubuntu: mmdebstrap knows an archive itself.
    """
    found: list[Stanza] = []
    for name, text in texts:
        for stanza in _deb822(text) if name.endswith(".sources") else _one_line(text):
            if _is_debian(stanza) and (wanted := _for_suite(stanza, suite)) not in found:
                found.append(wanted)
    return "\n".join("".join(f"{field}: {value}\n" for field, value in stanza.items()) for stanza in found)


def _deb822(text: str) -> Iterator[Stanza]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", lines):
        fields = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", block, re.MULTILINE)
        if fields:
            yield {name.lower(): value for name, value in fields}


def _one_line(text: str) -> Iterator[Stanza]:
    for line in text.splitlines():
        if match := ONE_LINE.match(line.strip()):
            options = dict(re.findall(r"([\w-]+)=(\S+)", match["options"] or ""))
            signed = {"signed-by": options["signed-by"]} if "signed-by" in options else {}
            fields = {"uris": match["uri"], "suites": match["suite"], "components": match["components"].strip()}
            yield {"types": "deb", **fields, **signed}


def _is_debian(stanza: Stanza) -> bool:
    """Say whether a source is Debian's archive or a mirror of it: third parties sign with their own keys."""
    signed = stanza.get("signed-by", "")
    return (
        "deb" in stanza.get("types", "").split()
        and stanza.get("enabled", "yes") != "no"
        and "main" in stanza.get("components", "").split()
        and (not signed or "debian-archive" in signed or "BEGIN PGP" in signed)
        and any(_pocket(name) is not None for name in stanza.get("suites", "").split())
    )


def _pocket(name: str) -> str | None:
    """Return "", "-updates" or "-security" for a suite of Debian's; None for others, and for backports."""
    match = DEBIAN_SUITE.fullmatch(name)
    return match["pocket"] if match and match["name"] in NAMES else None


def _for_suite(stanza: Stanza, suite: str) -> Stanza:
    pockets = [pocket for name in stanza["suites"].split() if (pocket := _pocket(name)) is not None]
    return {
        **stanza,
        "types": "deb",
        "suites": " ".join(f"{suite}{pocket}" for pocket in pockets),
        "components": "main",
    }


APT_OPTION = re.compile(r"Acquire::(https?::|Check-|Retries|ForceIPv).* \".+\";")
PATIENCE = ('Acquire::Retries "2";', 'Acquire::http::Timeout "30";', 'Acquire::https::Timeout "30";')


def apt_options(dump: str) -> tuple[str, ...]:
    """Return the settings of this machine's apt that a download may need, such as a proxy, from `apt-config dump`."""
    return (*PATIENCE, *(line for line in dump.splitlines() if APT_OPTION.fullmatch(line)))


REASONS = (  # in a log -> what to do; the first that is found
    ("No space left on device", "make room in the cache folder and in TMPDIR, or set NETLAB_CACHE and TMPDIR"),
)


def failure(log: str, file: str) -> NetlabError:
    """Return the error that a build's log tells of."""
    errors = [line for line in log.splitlines() if re.match(r"E: |Err:|ERROR: |FATAL ERROR|.*: error", line)] or [
        log[-300:]
    ]
    hint = next((hint for sign, hint in REASONS if sign in log), "see the log")
    return NetlabError(f"the virtual machines' image was not built: {' / '.join(errors[:3])}", f"{hint}; log: {file}")
