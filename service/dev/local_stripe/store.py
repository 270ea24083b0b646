"""The data file: what localstripe holds in memory, and the idempotency keys."""

import logging
import pickle
import time
from pathlib import Path
from typing import Any

from localstripe.resources import Event, store

from service.dev.local_stripe.idempotency import IdempotencyKeys

_log = logging.getLogger(__name__)

# As long as Stripe shows them.
_EVENT_SECONDS = 30 * 86_400


class DataFile:
    """Keeps localstripe's store and `keys` in `path`, in place of its file in /tmp."""

    def __init__(self, path: Path, keys: IdempotencyKeys) -> None:
        self._path = path
        self._keys = keys
        # localstripe would write everything at each change of each object; save() is called once
        # a request instead.
        store.dump_to_disk = lambda: None

    def load(self) -> None:
        """Read the file; one that an older version wrote and this one cannot read is put aside."""
        try:
            kept: dict[str, Any] = pickle.loads(self._path.read_bytes())
            objects, saved = kept["objects"], kept["idempotency"]
        except FileNotFoundError:
            return
        except Exception:
            aside = self._path.with_suffix(".unreadable")
            self._path.replace(aside)
            _log.exception("cannot read the data, starting without; they are in %s", aside)
            return
        oldest = time.time() - _EVENT_SECONDS
        store.clear()
        store.update(
            (key, thing)
            for key, thing in objects.items()
            if not isinstance(thing, Event) or thing.created > oldest
        )
        self._keys.saved.update(saved)
        self._keys.prune()

    def save(self) -> None:
        """Write everything, whole or not at all."""
        unfinished = self._path.with_name(f"{self._path.name}.new")
        content = {"objects": dict(store), "idempotency": self._keys.saved}
        unfinished.write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
        unfinished.replace(self._path)

    def clear(self) -> None:
        """Forget everything."""
        store.clear()
        self._keys.saved.clear()
        self.save()
