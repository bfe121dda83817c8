"""Every verb, in the order in which help lists them."""

from __future__ import annotations

from gems_runtime.cli import doctor, explain, ls, replay, show, status, verify, warm
from gems_runtime.cli.parser import Verb

VERBS: tuple[Verb, ...] = (
    warm.VERB,
    status.VERB,
    ls.VERB,
    show.VERB,
    explain.VERB,
    verify.VERB,
    replay.VERB,
    doctor.VERB,
)
