"""What the guest image is made of, what a build takes from this machine's apt, and what a build's log tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netlab.errors import NetlabError, NotSupported
from netlab.paths import choose_cache_dir
from netlab.vm import apt, recipe
from netlab.vm.recipe import Project, Recipe

PYPROJECT = {
    "project": {
        "name": "container-netlab",
        "dependencies": ["click>=8.1", "PyYAML>=6.0"],
        "optional-dependencies": {"test": ["pytest>=8", "python-iptables>=1.0.1"], "lint": ["ruff"]},
        "scripts": {"netlab": "netlab.cli.main:main"},
        "entry-points": {"pytest11": {"netlab": "netlab.pytest_plugin"}},
    }
}
PROJECT = Project(
    "container-netlab",
    ("click>=8.1", "PyYAML>=6.0", "pytest>=8", "python-iptables>=1.0.1"),
    (("console_scripts", "netlab", "netlab.cli.main:main"), ("pytest11", "netlab", "netlab.pytest_plugin")),
)
RECIPE = Recipe(PROJECT)


def test_the_project_is_what_it_and_its_tests_need() -> None:
    assert recipe.read_project(PYPROJECT) == PROJECT


@pytest.mark.parametrize(
    "other",
    [
        Recipe(PROJECT, "trixie"),
        Recipe(PROJECT, packages=(*recipe.PACKAGES, "bird2")),
        Recipe(replace(PROJECT, requirements=("click>=8.2",))),
        Recipe(replace(PROJECT, entry_points=PROJECT.entry_points[:1])),
    ],
    ids=["suite", "packages", "requirements", "entry points"],
)
def test_the_key_follows_what_goes_in(other: Recipe) -> None:
    assert recipe.key(other) != recipe.key(RECIPE)


@pytest.mark.parametrize(
    "part", ["MERGE_USR", "UNPACK_KERNEL", "COPY_BOOT_MODULES", "COMPILE", "CLEAN", "SOURCE_MOUNT"], ids=str.lower
)
def test_the_key_follows_the_text_of_what_is_run(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe.key(RECIPE)
    monkeypatch.setattr(recipe, part, "echo another")
    assert recipe.key(RECIPE) != before


def test_the_key_is_the_same_on_every_machine() -> None:
    key = recipe.key(RECIPE)
    assert key == recipe.key(Recipe(recipe.read_project(PYPROJECT)))
    assert key.isalnum()


def test_pip_serves_the_guests_python() -> None:
    argv = recipe.pip_argv(Recipe(PROJECT, "trixie"), "/bin/python", Path("/scratch/site"))
    assert argv[:6] == ("/bin/python", "-m", "pip", "install", "--target", "/scratch/site")
    assert {"--python-version=3.13", "--only-binary=:all:", "--platform=manylinux2014_x86_64"} <= set(argv)
    assert argv[-3:] == ("click>=8.1", "PyYAML>=6.0", "pytest>=8")  # python-iptables is Debian's


def test_an_installed_netlab_is_what_the_guests_python_sees() -> None:
    files = recipe.files(RECIPE)
    site = "usr/local/lib/python3.11/dist-packages"
    assert files[f"{site}/netlab.pth"] == (0o644, "/netlab\n")
    assert files[f"{site}/container_netlab-0.dist-info/entry_points.txt"][1] == (
        "[console_scripts]\nnetlab = netlab.cli.main:main\n[pytest11]\nnetlab = netlab.pytest_plugin\n"
    )
    mode, script = files["usr/local/bin/netlab"]
    assert mode == 0o755
    assert "netlab.cli.main" in script  # by this, `netlab doctor` knows its own


def test_debian_is_bootstrapped_from_the_machines_sources_in_hook_order() -> None:
    argv = recipe.bootstrap_argv(RECIPE, Path("/my scratch"), "/s/debian.sources", ['A::B "c";'])
    assert argv[-3:] == ("bookworm", "-", "/s/debian.sources")
    assert '--aptopt=A::B "c";' in argv
    hooks = [text.partition("=")[2] for text in argv if text.startswith("--customize-hook=")]
    assert hooks[0] == "tar-in '/my scratch/extra.tar' /"
    assert [index for index, text in enumerate(hooks) if "sync-out /boot '/my scratch/boot'" in text] == [4]
    assert "etc/apt" in hooks[5]  # a proxy's password does not stay
    assert recipe.bootstrap_argv(RECIPE, Path("/s"), "", [])[-2:] == ("bookworm", "-")


def test_nothing_is_left_out_of_a_tree_without_patterns() -> None:
    assert "-e" not in recipe.pack_argv(Path("/tree"), Path("/disk"), [])
    argv = recipe.pack_argv(Path("/tree"), Path("/disk"), [".git", "*.pyc"])
    assert argv[-3:] == ("-e", "... .git", "... *.pyc")


def test_stages_are_told_and_the_rest_is_not() -> None:
    assert recipe.find_stage("I: extracting archives...\n") == "unpacking Debian packages"
    assert recipe.find_stage("I: automatically chosen mode: root\n") is None


STANZAS = """\
# the archive
Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian
Suites: trixie trixie-updates trixie-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: trixie-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF

