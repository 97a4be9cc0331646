"""TUN devices: made by an ioctl on /dev/net/tun, in the network namespace of the thread that asks (tun.rst).

A device is made persistent and let go of; a forwarder attaches to it later, and again when it was restarted. The rest
of it, its MTU and state, is rtnetlink's as for every interface.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from netlab.errors import KernelError, NotSupported

CLONE_DEVICE = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOFFLOAD = 0x400454CA, 0x400454CB, 0x400454D0  # linux/if_tun.h
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CHECKSUM_AND_TSO = 0x01 | 0x02 | 0x04 | 0x08  # TUN_F_CSUM, _TSO4, _TSO6, _TSO_ECN
USO = 0x20 | 0x40  # TUN_F_USO4, _USO6: only both together
NEEDED_BY = "backend udp"
HINTS = {
    errno.ENOENT: "sudo modprobe tun; in a container also --device /dev/net/tun",
    errno.ENODEV: "sudo modprobe tun",
    errno.ENXIO: "sudo modprobe tun",
    errno.EACCES: "sudo chmod 666 /dev/net/tun, or run netlab with sudo; or use backend vxlan",
    errno.EPERM: "in a container: allow the device /dev/net/tun; or use backend vxlan",
}

_IFREQ = struct.Struct("16sH22x")  # name, flags; the union is 24 bytes


def require() -> None:
    """Raise NotSupported where this process may not open /dev/net/tun."""
    os.close(_open())


def create(netns_name: str, name: str) -> int:
    """Make a persistent TUN device in this thread's namespace, which errors name, and return its index.

    One that is there is kept. Raises NotSupported, and KernelError with what the kernel refused.
    """
    fd = _attach(name, 0, f"{netns_name}: make the TUN device {name}")
    try:
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        return socket.if_nametoindex(name)
    except OSError as exc:
        raise KernelError(exc.errno, f"{netns_name}: make the TUN device {name} persistent") from exc
    finally:
        os.close(fd)


def attach(name: str, flags: int = 0) -> int:
    """Return a descriptor that reads and writes a device's packets, one IP packet each. Makes it if it is missing.

    `flags` are more of TUNSETIFF's, such as IFF_VNET_HDR. Raises NotSupported, and KernelError: EBUSY when another
    process has the device.
    """
    return _attach(name, flags, f"attach to the TUN device {name}")


def set_offloads(fd: int) -> bool:
    """Exchange super-packets and partial checksums with the kernel by a device with IFF_VNET_HDR.

    Returns whether that holds for UDP's super-packets too, which Linux has since 6.2. Raises OSError.
    """
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, CHECKSUM_AND_TSO | USO)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        fcntl.ioctl(fd, TUNSETOFFLOAD, CHECKSUM_AND_TSO)
        return False
    return True


def _attach(name: str, flags: int, operation: str) -> int:
    fd = _open()
    try:
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(name.encode(), IFF_TUN | IFF_NO_PI | flags))
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)  # a persistent device keeps what its last reader has asked for
    except OSError as exc:
        os.close(fd)
        raise KernelError(exc.errno, operation, "another process has it" if exc.errno == errno.EBUSY else "") from exc
    return fd


def _open() -> int:
    try:
        return os.open(CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in HINTS:
            raise NotSupported(f"{CLONE_DEVICE} ({exc.strerror})", NEEDED_BY, HINTS[exc.errno]) from exc
        raise KernelError(exc.errno, f"open {CLONE_DEVICE}") from exc
