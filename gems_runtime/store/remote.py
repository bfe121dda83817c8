"""The Redis layer: results of other hosts. JSON text only, of limited size; a server that fails is left alone for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from gems_runtime.records import MAX_TEXT, SCHEMA

if TYPE_CHECKING:
    import redis

T = TypeVar("T")
_log = logging.getLogger(__name__)
TIMEOUT_S = 0.05
REST_S = 60.0
_PREFIX = f"gems:{SCHEMA}:"


class Remote:
    """Named texts on the Redis server at `url`. Where it does not answer, there is nothing: no call raises."""

    def __init__(self, url: str, takes_results: bool) -> None:
        self.url = url
        self.takes_results = takes_results
        self._client: redis.Redis | None = None
        self._rests_until = 0.0

    def get(self, name: str) -> str | None:
        """The text, or None. Raises ValueError for bytes that are no text."""
        # one byte more than a record may have: that is enough to refuse it, and a gigabyte is never fetched
        blob = self.ask(lambda client: client.getrange(_PREFIX + name, 0, MAX_TEXT))
        return blob.decode() if blob else None

    def put(self, name: str, text: str) -> None:
        """Keep the text there, if results are to be shared."""
        if self.takes_results:
            self.ask(lambda client: client.set(_PREFIX + name, text))

    def delete_all(self, names: Sequence[str]) -> None:
        """Forget these texts, if results are shared."""
        if self.takes_results and names:
            self.ask(lambda client: client.delete(*(_PREFIX + name for name in names)))

    def items(self) -> Iterator[tuple[str, str | None]]:
        """Nothing: a server shared by a cluster is not listed."""
        return iter(())

    def answers(self) -> bool:
        """True if the server answers now."""
        return bool(self.ask(lambda client: client.ping()))

    def ask(self, act: Callable[[redis.Redis], T]) -> T | None:
        """What the server says, or None if it does not, or has not a short while ago."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            # 0.1 s to import, and most users have no server
            import redis
        except ImportError:
            return self._rest("the redis package is missing; install gems-runtime[redis]", float("inf"))
        try:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None, retry_on_error=[]
                )
            return act(self._client)
        except (redis.RedisError, OSError, ValueError) as error:  # ValueError: a url that is none
            return self._rest(str(error), REST_S)

    def _rest(self, problem: str, seconds: float) -> None:
        self._rests_until = time.monotonic() + seconds
        _log.warning("the Redis server %s is not asked for %.0f s: %s", _without_password(self.url), seconds, problem)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
