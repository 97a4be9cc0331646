"""Captures are read by others: scapy and tcpdump."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.vm.pcap import SNAPLEN, PcapWriter

WHO_HAS = bytes.fromhex("ffffffffffff525400000001080600010800060400015254000000010a0000010000000000000a000002")
SECOND = 1_000_000_000
TIMES = st.integers(0, (1 << 32) * SECOND - 1)


def captured(*records: tuple[bytes, int]) -> bytes:
    stream = io.BytesIO()
    writer = PcapWriter(stream)
    for frame, nanoseconds in records:
        writer.write(frame, nanoseconds)
    return stream.getvalue()


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=100), TIMES), min_size=1, max_size=5))
def test_scapy_reads_frames_and_times_back(records: list[tuple[bytes, int]]) -> None:
    from scapy.utils import RawPcapNgReader, RawPcapReader

    reader = RawPcapReader(io.BytesIO(captured(*records)))
    assert not isinstance(reader, RawPcapNgReader)
    assert reader.nano
    assert reader.linktype == 1
    found = [(frame, meta.sec * SECOND + meta.usec) for frame, meta in reader]
    assert found == records


def test_scapy_reads_packets(tmp_path: Path) -> None:
    from scapy.layers.l2 import ARP
    from scapy.utils import rdpcap

    file = tmp_path / "one.pcap"
    file.write_bytes(captured((WHO_HAS, 1_700_000_000_123_456_789)))
    (packet,) = rdpcap(str(file))
    assert packet[ARP].pdst == "10.0.0.2"
    assert str(packet.time) == "1700000000.123456789"


def test_a_long_frame_keeps_its_length() -> None:
    from scapy.utils import RawPcapReader

    ((frame, meta),) = RawPcapReader(io.BytesIO(captured((bytes(SNAPLEN + 5), 0))))
    assert (len(frame), meta.caplen, meta.wirelen) == (SNAPLEN, SNAPLEN, SNAPLEN + 5)


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")
def test_tcpdump_reads_a_capture_while_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "growing.pcap"

    def seen() -> list[str]:
        argv = ["tcpdump", "-nn", "-tt", "--time-stamp-precision=nano", "-r", "-"]
        with file.open("rb") as stream:
            done = subprocess.run(argv, stdin=stream, capture_output=True, text=True, check=True)
        assert "link-type EN10MB (Ethernet), snapshot length 65535" in done.stderr
        return done.stdout.splitlines()

    with file.open("wb") as stream:
        writer = PcapWriter(stream)
        stream.flush()
        assert seen() == []
        writer.write(WHO_HAS, 5 * SECOND + 7)
        stream.flush()
        assert seen() == ["5.000000007 ARP, Request who-has 10.0.0.2 tell 10.0.0.1, length 28"]
        for number in range(300):  # more than a buffer of 8192 bytes
            writer.write(WHO_HAS, number)
            stream.flush()
        assert len(seen()) == 301
