"""How long a command waits for a server that is away, and what it says meanwhile.

A server that is away is not a thousand losses: whoever meets it asks again and again until it
answers, and the command gives up as a whole when the time is over. One `Patience` is shared by all
sessions and threads of a command, so that one thread asks while the others wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

DEFAULT_S = 30.0
"""For commands that only look: about what MLflow's own client would take."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_SAY_EVERY_S = 60.0

interrupted = threading.Event()
"""Set by whoever stops the program: nobody goes on waiting, and no thread keeps it alive."""


class Patience:
    """Waits for servers on behalf of one command.

    Args:
        limit_s: Seconds that a server may be away; 0 gives up at once.
        say: Gets a line when waiting begins, every minute, and when it ends.
        clock: Monotonic seconds.
        wait: Sleeps that many seconds; true when the program is being stopped.
    """

    def __init__(
        self,
        limit_s: float = DEFAULT_S,
        *,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] = interrupted.wait,
    ) -> None:
        self.limit_s = limit_s
        self.clock = clock
        self._say = say
        self._wait = wait
        self._asking = threading.Lock()
        self._gave_up = False

    def pause(self, seconds: float) -> bool:
        """Sleep, and tell whether there is any use in going on."""
        return not self._gave_up and not self._wait(seconds)

    def outlast(self, name: str, fault: str, answers: Callable[[], bool]) -> bool:
        """Wait until a server answers, and tell whether it does.

        Args:
            name: The server.
            fault: What has been seen of it, for the reader.
            answers: Asks it once.
        """
        with self._asking:
            if self._gave_up:
                return False
            if answers():
                return True
            began = said = self.clock()
            self._say(f"{name} is away ({fault}); waiting for it, {duration(self.limit_s)} at most")
            pause_s = _FIRST_PAUSE_S
            while (left_s := began + self.limit_s - self.clock()) > 0:
                if self._wait(min(pause_s, left_s)):
                    break
                if answers():
                    self._say(f"{name} is back after {duration(self.clock() - began)}; going on")
                    return True
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if self.clock() - said >= _SAY_EVERY_S:
                    said = self.clock()
                    self._say(f"{name} is still away after {duration(said - began)}")
            self._gave_up = True
            return False


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``45 s``, ``5 min``, ``1 h 30 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest_s} s" if rest_s else "")
    hours, rest = divmod(minutes, 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")
