"""Whether this peer works, pauses or goes home, as the people on its machine want it. Pure.

state      event                                   to        the shell
WORKING    somebody wants a pause                  PAUSING   asks the leader to go on without us
PAUSING    the leader does, or it took too long    PAUSED    drops its part, and is announced as away
PAUSED     nobody wants the pause any more         WORKING   is announced again, and comes back as a newcomer
WORKING    told to leave                           LEAVING   asks the leader to go on without us
PAUSING    told to leave                           LEAVING   has asked already
LEAVING    the leader does, or it took too long    GONE      ends
any        told to leave at once                   GONE      ends
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Attendance(enum.Enum):
    """What a peer does for the run."""

    WORKING = "working"
    PAUSING = "pausing"
    PAUSED = "paused"
    LEAVING = "leaving"
    GONE = "gone"


@dataclass(slots=True)
class Attending:
    """One peer's attendance, and who on its machine wants it to pause.

    Args:
        wishes: why each of those who want a pause does.
    """

    state: Attendance = Attendance.WORKING
    wishes: dict[str, str] = field(default_factory=dict)

    @property
    def is_away(self) -> bool:
        """Whether the run has nothing from us."""
        return self.state in (Attendance.PAUSED, Attendance.GONE)

    @property
    def is_going(self) -> bool:
        """Whether the leader was asked to go on without us, and did not answer yet."""
        return self.state in (Attendance.PAUSING, Attendance.LEAVING)

    @property
    def reason(self) -> str:
        """Why it pauses, for people; empty where nobody wants that."""
        return "; ".join(dict.fromkeys(self.wishes.values()))

    def pause(self, who: str, why: str) -> bool:
        """Somebody wants a pause; whether the leader has to be asked now."""
        self.wishes[who] = why
        if self.state is not Attendance.WORKING:
            return False
        self.state = Attendance.PAUSING
        return True

    def unpause(self, who: str) -> bool:
        """Somebody wants no pause any more; whether we are back at work. Who is still pausing first gets there."""
        self.wishes.pop(who, None)
        return self.comes_back()

    def comes_back(self) -> bool:
        """After a pause, where nobody wants it any more; whether we are back at work."""
        if self.state is not Attendance.PAUSED or self.wishes:
            return False
        self.state = Attendance.WORKING
        return True

    def leave(self) -> bool:
        """Go home in order, from work; whether the leader has to be asked now."""
        before = self.state
        if before in (Attendance.WORKING, Attendance.PAUSING):
            self.state = Attendance.LEAVING
        return before is Attendance.WORKING

    def leave_at_once(self) -> None:
        """Go home, whatever is in hand."""
        self.state = Attendance.GONE

    def let_go(self) -> Attendance:
        """The leader goes on without us, or cannot be waited for; what we are now."""
        if self.state is Attendance.PAUSING:
            self.state = Attendance.PAUSED
        elif self.state is Attendance.LEAVING:
            self.state = Attendance.GONE
        return self.state
