"""Addresses that requests for tenants may and may not lead to; one table for clones, installs and all that follow."""

from __future__ import annotations

# Of this machine in the tests that use it.
OWN_IPV4, OWN_IPV6 = "198.51.100.77", "2001:db8:77::77"

REFUSED = (
    # IPv4, by IANA's registry
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    # IPv6: what isn't given out, and what is given out for something else than the internet
    "::", "::1", "100::1", "1::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1",
    "ff02::1", "2001:2::1", "2001:10::1", "2001:20::1", "3fff::1",
    # mapped, compatible, translated
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::127.0.0.1",
    "::10.0.0.1", "::169.254.169.254", "::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254", "::ffff:0:10.0.0.1",
    # NAT64, the public prefix and the local one (with 32, 8, 0 and no bits of a prefix of its own)
    "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::168.63.129.16", "64:ff9b:1::1", "64:ff9b:1::10.0.0.1",
    "64:ff9b:1::169.254.169.254", "64:ff9b:1:a00:0:100::", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:120a:0:1::",
    "64:ff9b:1:1234:a:0:100:0", "64:ff9b:1:1234::127.0.0.1",
    # 6to4, Teredo (its server, and its client behind the obfuscation), ISATAP
    "2002:a00:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2001::1", "2001:0:a00:1::fefe:fefe",
    "2001:0:808:808:0:0:80ff:fffe", "2001:0:808:808:8000:63bf:5601:5601", "2001:db8::5efe:10.0.0.1",
    "2001:db8::200:5efe:127.0.0.1",
    # This machine's own, in every form
    OWN_IPV4, OWN_IPV6, f"::ffff:{OWN_IPV4}", f"::{OWN_IPV4}", f"::ffff:0:{OWN_IPV4}", f"64:ff9b::{OWN_IPV4}",
    f"64:ff9b:1::{OWN_IPV4}", "2002:c633:644d::1", "2001:0:c633:644d::fefe:fefe", "2001:0:808:808::39cc:9bb2",
    f"2001:db8::5efe:{OWN_IPV4}",
)  # fmt: skip

ADMITTED = (
    # Neighbours of what is refused
    "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.167.255.255", "192.169.0.0",
    "198.51.100.78", "203.0.113.80", "223.255.255.255",
    "2606:4700::1", "2a00::1", "2001:db8:77::78", "2001:200::1", "3ffe::1",
    # What stands for a public address
    "::ffff:1.1.1.1", "::1.1.1.1", "::ffff:0:1.1.1.1", "64:ff9b::101:101", "64:ff9b:1::101:101", "2002:101:101::1",
    "2001:0:808:808::fefe:fefe", "2001:db8::5efe:1.1.1.1",
)  # fmt: skip

# What programs read as different addresses, or some as an address and some as a name.
MISLEADING = (
    "2130706433", "16843009", "0x7f.1", "0x7f000001", "0177.0.0.1", "010.0.0.1", "127.1", "0", "127.0.0.1.",
    "1.2.3.4.5", "x.0x7f", "256.1.1.1", ".", "..",
)  # fmt: skip
