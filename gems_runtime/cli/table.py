"""Every verb, in the order in which help lists them."""

from __future__ import annotations

from gems_runtime.cli import diff, doctor, explain, export, import_, ls, merge, pin, prune, replay, show, status, verify, warm
from gems_runtime.cli.parser import Verb

VERBS: tuple[Verb, ...] = (
    warm.VERB,
    status.VERB,
    ls.VERB,
    show.VERB,
    explain.VERB,
    diff.VERB,
    verify.VERB,
    replay.VERB,
    export.VERB,
    import_.VERB,
    merge.VERB,
    pin.PIN,
    pin.UNPIN,
    prune.VERB,
    doctor.VERB,
)
