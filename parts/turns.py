"""What a stream says about one second, and how a second begins for several streams or for none."""
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StreamTurn:
    """What the model said about one second of a stream."""
    start: int                                           # seconds
    end: int
    state: str                                           # one of STATES
    probs: tuple[float, float, float]                    # of STATES, adding up to 1
    text: str                                            # of a response, else ""
    question: str | None                                 # asked in this turn
    ms: float                                            # from the frames at hand to the last word
    kv: tuple[int, int] = (0, 0)                         # slots of the cache: in use, in all
    cut: str | None = None               # the answer stops short: "length", or for a "question"
    notes: tuple[str, ...] = ()          # questions that were closed or refused, and why


@contextmanager
def all_or_none(sessions):
    """Sessions that hear of a new second: where one of them has no room for it, none has heard."""
    before = [(session, session.last, session.decision.last, session.compressor.kept,
               session.counts["frames compressed"]) for session in sessions]
    try:
        yield
    except BaseException:
        for session, last, told, kept, compressed in before:
            session.last, session.decision.last, session.compressor.kept = last, told, kept
            session.counts["frames compressed"] = compressed
            for question in session.book.all:
                if question.asked is not None and question.asked > last:
                    question.asked = None
        raise
    for session in sessions:
        session.book.untold.clear()
