"""What the store says to a call, without changing anything: which layer answers, or the nearest entry and how it differs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from gems_runtime import fingerprint, settings, tuner
from gems_runtime.jobs import Job
from gems_runtime.records import Json
from gems_runtime.settings import Mode


@dataclass(frozen=True)
class Answer:
    """What one launch of a tuned kernel would get. `source` is a layer, transferred, default, or only."""

    call: str
    kernel: str
    source: str
    config: dict[str, Json]
    key: str = ""
    nearest: str = ""
    differs: list[str] = field(default_factory=list)

    @property
    def is_stored(self) -> bool:
        return self.source not in ("default", "transferred")

    def fields(self) -> dict[str, Json]:
        return asdict(self)


def explain(job: Job) -> list[Answer]:
    """Run the job frozen; one answer for each tuned kernel that it launches and this process has not met."""
    found: list[Answer] = []
    with settings.override(tune=Mode.FROZEN), tuner.watching(lambda choice: found.append(_answer(job.label, choice))):
        job.run()
    return found


def _answer(call: str, choice: tuner.Choice) -> Answer:
    problem, config = choice.problem, fingerprint.config_fields(choice.config)
    if choice.source == "only":
        return Answer(call, problem.kernel, "only", config)
    try:
        key = problem.key
    except fingerprint.Unstable as error:
        return Answer(call, problem.kernel, choice.source, config, differs=[f"it can have no entry: {error}"])
    if choice.source == "stored":
        return Answer(call, problem.kernel, problem.layer(), config, key)
    near = problem.nearest()
    if near is None:
        return Answer(call, problem.kernel, choice.source, config, key)
    return Answer(call, problem.kernel, choice.source, config, key, near[0].key, near[1])