Types: deb
URIs: https://other.example/apt
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/other.gpg

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: trixie
Components: main
"""


def test_debians_sources_are_taken_for_the_guests_suite() -> None:
    assert apt.debian_sources([("debian.sources", STANZAS)], "bookworm") == (
        "types: deb\n"
        "uris: http://mirror.example/debian\n"
        "suites: bookworm bookworm-updates\n"
        "components: main\n"
        "signed-by: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "types: deb\n"
        "uris: http://mirror.example/security\n"
        "suites: bookworm-security\n"
        "components: main\n"
        "signed-by: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n"
    )


def test_one_line_sources() -> None:
    text = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://a.example/debian stable main contrib # the archive
deb http://a.example/debian bookworm-updates main
deb-src http://a.example/debian bookworm main
deb https://docker.example/linux/debian bookworm stable
deb https://cloud.example/apt cloud-sdk-bookworm main
"""
    assert apt.debian_sources([("sources.list", text)], "bookworm").split("\n\n") == [
        "types: deb\nuris: http://a.example/debian\nsuites: bookworm\ncomponents: main\n"
        "signed-by: /k/debian-archive-keyring.gpg",
        "types: deb\nuris: http://a.example/debian\nsuites: bookworm-updates\ncomponents: main\n",
    ]


def test_ubuntu_has_no_source_for_a_debian_guest() -> None:
    text = "deb http://u.example/ubuntu noble main restricted\ndeb http://u.example/ubuntu noble-security main\n"
    assert apt.debian_sources([("sources.list", text)], "bookworm") == ""


def test_the_machines_way_to_its_mirrors_is_kept() -> None:
    dump = """\
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages::Optional "0";
APT::Architecture "amd64";
"""
    assert apt.options(dump)[len(apt.PATIENCE) :] == (
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    )


REFUSED = """\
Err:1 http://127.0.0.1:9/debian bookworm InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
FATAL ERROR: Error occurred reading tar file.  Aborting
E: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Could not connect to 127.0.0.1:9
E: mmdebstrap failed to run
"""


@pytest.mark.parametrize(
    ("log", "said", "hint"),
    [
        (REFUSED, "E: Failed to fetch http://127.0.0.1:9", "`apt-get update`"),
        (
            "tar: x: Cannot write: No space left on device\nE: tar --extract failed: 512\n",
            "x: Cannot write",
            "make room",
        ),
        ("E: The repository 'http://x bookworm InRelease' is not signed.\n", "is not signed", "debian-archive-keyring"),
        ("E: Unable to locate package bird9\n", "bird9", "apt sources"),
        ("mksquashfs: invalid option\n", "invalid option", "see the log"),
        ("I: main() received signal PIPE: waiting for setup...\n", "status 1, -9", "see the log"),
        ("", "status 1, -9", "see the log"),
    ],
    ids=["refused", "disk full", "unsigned", "unknown package", "option", "killed", "nothing"],
)
def test_a_failure_says_why_and_what_to_do(log: str, said: str, hint: str) -> None:
    error = recipe.failure(log, [1, -9], "/cache/build.log")
    assert type(error) is NetlabError
    assert said in error.message
    assert hint in error.hint
    assert "/cache/build.log" in error.hint
    assert "reading tar file" not in error.message  # a consequence


@pytest.mark.parametrize(
    ("log", "feature"),
    [
        ("E: unable to pick chroot mode automatically (use --mode for manual selection)", "a range of user ids"),
        ("unshare: unshare failed: Operation not permitted", "CAP_SYS_ADMIN"),
    ],
)
def test_a_machine_that_cannot_build_is_told_so(log: str, feature: str) -> None:
    error = recipe.failure(log, [1], "/cache/build.log")
    assert isinstance(error, NotSupported)
    assert feature in error.feature


def test_programs_end_with_the_build() -> None:
    assert "--kill-child" in recipe.bound(is_root=True)
    assert recipe.bound(is_root=False) == ("setpriv", "--pdeathsig", "TERM")


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/netlab"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/big"}, "/big/netlab"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "relative"}, "/home/u/.cache/netlab"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/big", "NETLAB_CACHE": "/mine"}, "/mine"),
    ],
)
def test_where_the_cache_is(environ: dict[str, str], chosen: str) -> None:
    assert choose_cache_dir(1000, environ) == Path(chosen)
