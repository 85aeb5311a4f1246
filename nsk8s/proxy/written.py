"""What a proxier with few chains wrote, held against the kernel. Touches: iptables. Only imported in ipvs and userspace mode."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nsk8s.errors import Nsk8sError
from nsk8s.kernel.iptables import Iptables
from nsk8s.net import chainset
from nsk8s.net.chainset import Jump, Rules

log = logging.getLogger("proxier")

Written = dict[tuple[str, str], Rules]
"""(table, chain) → its rules as last written."""


async def is_as_written(iptables: Iptables, written: Mapping[tuple[str, str], Rules], jumps: Sequence[Jump]) -> bool:
    """Whether every rule is as it was written, and every jump there. Raises Nsk8sError."""
    try:
        have = chainset.parse(await iptables.save())
    except ValueError as e:
        raise Nsk8sError(str(e)) from e
    for (table, name), rules in written.items():
        if chainset.canonical_rules(have.rules(table, name)) != chainset.canonical_rules(rules):
            log.info("%s: someone changed chain %s: writing all again", iptables.main, name)
            return False
    return not chainset.missing_jumps(have, jumps)
